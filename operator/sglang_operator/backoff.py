"""How long the next try waits."""

from dataclasses import dataclass

_DOUBLINGS = 30  # so that a long-dead thing does not overflow the arithmetic


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds from ``first`` to ``most``, twice as long after each try.

    ``jitter`` is the part of each pause that chance may take away.
    """

    first: float
    most: float
    jitter: float = 0.0

    def pause(self, tries: int, chance: float = 0.0) -> float:
        """Seconds until the next try after so many before it; ``chance`` is from 0 to 1."""
        grown = min(self.most, self.first * 2 ** min(tries, _DOUBLINGS))
        return float(grown * (1.0 - self.jitter * chance))
