"""``python -m tests.mutants``: each mutant runs under the points that are to catch it.

The same points are run on the package as it is first: what they catch there proves nothing.  Before
them come the mutants that are generated: every write to the API server without each of its guards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from sglang_operator.testing import ControlPlane, roots
from tests.faults.__main__ import scenarios
from tests.faults.lab import NODES, Lab, lab
from tests.mutants.catalogue import MUTANTS, Mutant
from tests.mutants.killers import KILLERS, MODEL, UNIT, Killer
from tests.mutants.planted import SOURCE, source_root
from tests.writes import check

MODEL_STEPS = 40_000


def caught(lab: Lab, killers: Iterable[Killer], package: Path | None) -> str:
    """What the first point that catches it says; "" if none does."""
    for killer in killers:
        if killer == MODEL:
            problem = _walk(package)
        elif killer.fault == UNIT:
            problem = _tests(killer.point, package)
        else:
            problem = _explore(lab, killer, package)
        if problem:
            return f"{killer.fault}: {problem}"
    return ""


def _explore(lab: Lab, killer: Killer, package: Path | None) -> str:
    lab.replace_operator(package)
    lab.only = killer.point
    ran = 0
    try:
        for result in scenarios()[killer.fault](lab):
            ran += not result.skipped
            if result.problems:
                return f"{result.point}: {result.problems[0][:160]}"
    finally:
        lab.only = ""
    assert ran, f"no point of {killer.fault} has {killer.point!r} in its name"
    return ""


def _walk(package: Path | None) -> str:
    """The walks of the planner, in a process that imports it from there."""
    sources = (package or roots.OPERATOR.parent, roots.KIT.parent, Path.cwd())
    search = os.pathsep.join(map(str, sources))
    walks = ["--only=model", "--first", f"--steps={MODEL_STEPS}"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults", *walks],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    told = [line.strip() for line in ran.stdout.splitlines() if "model:" in line]
    return told[0][:160] if ran.returncode and told else ran.stderr[-160:] if ran.returncode else ""


def _tests(file: str, package: Path | None) -> str:
    """The first test of this file that fails, in a process that imports the package from there."""
    root = str(package or SOURCE)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-o", f"pythonpath={root}", file]
    environment = {**os.environ, "PYTHONPATH": root}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode == 0:
        return ""
    failed = [line for line in ran.stdout.splitlines() if line.startswith("FAILED")]
    return (failed[0] if failed else ran.stdout[-160:] + ran.stderr[-160:])[:160]


def run(lab: Lab, mutants: Sequence[Mutant]) -> list[str]:
    """Try these mutants; what is wrong with the suite."""
    wrong, blunt = [], set()
    for killer in sorted({killer for mutant in mutants for killer in KILLERS[mutant.name]}):
        if problem := caught(lab, [killer], None):
            blunt.add(killer)
            wrong.append(f"no mutant at all: {problem}")
            print(wrong[-1], flush=True)
    for mutant in mutants:
        begun = time.monotonic()
        with source_root(mutant) as package:
            killers = [killer for killer in KILLERS[mutant.name] if killer not in blunt]
            problem = caught(lab, killers, package)
        took = time.monotonic() - begun
        print(
            f"{mutant.name:28} {took:4.0f} s  {problem or 'SURVIVED: ' + mutant.harm}", flush=True
        )
        if not problem:
            wrong.append(f"{mutant.name} survived: {mutant.harm}")
    lab.replace_operator(None)
    return wrong


def run_generated() -> list[str]:
    """Every write without each of its guards; what is wrong with the suite."""
    wrong = list(check.problems())
    for mutant in check.mutants():
        problems = check.problems(mutant)
        print(f"{mutant!s:70} {problems[0] if problems else 'SURVIVED'}", flush=True)
        if not problems:
            wrong.append(f"{mutant} survived")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Try all of them; 1 if one survives, or if a point fails without any."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="mutants with one of these texts")
    only = parser.parse_args(argv).only
    mutants = [mutant for mutant in MUTANTS if any(text in mutant.name for text in only)]
    wrong = run_generated()
    with ControlPlane(NODES) as plane, lab(plane) as made:
        wrong += run(made, mutants)
    generated = sum(1 for _ in check.mutants())
    print(f"{len(mutants)} mutants and {generated} generated ones, {len(wrong)} problems")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
