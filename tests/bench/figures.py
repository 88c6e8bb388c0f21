"""Figures: what was measured, round by round, and how it stands to its target."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Figure:
    """One line of the table.  ``most`` or ``least`` is its target; without one it is reported."""

    name: str
    values: list[float] = field(default_factory=list)  # one of each round
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median is within the target; None without a target."""
        if self.most is not None:
            return self.median <= self.most
        if self.least is not None:
            return self.median >= self.least
        return None

    def cells(self) -> tuple[str, ...]:
        spread = f"{_number(min(self.values))}–{_number(max(self.values))}"
        target = ""
        if self.most is not None:
            target = f"≤ {_number(self.most)}"
        elif self.least is not None:
            target = f"≥ {_number(self.least)}"
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        rounds = str(len(self.values))
        return self.name, _number(self.median), spread, self.unit, rounds, target, verdict

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "median": self.median, "met": self.met}


def ratio(
    name: str, above: Sequence[float], below: Sequence[float], **target: float | None
) -> Figure:
    """The quotients of what was measured in the same rounds."""
    quotients = [a / b for a, b in zip(above, below, strict=True)]
    return Figure(name=name, values=quotients, unit="×", **target)


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


HEAD = ("figure", "median", "range", "", "rounds", "target", "")


def table(figures: Sequence[Figure]) -> str:
    """The figures as text."""
    lines = [HEAD, *(figure.cells() for figure in figures if figure.values)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in (0, 3, 6) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
