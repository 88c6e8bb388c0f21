"""How long requests took, as the histograms that SGLang keeps."""

import bisect
from dataclasses import dataclass, field

# Seconds; SGLang's own are finer.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass
class Histogram:
    """Counts of what was at most so long."""

    total: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration, so many times over."""
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += times
        self.total += seconds * times

    def lines(self, name: str, labels: str) -> list[str]:
        """The exposition of this histogram; nothing of one that is empty."""
        count = sum(self.counts)
        if not count:
            return []
        lines, so_far = [f"# HELP {name} {name}", f"# TYPE {name} histogram"], 0
        for bound, found in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            so_far += found
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {float(so_far)}')
        return [
            *lines,
            f"{name}_sum{{{labels}}} {self.total}",
            f"{name}_count{{{labels}}} {float(count)}",
        ]


@dataclass
class Latencies:
    """Of all requests that were not health checks."""

    first_token: Histogram = field(default_factory=Histogram)
    between_tokens: Histogram = field(default_factory=Histogram)
    whole: Histogram = field(default_factory=Histogram)

    def progressed(self, age: float, before: int, generated: int, since: float) -> None:
        """A request has more tokens: ``age`` since it came, ``since`` the ones before; seconds."""
        new = generated - before
        if before == 0 and new:
            self.first_token.observe(age)
            new -= 1
        if new:
            self.between_tokens.observe(since / new, new)
