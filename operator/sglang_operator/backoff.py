"""How long the next try waits."""


def grown(limits: tuple[float, float], tries: int) -> float:
    """Seconds between the first and the most of ``limits``: twice as long after each try before."""
    first, most = limits
    return float(min(most, first * 2 ** min(tries, 10)))
