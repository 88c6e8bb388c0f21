"""Ages and times for people."""

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_YEAR = 365 * _DAY
# Up to which age which units are written, as in k8s.io/apimachinery/pkg/util/duration.
_SHOWN = (
    (2 * _MINUTE, "s", 1, "", 1),
    (10 * _MINUTE, "m", _MINUTE, "s", 1),
    (3 * _HOUR, "m", _MINUTE, "", 1),
    (8 * _HOUR, "h", _HOUR, "m", _MINUTE),
    (2 * _DAY, "h", _HOUR, "", 1),
    (8 * _DAY, "d", _DAY, "h", _HOUR),
    (2 * _YEAR, "d", _DAY, "", 1),
    (8 * _YEAR, "y", _YEAR, "d", _DAY),
)


def age(seconds: float) -> str:
    """As kubectl writes ages: 42s, 3m20s, 25m, 5h10m, 12d."""
    whole = max(0, int(seconds))
    for limit, unit, size, rest, smaller in _SHOWN:
        if whole < limit:
            left = whole % size // smaller if rest else 0
            return f"{whole // size}{unit}" + (f"{left}{rest}" if left else "")
    return f"{whole // _YEAR}y"


def since(time: str, now: float) -> str:
    """How long ago a time was, as the API server writes it."""
    try:
        return age(now - datetime.fromisoformat(time).timestamp())
    except ValueError:
        return "<unknown>"


def when(now: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
