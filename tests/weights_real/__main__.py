"""``make weights-real``: interleavings on real nodes, and what clients were told meanwhile."""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.realnode import kitimages
from tests.builders import with_config
from tests.integration.pools import PoolUnderTest
from tests.mutants.planted import source_root
from tests.weights_real import steps
from tests.weights_real.exploring import explore, recovered, table
from tests.weights_real.jobs import COMMITTED, WRITES
from tests.weights_real.plane import in_network, operators
from tests.weights_real.planted import LOADS_OUTSIDE, OPENS_AT_BEGIN, STARTS_ANYWAY
from tests.weights_real.pool_runs import Result, Roll, Turns, Variant
from tests.weights_real.roll_worker import JOINED, UNFENCED, UNVOUCHED
from tests.weights_real.turn_runs import TURN
from tests.weights_real.turn_trainer import COMMITS_EARLY, TAKES_EARLY

NODE = "1x32"
POOLS = 3
# Ways in which the design could be wrong: each has to be found.
CONTROLS = {
    "no gate": Variant(gate="Off"),
    "does not pause": Variant(pauses=False, bucket_seconds=0.3),
    "does not flush": Variant(program="sync", flushes=False),
    "Versioned, the version in every bucket": Variant(
        gate="Versioned", program="strange", labels_buckets=True, bucket_seconds=1.5
    ),
}
# The same of ROLL's workers, who write into one sync.
ROLL_CONTROLS = {
    "roll: nobody vouches": Variant(roll=Roll(defect=UNVOUCHED, leaves_out=True)),
    "roll: a group is not asked who is in it": Variant(
        roll=Roll(defect=UNVOUCHED, aimed=(JOINED, "pool grows"), grows=True)
    ),
    "roll: workers without a fence": Variant(
        roll=Roll(defect=UNFENCED, aimed=(WRITES, "others go on"))
    ),
}
# The same of trainers on the engines' GPUs.
TURN_CONTROLS = {
    f"turns: {defect}": Variant(turns=Turns(defect=defect, program="step"))
    for defect in (TAKES_EARLY, COMMITS_EARLY)
}
# The same of the operator, and trainers among whom it shows.
MUTANTS = {
    # Between the Lease, by which it begins, and the pause of the first engine, one of which is new.
    "opens at begin": (OPENS_AT_BEGIN, Variant(program="sync", aimed=(8, "trainer stands still"))),
    "loads outside the Lease": (LOADS_OUTSIDE, Variant(program="sync", recovers=True)),
    "turns: starts engines whoever's turn it is": (
        STARTS_ANYWAY,
        Variant(turns=Turns(program="turn", aimed="engine killed", train_seconds=8.0)),
    ),
}
# What these are found by is no answer: moments at which engine and trainer held one memory.
BY_MEMORY = (f"turns: {TAKES_EARLY}", "turns: starts engines whoever's turn it is")
READY_SECONDS = 120.0


@contextlib.contextmanager
def _operators(
    plane: ControlPlane, source: Path | None = None
) -> Iterator[list[InstalledOperator]]:
    made = operators(plane, source)
    try:
        yield made
    finally:
        for operator in made:
            if operator.pid:
                operator.kill()


def _steps(plane: ControlPlane, count: int) -> steps.Steps:
    """Twelve engines through steps of training, with one operator."""
    with InstalledOperator(plane):
        pool = PoolUnderTest(plane, plane.namespace("steps"))
        pool.apply(**with_config(enable_memory_saver=True))
        pool.wait_ready(READY_SECONDS)
        found: steps.Steps = in_network(plane, lambda: steps.measure(plane, pool, count))
        pool.delete()
        return found


def is_found(name: str, results: Sequence[Result]) -> bool:
    """Whether a control was, by what it is to be found by."""
    return any(r.both if name in BY_MEMORY else r.told.wrong for r in results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=110)
    parser.add_argument("--roll-runs", type=int, default=60, help="with jobs of ROLL as trainers")
    parser.add_argument("--turn-runs", type=int, default=60, help="on the trainer's own GPUs")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--pools", type=int, default=POOLS, help="pools side by side")
    parser.add_argument("--control-runs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50, help="of training, on twelve engines")
    parser.add_argument("--only", help="a control's name, 'design', 'roll', 'turns' or 'steps'")
    options = parser.parse_args()
    tables, failed = [], False

    def told(text: str) -> None:
        tables.append(text)
        print(f"\n{text}\n", flush=True)

    with ControlPlane(NODE, kind="real") as plane:
        plane.load_image(kitimages.default_engine())

        def ran(
            name: str, variant: Variant, made: list[InstalledOperator], runs: int
        ) -> list[Result]:
            begun = time.monotonic()
            seeds = range(options.seed, options.seed + runs)
            short = "-".join(re.findall("[a-z]+", name.lower())[:3])
            found: list[Result] = in_network(
                plane,
                lambda: explore(plane, made, variant, seeds, name=short, pools=options.pools),
            )
            told(f"{table(name, found)}\n{time.monotonic() - begun:.0f} s")
            return found

        wanted = options.only
        with _operators(plane) as made:
            if wanted in (None, "design"):
                found = ran("the design", Variant(), made, options.runs)
                failed |= any(result.found for result in found) or not recovered(found)
            if wanted in (None, "roll"):
                found = ran("ROLL's jobs", Variant(roll=Roll()), made, options.roll_runs)
                failed |= any(result.found for result in found)
                failed |= not sum(result.outcomes[COMMITTED] for result in found)
            if wanted in (None, "turns"):
                found = ran("turns", Variant(turns=Turns()), made, options.turn_runs)
                failed |= any(result.found for result in found)
                failed |= not sum(result.outcomes[TURN] for result in found)
            for name, variant in {**CONTROLS, **ROLL_CONTROLS, **TURN_CONTROLS}.items():
                if wanted in (None, name):
                    found = ran(f"control: {name}", variant, made, options.control_runs)
                    failed |= not is_found(name, found)
        if wanted in (None, "steps"):
            measured = _steps(plane, options.steps)
            told(measured.table())
            failed |= not measured.good
        for name, (mutant, variant) in MUTANTS.items():
            if wanted in (None, name):
                with source_root(mutant) as source, _operators(plane, source) as made:
                    found = ran(f"control: {name}", variant, made, options.control_runs)
                    failed |= not is_found(name, found)
    print("\n" + "\n\n".join(tables))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
