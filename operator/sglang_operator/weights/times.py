"""Times as Leases and messages have them.  Standard library only."""

from datetime import UTC, datetime

from sglang_operator.api import bounds


def seconds(text: object) -> float:
    """An RFC 3339 time as seconds since the epoch; 0 for anything else, and for other centuries."""
    if not isinstance(text, str):
        return 0.0
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return bounds.moment((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def micro_time(now: float) -> str:
    """A time as Kubernetes' MicroTime."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stamp(moment: float) -> str:
    """The same where there is one: nothing for 0."""
    return micro_time(moment) if moment else ""


def shown(moment: float) -> str:
    """A time in a message: UTC, to the second."""
    if not moment:
        return "an unknown time"
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
