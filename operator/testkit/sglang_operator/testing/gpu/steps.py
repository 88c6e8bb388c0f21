"""The steps of the demo: each has a bound, is timed, and says where and why it failed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from sglang_operator.client import PoolError
from sglang_operator.testing import errors

# What a step that waits says by itself, and better, gets this much more time.
GRACE_SECONDS = 5.0


@dataclasses.dataclass(kw_only=True)
class Step:
    """One step: how long it took, what was seen, and figures for programs."""

    title: str
    bound: float
    seconds: float = 0.0
    seen: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


class Steps:
    """The steps so far; ``diagnosis`` is asked for more words when one fails."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.done: list[Step] = []
        self.failed: str | None = None  # the step that did not come to its end
        self.diagnosis: Callable[[], str] = lambda: ""

    @contextlib.contextmanager
    def step(self, title: str, bound: float) -> Iterator[Step]:
        """Run what stands under it, for ``bound`` seconds at most.

        Raises KitError that names the step, with the diagnosis.
        """
        step = Step(title=title, bound=bound)
        number = len(self.done) + 1
        self._console.print(f"[bold]{number}[/] {title}", highlight=False)
        begun, self.failed = time.monotonic(), title
        try:
            with _alarm(bound + GRACE_SECONDS, f"no end after {bound:g} s"):
                yield step
        except (errors.KitError, PoolError, OSError) as error:
            seconds = time.monotonic() - begun
            raise errors.KitError(self._failed(step, number, seconds, error)) from error
        step.seconds, self.failed = time.monotonic() - begun, None
        self.done.append(step)
        said = f"; {step.seen}" if step.seen else ""
        self._console.print(f"  {step.seconds:.1f} s{said}", highlight=False, markup=False)

    def _failed(self, step: Step, number: int, seconds: float, error: Exception) -> str:
        try:
            more = self.diagnosis()
        except (errors.KitError, OSError) as second:
            more = f"(nothing more can be seen: {second})"
        first = f"step {number}, {step.title}, failed after {seconds:.1f} s: {error}"
        return f"{first}\n{more}".rstrip()

    def table(self) -> Table:
        """Seconds for each step."""
        table = Table(box=None, padding=(0, 1), title="seconds", title_justify="left")
        for column in ("", "step", "s", "seen"):
            table.add_column(column, overflow="fold", justify="right" if column == "s" else "left")
        for number, step in enumerate(self.done, start=1):
            table.add_row(str(number), step.title, f"{step.seconds:.2f}", step.seen)
        return table

    def report(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """All figures, for a file."""
        now = datetime.datetime.now(datetime.UTC)
        return {
            "date": now.date().isoformat(),
            **facts,
            "failed": self.failed,
            "steps": [
                {
                    "step": step.title,
                    "seconds": round(step.seconds, 3),
                    "seen": step.seen,
                    **step.figures,
                }
                for step in self.done
            ],
        }

    def write(self, file: Path, facts: Mapping[str, Any]) -> None:
        """Write the report as JSON."""
        file.write_text(json.dumps(self.report(facts), indent=2) + "\n")


@contextlib.contextmanager
def _alarm(seconds: float, text: str) -> Iterator[None]:
    """Interrupt what stands under it by WaitTimeoutError after so many seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise errors.WaitTimeoutError(text)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
