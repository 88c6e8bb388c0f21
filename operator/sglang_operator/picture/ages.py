"""Ages and times for people."""

from datetime import UTC, datetime


def age(seconds: float) -> str:
    """As kubectl writes ages: 42s, 7m, 5h, 12d."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size * 2 or (unit == "d" and whole >= size):
            return f"{whole // size}{unit}"
    return f"{whole}s"


def when(now: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
