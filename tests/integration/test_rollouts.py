"""Rollouts and regroupings of a full pool on a real control plane: 24 GPUs, none to spare."""

import itertools
from collections.abc import Iterator

import pytest

from sglang_operator.api import conditions
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.integration.pools import PoolUnderTest

_namespaces = itertools.count()
LOADED = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
MINUTES = 180.0


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane("3x8") as plane:
        yield plane


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane) -> Iterator[InstalledOperator]:
    with InstalledOperator(control_plane) as operator:
        yield operator
    errors = [line for line in operator.log.read_text().splitlines() if " ERROR " in line]
    assert not errors


@pytest.fixture
def pool(control_plane: ControlPlane, operator: InstalledOperator) -> Iterator[PoolUnderTest]:
    namespace = control_plane.namespace(f"rollouts-{next(_namespaces)}")
    pool = PoolUnderTest(control_plane, namespace)
    yield pool
    control_plane.kubectl("delete", "sgi", "--all", "-n", namespace, "--wait=false")
    control_plane.kubectl(
        "delete", "pods", "--all", "-n", namespace, "--wait=false", "--grace-period=0", "--force"
    )
    pool.wait(lambda: not pool.all_pods(), "no pod left")


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
