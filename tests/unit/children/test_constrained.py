"""What pods have of affinity and spreading beside podTemplate's: all of both holds."""

from typing import Any

import pytest

from sglang_operator.children import constrained, engine_pod
from sglang_operator.scheduling.topology import PREFERRED, REQUIRED, SPREAD
from tests.builders import a_pool

RACK = "example.com/rack"
TERM = {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "zone"}
WEIGHED = {"weight": 7, "podAffinityTerm": TERM}
NODES: dict[str, Any] = {REQUIRED: {"nodeSelectorTerms": [{"matchFields": []}]}}
CONSTRAINT = {"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "ScheduleAnyway"}


def test_a_pod_that_asks_for_nothing_is_as_all_others_are():
    pool = a_pool()
    shared = engine_pod.template(pool)
    pod = engine_pod.pod(pool, shared, pool.engines[0], 0)
    assert pod["spec"] is shared["spec"]
    assert constrained.spec(shared["spec"], {}) == {}


def test_what_the_user_asks_for_stays_behind_the_operators_own():
    affinity = {
        "nodeAffinity": NODES,
        "podAntiAffinity": {REQUIRED: [TERM]},
        "podAffinity": {PREFERRED: [WEIGHED], REQUIRED: [TERM]},
    }
    shared = {"affinity": affinity, SPREAD: [CONSTRAINT], "nodeSelector": {"gpu": "h100"}}
    own = {"weight": 100}
    added = {"affinity": {"podAffinity": {PREFERRED: [own]}}, SPREAD: [{"maxSkew": 1}]}
    found = constrained.spec(shared, added)
    assert found == {
        "affinity": {
            "nodeAffinity": NODES,
            "podAntiAffinity": {REQUIRED: [TERM]},
            "podAffinity": {PREFERRED: [own, WEIGHED], REQUIRED: [TERM]},
        },
        SPREAD: [{"maxSkew": 1}, CONSTRAINT],
    }
    assert affinity["podAffinity"] == {PREFERRED: [WEIGHED], REQUIRED: [TERM]}
    assert shared[SPREAD] == [CONSTRAINT]


def test_what_the_user_asks_for_is_on_each_pod_of_an_engine():
    pool = a_pool(
        num_gpus_per_worker=16,
        device_mapping="list(range(0,32))",
        scheduling={"requiredTopology": RACK, "spread": {"topologyKey": RACK}},
        podTemplate={"spec": {"affinity": {"nodeAffinity": {PREFERRED: []}}, SPREAD: [CONSTRAINT]}},
    )
    shared = engine_pod.template(pool)
    for rank, keys in ((0, ["zone"]), (1, [RACK, "zone"])):
        body = engine_pod.pod(pool, shared, pool.engines[0], 0, node_rank=rank)["spec"]
        assert body["affinity"]["nodeAffinity"] == {PREFERRED: []}
        assert [term["topologyKey"] for term in body["affinity"]["podAffinity"][REQUIRED]] == [RACK]
        assert [each["topologyKey"] for each in body[SPREAD]] == keys


PREFERENCES: list[dict[str, Any]] = [
    {"affinity": {"podAffinity": {PREFERRED: [WEIGHED]}}},
    {"affinity": {"podAntiAffinity": {PREFERRED: [WEIGHED]}}},
    {SPREAD: [CONSTRAINT]},
]


@pytest.mark.parametrize("shared", PREFERENCES)
def test_no_node_is_preferred_beside_what_the_scheduler_weighs_apart(shared):
    """Its best node of either kind has 100 points, whatever the weights within a kind are."""
    assert constrained.near(shared, "gpu-1") == {}


def test_what_only_filters_nodes_leaves_the_preference():
    affinity = {"podAffinity": {REQUIRED: [TERM]}, "nodeAffinity": NODES}
    shared = {"affinity": affinity, SPREAD: [CONSTRAINT | {"whenUnsatisfiable": "DoNotSchedule"}]}
    found = constrained.near(shared, "gpu-1")["affinity"]
    assert found["podAffinity"] == {REQUIRED: [TERM]}
    assert [term["weight"] for term in found["nodeAffinity"][PREFERRED]] == [1]
