"""F18 of engines of several pods: each of them ends in each way, and nobody else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sglang_operator.testing.faults import reference
from tests.faults.kills import GROUPS
from tests.faults.lab import FaultPool, Lab, Result
from tests.faults.points import judged
from tests.faults.surroundings import WAYS, remembered

RANKS = (0, 1)
ENGINE = "g16-31"  # of three
UNGATED = {"gate": "Off"}


def three(pool: FaultPool) -> None:
    pool.create(**GROUPS, replicas=3, weights=UNGATED)


def dying_members(lab: Lab) -> Iterator[Result]:
    """F18: leader and follower, deleted, force-deleted, evicted and failed."""
    for name, strike in WAYS.items():
        for rank in RANKS:
            result = Result(point=f"pod of node rank {rank} {name}")
            yield judged(lab, result, three, _struck(strike, f"pool-{ENGINE}-0n{rank}"))


def _struck(
    strike: Callable[[FaultPool, str], None], victim: str
) -> Callable[[Lab, FaultPool], list[str]]:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        before = _members(pool)
        strike(pool, victim)
        lab.wait(lambda: (ENGINE, 0, 0) not in _members(pool), "the engine to go")
        problems = lab.settle(pool)
        after = _members(pool)
        others = {key: uid for key, uid in before.items() if key[0] != ENGINE}
        if not others.items() <= after.items():
            problems.append("an engine that was well was touched")
        if before.items() & (after.items() - others.items()):
            problems.append("a pod of the engine is still there")
        return problems + remembered(pool, strike, {victim})

    return act


def _members(pool: FaultPool) -> dict[tuple[str, int, int], str]:
    """UIDs of the pods that stay, by engine, attempt and node rank."""
    return {
        (pod["metadata"]["labels"]["sglang-operator.dev/engine"], *reference.attempt(name)): pod[
            "metadata"
        ]["uid"]
        for name, pod in pool.pods().items()
        if "deletionTimestamp" not in pod["metadata"]
        and pod["status"].get("phase") not in ("Failed", "Succeeded")
    }
