"""Rollouts, replayed step by step from tables that everybody can extend (rollouts/README.md)."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_operator.plan.plan import Plan
from tests import structural
from tests.unit.plan.rollout_world import World

FOLDER = Path(__file__).parent / "rollouts"
CASE_KEYS = {"name", "pool", "room", "seen", "without", "closed", "steps", "ends"}
STEP_KEYS = {"when", "spec", "then", "waits", "told"}


def _cases() -> list[Any]:
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for case in yaml.load(path.read_text(), Loader=structural.LOADER):
            found.append(pytest.param(case, id=f"{path.stem}: {case['name']}"))
    return found


CASES = _cases()


@pytest.mark.parametrize("case", CASES)
def test_a_rollout_goes_as_its_table_says(case: dict[str, Any]) -> None:
    assert case.keys() <= CASE_KEYS
    world = World(case)
    for number, step in enumerate(case["steps"], 1):
        assert step.keys() <= STEP_KEYS, f"step {number}"
        for event in step.get("when", ()):
            world.happens(event)
        if "spec" in step:
            world.change(step["spec"])
        made = world.plan()
        assert world.actions(made) == sorted(step.get("then", ())), f"step {number}"
        waits = made.waiting.what.value if made.waiting else None
        assert waits == step.get("waits"), f"step {number}"
        if "told" in step:
            assert world.reason(made) == step["told"], f"step {number}"
        _keeps_its_promises(world, made)
        world.carry_out(made)
    if "ends" in case:
        _ends(world, case["ends"])


def _ends(world: World, rounds: int) -> None:
    """Played on, it comes to rest with all engines on the new revision, in so many rounds."""
    for _ in range(rounds):
        for _ in range(3):  # what follows from what was just done
            made = world.plan()
            _keeps_its_promises(world, made)
            world.carry_out(made)
        if world.updated and not made.creates and not made.removals:
            return
        world.comes_up()
    told = [f"{p.name} {p.revision} {p.node or p.unschedulable or p.phase}" for p in world.pods]
    raise AssertionError(f"not at rest after {rounds} rounds: {told}")


def _keeps_its_promises(world: World, made: Plan) -> None:
    """What holds at each step of every rollout, whatever its table says."""
    pool, active = world.pool, world.pool.active
    gone = [removal.pod.uid for removal in made.removals]
    before, after = world.serving(), world.serving(gone)
    assert after >= min(before, active - pool.max_unavailable), "more away than maxUnavailable"
    if world.phase in ("Syncing", "Sleeping"):
        assert after == before, "an engine goes that the trainer has"
    if world.phase in ("Syncing", "Sleeping") or pool.spec.rollout.paused:
        assert not world.running(gone), "one that runs goes in the trainer's turn, or in a pause"
    if world.amid:
        away = [r.pod.name for r in made.removals if r.replaced and r.pod.ready]
        assert not away, "an engine that serves goes in the middle of a step"
    most = max(world.groups(), active + pool.max_surge)
    new = {(create.engine.name, create.attempt) for create in made.creates}
    assert world.groups(gone, new) <= most, "more than maxSurge"


def test_there_are_tables_for_all_that_a_rollout_may_be_told():
    assert len(CASES) >= 30
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names)
