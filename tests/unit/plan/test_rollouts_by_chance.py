"""Rollouts in which anything happens at any time: they keep their promises, and they end."""

import random
from typing import Any

import pytest

from tests.unit.plan.rollout_world import World
from tests.unit.plan.test_rollout_tables import _ends, _keeps_its_promises

STEPS = 40
SEEDS = range(20)
POOLS: dict[str, dict[str, Any]] = {
    "in place": {"rollout": {"maxUnavailable": 1}},
    "half at a time": {"rollout": {"maxUnavailable": "50%"}},
    "one beside": {"rollout": {"maxSurge": 1}},
    "half beside": {"rollout": {"maxSurge": "50%", "maxUnavailable": 2}},
    "of two pods": {"engines": 3, "pods": 2, "rollout": {"maxSurge": 1}},
    "gated": {"gated": True, "rollout": {"maxUnavailable": 2}},
    "gated, one beside": {"gated": True, "rollout": {"maxSurge": 1}},
    "between steps": {"gated": True, "rollout": {"window": "BetweenSteps", "maxUnavailable": 2}},
    "beside, between steps": {
        "gated": True,
        "weights": {"recovery": "FromCheckpoint"},
        "rollout": {"window": "BetweenSteps", "maxSurge": 1},
    },
    "gated, of two pods": {"gated": True, "engines": 3, "pods": 2, "rollout": {"maxSurge": 1}},
}


def _walk(chance: random.Random, world: World) -> None:
    """One step of a world that is out of luck."""
    what = chance.choices(
        ("nothing", "up", "fails", "dies", "misses", "deleted", "time", "phase", "spec", "room"),
        (4, 12, 3, 1, 2, 1, 4, 2, 2, 2),
    )[0]
    there = [pod for pod in world.pods if pod.node and not pod.ended and world.is_whole(pod)]
    starting = [pod for pod in there if not pod.containers_ready]
    running = [pod for pod in there if pod.containers_ready]
    among = {"up": starting, "fails": starting, "dies": running, "misses": running}
    if what in among or what == "deleted":
        pods = among.get(what, there)
        words = {"misses": "misses a probe", "deleted": "is deleted"}
        if pods:
            pod = chance.choice(pods)
            mates = [p for p in there if (p.engine, p.attempt) == (pod.engine, pod.attempt)]
            if len(mates) == pod.nodes:
                world.becomes(pod.engine, pod.attempt, words.get(what, what))
    elif what == "time":
        world.happens(f"{chance.choice((5, 20, 200))} s")
    elif what == "phase":
        world.happens(chance.choice(("sync", "sleep", "free", "commit")))
    elif what == "spec":
        rollout = dict(world.spec.get("rollout") or {})
        rollout["paused"] = chance.random() < 0.3
        world.change({"rollout": rollout, "seed": chance.choice((7, 8))})
    elif what == "room":
        world.happens(f"room {chance.choice((0, 0, 1, 4))}")


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("seen", [None, 2], ids=["nodes unread", "nodes read"])
def test_whatever_happens_a_rollout_keeps_its_promises_and_ends(name, seen):
    for seed in SEEDS:
        chance = random.Random(seed)
        room = chance.choice((0, 1, 4))
        world = World({"pool": dict(POOLS[name]), "room": room, "seen": seen})
        for _ in range(STEPS):
            _walk(chance, world)
            made = world.plan()
            _keeps_its_promises(world, made)
            world.carry_out(made)
        world.happens("free")
        world.change({"rollout": {**POOLS[name]["rollout"], "paused": False}})
        world.forget_failures()
        _ends(world, 40)
