"""Rollouts and regroupings of a full pool on a real control plane: 24 GPUs, none to spare."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("3x8", quiet=True)

LOADED = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
MINUTES = 180.0


def engines(size: int) -> list[str]:
    return sorted(f"g{first}-{first + size - 1}" for first in range(0, 24, size))


def is_regrouped(pool: PoolUnderTest, size: int) -> bool:
    return pool.is_ready() and sorted(pool.uids()) == engines(size)


def test_a_full_pool_that_serves_nobody_is_regrouped_at_once(pool):
    pool.apply()
    pool.wait_ready()
    pool.patch({"num_gpus_per_worker": 4})
    pool.wait(lambda: is_regrouped(pool, 4), "six engines of four GPUs", MINUTES)


def test_a_full_pool_that_serves_is_regrouped_or_says_which_command_helps(pool):
    pool.apply(strategy_args=LOADED, drain={"gracePeriodSeconds": 1})
    pool.wait_ready()
    pool.patch({"num_gpus_per_worker": 4})

    def stalled() -> str:
        found = conditions.find(pool.status["conditions"], conditions.STALLED) or {}
        return str(found["message"]) if found.get("reason") == conditions.NO_ROOM else ""

    pool.wait(lambda: is_regrouped(pool, 4) or stalled(), "an end, or its reason", MINUTES)
    if message := stalled():
        command = message[message.index("kubectl patch") :].removeprefix("kubectl ")
        *words, patch = command.replace("'", "").split(" ", 6)
        pool.kubectl(*words, patch)
    pool.wait(lambda: is_regrouped(pool, 4), "six engines of four GPUs", MINUTES)


def test_engines_whose_gates_are_closed_are_all_replaced_at_once(pool):
    pool.apply()
    before = pool.wait_ready()
    pool.patch({"seed": 7})
    pool.wait(
        lambda: pool.is_ready() and not set(pool.uids().values()) & set(before.values()),
        "twelve new engines",
    )


def test_a_revision_that_admission_refuses_touches_no_engine(pool):
    pool.apply(device_mapping="list(range(0,8))")
    before = pool.wait_ready()
    pool.patch({"scheduling": {"priorityClassName": "none-such"}})
    told = pool.wait_for(conditions.STALLED, conditions.POD_REJECTED)
    assert "no PriorityClass with name none-such was found" in told["message"]
    assert "the engines run on" in told["message"]
    assert pool.uids() == before
    pool.patch({"scheduling": None})
    pool.wait_ready()
    assert pool.uids() == before


def serving(pool: PoolUnderTest) -> set[str]:
    """The engines that clients reach."""
    alive = [pod for pod in pool.pods() if "deletionTimestamp" not in pod["metadata"]]
    ready = [pod for pod in alive if _is_true(pod, "Ready")]
    return {pod["metadata"]["labels"][names.LABEL_ENGINE] for pod in ready}


def _is_true(pod: dict[str, Any], type_: str) -> bool:
    found = (c for c in pod["status"].get("conditions", []) if c["type"] == type_)
    return any(condition["status"] == "True" for condition in found)


def test_new_engines_come_first_where_there_is_room_and_all_serve_meanwhile(pool):
    pool.apply(
        device_mapping="list(range(0,8))",
        strategy_args=LOADED,
        rollout={"maxSurge": 1, "progressDeadlineSeconds": 600},
        drain={"gracePeriodSeconds": 1},
    )
    before = pool.wait_ready()
    pool.wait(lambda: len(serving(pool)) == 4, "all engines to serve")
    pool.patch({"seed": 7})
    fewest = 4

    def done() -> bool:
        nonlocal fewest
        fewest = min(fewest, len(serving(pool)))
        return pool.is_ready() and not set(pool.uids().values()) & set(before.values())

    pool.wait(done, "four new engines", MINUTES)
    assert fewest == 4
    assert {names.attempt_of(p["metadata"]["name"]) for p in pool.pods()} == {1}
    assert pool.status["rollout"]["complete"] is True


def test_without_room_for_new_ones_engines_are_replaced_in_place_and_that_is_told(pool):
    pool.apply(strategy_args=LOADED, drain={"gracePeriodSeconds": 1})
    before = pool.wait_ready()
    budget = {"maxSurge": "25%", "maxUnavailable": 3}
    pool.patch({"seed": 7, "rollout": budget})
    pool.told(conditions.SURGE_NO_ROOM)
    pool.wait(
        lambda: pool.is_ready() and not set(pool.uids().values()) & set(before.values()),
        "twelve new engines",
        MINUTES,
    )


def test_a_rollout_is_undone_by_the_command_and_only_over_what_was_read(pool, plane):
    pool.apply(device_mapping="list(range(0,8))", replicas=3)
    pool.wait_ready()
    first = pool.status["revision"]
    pool.patch({"seed": 7, "podTemplate": {"metadata": {"labels": {"team": "rl"}}}})
    pool.wait(lambda: pool.is_ready() and pool.status["revision"] != first, "the next revision")
    pool.wait(lambda: len(sglang(pool, plane, "history").splitlines()) == 3, "two stored")
    assert first in sglang(pool, plane, "undo", "--yes")
    pool.wait(lambda: pool.is_ready() and pool.status["revision"] == first, "the first revision")
    spec = pool.object()["spec"]
    assert ("seed" in spec, "podTemplate" in spec, spec["replicas"]) == (False, False, 3)
    latest = pool.kubectl("get", "controllerrevision", f"{pool.name}-{first}", "-o", "json")
    assert json.loads(latest)["revision"] == 3
    pool.delete()
    pool.wait(lambda: not pool.kubectl("get", "controllerrevisions", "-o", "name"), "none left")


def sglang(pool: PoolUnderTest, plane: ControlPlane, action: str, *options: str) -> str:
    """What ``kubectl sglang rollout`` says."""
    command = [sys.executable, "-m", "sglang_operator.cli.main", "rollout", action, pool.name]
    known = {"KUBECONFIG": str(plane.kubeconfig), "KUBECTL": str(plane.tools / "kubectl")}
    ran = subprocess.run(
        [*command, *options, "-n", pool.namespace],
        env={**os.environ, **known},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
