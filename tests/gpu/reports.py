"""One file for the figures of several runs: each adds what it ran, in the place of what was."""

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# What makes a run another: figures of two machines do not stand in one table.
SAME = ("card", "driver", "stand_in", "sglang", "torch", "kubernetes")
SKIPPED = "skipped"


def merged(
    before: Mapping[str, Any] | None, facts: Mapping[str, Any], results: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The report with the results of one more run; a skip takes the place of nothing that ran.

    Raises ValueError if the report is of another machine or of other versions.
    """
    before = before or {"tests": []}
    differs = [key for key in SAME if key in before and before[key] != facts[key]]
    if differs:
        key = differs[0]
        raise ValueError(f"the report is of {key} {before[key]!r}, this run of {facts[key]!r}")
    tests = {each["test"]: each for each in before["tests"]}
    for result in results:
        if result["outcome"] != SKIPPED or result["test"] not in tests:
            tests[result["test"]] = dict(result)
    cards = max(facts["cards"], before.get("cards", 0))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, **facts, "cards": cards, "tests": list(tests.values())}


def add(file: Path, facts: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> None:
    """Add a run to a file; raises ValueError as ``merged`` does."""
    before = json.loads(file.read_text()) if file.exists() else None
    file.write_text(json.dumps(merged(before, facts, results), indent=2) + "\n")
