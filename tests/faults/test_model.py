"""The planner against a model of the world: random walks, shrunk to the shortest that fails.

``FAULT_STEPS`` is how many steps the long run takes, ``FAULT_SEED`` where the short one begins.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.faults.model import STANDING, GroupModel, GroupSurgeModel, Model, SurgeModel

SHORT_STEPS = 20_000
WALK = 64  # steps of one rule, at most
RULES = 8  # of one example
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
KIND = st.tuples(st.sampled_from(sorted(STANDING)), st.sampled_from(["n0", "n2"]), st.booleans())
BOTH = st.booleans()
Kinds = list[tuple[str, str, bool]]

taken = 0


class Walks(RuleBasedStateMachine):
    """Walks of one world; at the end it is left alone and must come to rest."""

    World = Model

    def __init__(self) -> None:
        super().__init__()
        self.model = self.World()

    @rule(walk=st.binary(min_size=8, max_size=WALK))
    def walk(self, walk: bytes) -> None:
        global taken
        taken += len(walk)
        for byte in walk:
            self.model.step(byte)

    @rule(times=st.integers(1, 8))
    def work(self, times: int) -> None:
        """The operator and the kubelets get to do their work."""
        global taken
        taken += times
        for _ in range(times):
            self.model.step(0)
            self.model._kubelets(act=True)

    @rule(kinds=st.lists(KIND, min_size=1, max_size=6), lost=BOTH, waits=BOTH, twice=BOTH)
    def upset(self, kinds: Kinds, lost: bool, waits: bool, twice: bool) -> None:
        global taken
        taken += 2
        self.model.upset(kinds, lost=lost, waits=waits, twice=twice)
        self.model.step(0)

    def teardown(self) -> None:
        self.model.settle()


def run(steps: int, begin: int = 0, world: type[Model] = Model) -> tuple[int, float]:
    """Walk at least so many steps; how many, and in how many seconds.  Raises on a failure."""
    global taken
    taken, begun, number = 0, time.monotonic(), begin
    how = settings(
        max_examples=200,
        stateful_step_count=RULES,
        deadline=None,
        database=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    while taken < steps:
        machine = seed(number)(type("Walks", (Walks,), {"World": world}))
        run_state_machine_as_test(machine, settings=how)
        number += 1
    return taken, time.monotonic() - begun


@pytest.mark.parametrize("world", [Model, GroupModel, SurgeModel, GroupSurgeModel])
def test_the_planner_keeps_its_promises_and_comes_to_rest_on_random_walks(world):
    steps = int(os.environ.get("FAULT_STEPS", SHORT_STEPS))
    taken, _ = run(steps, int(os.environ.get("FAULT_SEED", "0")), world)
    assert taken >= steps
