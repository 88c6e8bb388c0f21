"""On which nodes an engine's GPUs lie: as many on each, or the mapping is refused."""

from typing import Any

import pytest

from sglang_operator.roll import device_mapping
from tests.builders import a_pool, guide_spec, refused


def spread(per_worker: int, mapping: str | None, **changes: Any) -> dict[str, Any]:
    return guide_spec(num_gpus_per_worker=per_worker, device_mapping=mapping, **changes)


@pytest.mark.parametrize(
    ("per_worker", "mapping", "nodes"),
    [
        (8, "list(range(0,16))", 1),
        (16, "list(range(0,32))", 2),
        (24, "list(range(8,32))", 3),
        (8, "list(range(4,20))", 2),  # 4 and 4, twice
        (4, "[0, 1, 8, 9]", 2),
        (2, "[7, 8]", 2),
    ],
)
def test_an_engine_takes_whole_nodes_or_equal_shares(per_worker, mapping, nodes):
    pool = a_pool(spread(per_worker, mapping))
    assert {engine.pods for engine in pool.engines} == {nodes} == {pool.nodes}


@pytest.mark.parametrize(
    ("per_worker", "mapping", "told"),
    [
        (12, "list(range(0,24))", "8 on node 0, 4 on node 1"),
        (12, "list(range(0,24))", "use num_gpus_per_worker 8 or 16"),
        (16, "list(range(4,36))", "begin each group of 16 at a multiple of 8"),
        (4, "list(range(6,14))[0]", "device_mapping"),
        (3, "[6, 7, 8]", "begin each group of 3 at a multiple of 3"),
        (4, "[0, 8, 1, 9]", "one node after the other"),
        (4, "list(range(6,10)) + list(range(12,16))", "engine 1 has GPUs 12-15: 4 on node 1"),
    ],
)
def test_a_mapping_that_lies_unevenly_is_refused_with_the_nearest_that_works(
    per_worker, mapping, told
):
    (problem,) = refused(spread(per_worker, mapping)).errors
    assert problem.reason == "DeviceMappingInvalid"
    assert told in problem.message


def test_an_engine_on_more_nodes_than_it_needs_is_a_warning():
    pool = a_pool(spread(4, "list(range(6,10))"))
    (problem,) = [each for each in pool.warnings if each.reason == "EngineSpansNodes"]
    assert "it runs in 2 pods" in problem.message
    assert not [
        each for each in a_pool(spread(16, "list(range(0,16))")).warnings if "span" in each.message
    ]


def test_engines_without_ids_take_as_few_nodes_as_they_need():
    pool = a_pool(spread(16, None, replicas=3))
    assert [engine.pods for engine in pool.engines] == [2, 2, 2]
    (problem,) = refused(spread(13, None, replicas=2)).errors
    assert "use 12 or 14" in problem.message


def test_the_start_budget_is_above_what_sglang_gives_its_ranks():
    (problem,) = refused(spread(16, "list(range(0,16))", startup={"timeoutSeconds": 480})).errors
    assert "above 480" in problem.message
    assert a_pool(spread(16, "list(range(0,16))")).startup_seconds > 480


def test_a_follower_that_would_not_answer_its_probes_is_refused():
    returns = {"SGLANG_BLOCK_NONZERO_RANK_CHILDREN": "0"}
    (problem,) = refused(spread(16, "list(range(0,16))", system_envs=returns)).errors
    assert "answer their probes only without it" in problem.message
    assert a_pool(spread(8, "list(range(0,8))", system_envs=returns)), "it has none"


def test_replicas_within_an_engine_are_refused_across_nodes():
    config = {
        "strategy_name": "sglang",
        "strategy_config": {"dp_size": 2, "mem_fraction_static": 0.7},
    }
    found = refused(spread(16, "list(range(0,16))", strategy_args=config, weights={"gate": "Off"}))
    assert "spans 2 nodes" in "".join(problem.message for problem in found.errors)


@pytest.mark.parametrize("nodes", [1, 2, 16, 200])
def test_names_leave_room_for_the_node_rank(nodes):
    ids = [5 * i for i in range(800)]
    name = device_mapping.engine_name(ids, nodes)
    assert len(name) <= 15 - (0 if nodes == 1 else len(f"n{nodes - 1}"))
