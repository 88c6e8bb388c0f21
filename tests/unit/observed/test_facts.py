"""What an engine is goes by its own word, else by how it was started."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.children import trainer_registry
from sglang_operator.engine import versions
from sglang_operator.observed import facts
from sglang_operator.observed.model import EngineReport, ObservedPod, Resolved
from sglang_operator.pool.model import EngineFacts
from sglang_operator.pool.resolve import Pool
from tests import builders

OWN_IMAGE = "registry.example.com/rl/sglang:prod"  # of which nobody can tell the version


def a_pool(**changes: Any) -> Pool:
    config = {"tokenizer_worker_num": 4, "mem_fraction_static": 0.7, "load_format": "dummy"}
    worker = {"strategy_name": "sglang", "strategy_config": config}
    return builders.a_pool(image=OWN_IMAGE, replicas=2, **{"strategy_args": worker, **changes})


def pods_of(pool: Pool) -> list[ObservedPod]:
    return [builders.a_pod(pool, each, container_id=f"c{each.rank}") for each in pool.running]


def saying(version: str, *pods: ObservedPod) -> dict[str, EngineReport]:
    resolved = Resolved(version=version)
    runs = [pod.instance for pod in pods if pod.instance]
    return {run: EngineReport(instance=run, resolved=resolved) for run in runs}


def of(
    pool: Pool,
    pod: ObservedPod,
    reports: dict[str, EngineReport],
    revisions: dict[str, EngineFacts] | None = None,
) -> EngineFacts:
    return facts.of(pool, pod, pod.instance, revisions or {}, reports)


def test_an_engine_is_of_the_version_that_it_says():
    pool = a_pool()
    one, other = pods_of(pool)
    reports = saying("0.5.10", one)
    assert str(pool.version) == str(versions.NEWEST_KNOWN) != "0.5.10"
    assert of(pool, one, reports).version == "0.5.10"
    assert "until 0.5.12" in of(pool, one, reports).no_sync
    assert of(pool, other, reports) == pool.facts
    assert not pool.no_sync


@pytest.mark.parametrize("said", ["0.5.10+cu129", "v0.5.10"])
def test_whoever_built_a_release_it_is_that_release(said):
    pool = a_pool()
    one, _ = pods_of(pool)
    assert of(pool, one, saying(said, one)).version == "0.5.10"


@pytest.mark.parametrize("said", ["", "0.5.11rc0", "0.5.8.dev12+g1a2b", "main"])
def test_what_is_no_release_tells_nothing(said):
    pool = a_pool()
    one, _ = pods_of(pool)
    assert of(pool, one, saying(said, one)) == pool.facts


def test_an_engine_of_an_earlier_revision_is_as_it_was_started_but_for_what_it_says():
    before, pool = a_pool(seed=1, network={"port": 31000}), a_pool(seed=2)
    one, _ = pods_of(before)
    revisions = {before.revision: before.facts}
    assert of(pool, one, {}, revisions) == before.facts
    said = of(pool, one, saying("0.5.10", one), revisions)
    assert (said.port, said.version) == (31000, "0.5.10")


def test_of_an_engine_of_which_nothing_else_is_known_its_pod_tells_how_many_gpus_it_has():
    """Ranks of a process group are counted by them: an operator may have lost what was known."""
    node = {"num_gpus_per_node": 8, "device_mapping": None, "rollout": {"paused": True}}
    before, pool = (
        builders.a_pool({k: v for k, v in builders.guide_spec(**node, **edit).items() if v})
        for edit in (
            {"num_gpus_per_worker": 16, "replicas": 2},
            {"num_gpus_per_worker": 8, "replicas": 2, "seed": 5},
        )
    )
    limits = ((pool.resource, 8),)
    pods = [
        builders.a_pod(before, engine, node_rank=rank, limits=limits)
        for engine in before.running
        for rank in (0, 1)
    ]
    told = trainer_registry.document(pool, builders.weighed(pool, pods))
    assert [each["gpus"] for each in told["engines"]] == [16, 16]
    assert [each["rankOffset"] for each in told["engines"]] == [1, 17]
    assert told["worldSize"] == 33
    assert trainer_registry.document(pool, builders.weighed(pool, []))["worldSize"] == 17


def test_what_one_engine_said_is_known_of_its_revision_until_another_says_better():
    pool = a_pool()
    pods = pods_of(pool)
    known = facts.learnt(pool, pods, {}, saying("0.5.10", pods[0]))
    revisions = {pool.revision: known}
    assert facts.learnt(pool, pods, revisions, {}) == known
    assert of(pool, pods[1], {}, revisions) == known
    again = facts.learnt(pool, pods, revisions, saying(str(pool.version), *pods))
    assert again == pool.facts


def test_a_version_that_the_spec_says_since_takes_the_place_of_one_that_was_assumed():
    assumed, said = a_pool(), a_pool(engineVersion="0.5.14")
    (pod, _), revisions = pods_of(said), {said.revision: assumed.facts}
    assert of(said, pod, {}, revisions).version == "0.5.14"


def test_of_engines_that_differ_what_forbids_a_sync_counts():
    pool = a_pool()
    pods = pods_of(pool)
    reports = saying("0.5.10", pods[0]) | saying("0.5.9", pods[1])
    assert facts.learnt(pool, pods, {}, reports).no_sync


def test_what_is_known_of_a_version_is_made_once():
    pool = a_pool()
    version = versions.parse("0.5.10")
    assert pool.facts_as(version) is pool.facts_as(version)
    assert pool.facts_as(pool.version) is pool.facts
    assert dataclasses.replace(pool.facts, reported=True).features == pool.features
