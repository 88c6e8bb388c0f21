"""The registry while a change is rolled out: engines are told as they were started."""

import json
from typing import Any

import pytest

from sglang_operator.children import trainer_registry
from sglang_operator.client import registry
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.model import EngineReport, Observed, ObservedPod, Resolved
from sglang_operator.pool.resolve import Engine, Pool
from tests import builders

OLD: dict[str, Any] = {"image": "lmsysorg/sglang:v0.5.5.post3", "network": {"port": 30000}}
NEW: dict[str, Any] = {"image": "lmsysorg/sglang:v0.5.7", "network": {"port": 30001}}


def pools(old: dict[str, Any] = OLD, new: dict[str, Any] = NEW) -> tuple[Pool, Pool]:
    whole = {"device_mapping": "list(range(0,8))", "weights": {"gate": "Off"}, "replicas": 4}
    before, after = ({**whole, **more} for more in (old, new))
    return builders.a_pool(**before), builders.a_pool(**after)


def a_pod(pool: Pool, engine: Engine) -> ObservedPod:
    serves = engine.rank != 3  # which is the one that is being replaced
    return builders.a_pod(pool, engine, container_id=f"c{engine.rank}", ready=serves)


def half_way(old: Pool, new: Pool, *, known: bool = True) -> dict[str, Any]:
    """The registry of ``new`` whose rank 3 has been replaced, and the others not yet."""
    pods = [a_pod(new if engine.rank == 3 else old, engine) for engine in new.running]
    plan = builders.weighed(new, pods, revisions={old.revision: old.facts} if known else {})
    return dict(trainer_registry.document(new, plan))


def test_each_engine_has_the_address_that_it_was_started_with():
    old, new = pools()
    found = half_way(old, new)
    assert [engine["url"].rpartition(":")[2] for engine in found["engines"]] == ["30000"] * 3 + [
        "30001"
    ]


def test_other_trainers_are_told_the_same_addresses():
    old, new = pools()
    pods = [a_pod(new if engine.rank == 3 else old, engine) for engine in new.running]
    plan = builders.weighed(new, pods, revisions={old.revision: old.facts})
    data = trainer_registry.registry(new, plan)["data"]
    ports = [each.rpartition(":")[2] for each in data["slime"].split()]
    assert ports == ["30000"] * 3 + ["30001"]


def test_each_revisions_version_is_told_with_the_ranks_that_have_it():
    old, new = pools()
    found = half_way(old, new)
    assert found["engineVersion"] == "0.5.7"
    assert found["revisions"][old.revision]["engineVersion"] == "0.5.5.post3"
    assert found["revisions"][old.revision]["ranks"] == [[0, 2]]
    assert "ranks" not in found["revisions"][new.revision]


def test_nobody_syncs_while_one_engine_forbids_it():
    old, new = pools(
        builders.with_config(enable_hierarchical_cache=True, hicache_storage_backend="file"), {}
    )
    assert old.no_sync and not new.no_sync
    assert half_way(old, new)["weights"]["noSync"] == old.no_sync


def test_a_pool_releases_memory_once_all_of_its_engines_can():
    old, new = pools({}, builders.with_config(enable_memory_saver=True))
    assert new.saves_memory and not old.saves_memory
    assert half_way(old, new)["memorySaver"] is False


def test_an_engine_of_which_nothing_is_known_is_told_as_the_spec_says():
    old, new = pools()
    found = half_way(old, new, known=False)
    assert {engine["url"].rpartition(":")[2] for engine in found["engines"]} == {"30001"}


def test_what_the_registry_says_of_revisions_is_read_again():
    old, new = pools()
    data = {trainer_registry.ENGINES_KEY: json.dumps(half_way(old, new))}
    assert trainer_registry.revisions(data) == {
        old.revision: old.facts,
        new.revision: new.facts,
    }
    for broken in ("", "[]", '{"revisions": 1}', '{"revisions": {"a": {"port": "x"}}}'):
        assert trainer_registry.revisions({trainer_registry.ENGINES_KEY: broken}) == {}


def nested(levels=1010):
    """As deep as JSON is read, and deeper than Python writes."""
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("engineVersion", nested()),
        ("engineVersion", '"0.5"'),
        ("engineVersion", f'"{"9" * 5000}.0.0"'),
        ("noSync", nested()),
        ("noSync", f'"{"x" * 5000}"'),
        ("port", "true"),
        ("port", "1e400"),
        ("port", "70000"),
        ("memorySaver", nested()),
        ("memorySaver", "1"),
    ],
)
def test_what_somebody_else_wrote_of_a_revision_is_left_out_and_the_others_are_kept(field, text):
    old, new = pools()
    document = half_way(old, new)
    document["revisions"][old.revision][field] = "@"
    data = {trainer_registry.ENGINES_KEY: json.dumps(document).replace('"@"', text)}
    assert old.revision not in trainer_registry.revisions(data)
    good = text != "1e400"  # that is no JSON at all
    assert trainer_registry.revisions(data) == ({new.revision: new.facts} if good else {})


def test_a_gate_plan_carries_what_was_observed():
    old, new = pools()
    plan = builders.weighed(new, [], revisions={old.revision: old.facts})
    assert isinstance(plan, GatePlan)
    assert plan.revisions == Observed(revisions={old.revision: old.facts}).revisions


def test_engines_that_the_spec_wants_no_more_are_named_while_they_run():
    old, new = pools({}, {"num_gpus_per_worker": 4, "replicas": 2, "rollout": {"paused": True}})
    plan = builders.weighed(new, [a_pod(old, engine) for engine in old.running])
    named = trainer_registry.document(new, plan)["unlisted"]
    assert len(named) == 4
    assert "unlisted" not in half_way(*pools())


def test_engines_are_told_that_keep_images_by_their_ranks():
    """What an earlier operator has started keeps them, gate or not, and nothing replaces it."""
    pool = builders.a_pool(device_mapping="list(range(0,8))")
    pods = [
        builders.a_pod(pool, engine, container_id="c", keeps_images=engine.rank != 2)
        for engine in pool.running
    ]
    found = trainer_registry.document(pool, builders.weighed(pool, pods))
    assert found["weights"]["keepImages"] == [[0, 1], [3, 3]]
    again = [builders.a_pod(pool, engine, container_id="c") for engine in pool.running]
    found = trainer_registry.document(pool, builders.weighed(pool, again))
    assert "keepImages" not in found["weights"]


def test_each_engine_has_the_gpus_that_it_was_started_with():
    """The group of a sync amid such a change had ranks that nobody took: it never formed."""
    old, new = (
        builders.a_pool(
            device_mapping=None, replicas=3, weights={"gate": "Off"}, num_gpus_per_worker=gpus
        )
        for gpus in (2, 4)
    )
    pods = [
        builders.a_pod(pool, engine, container_id=f"c{engine.rank}", ready=pool is old)
        for pool, engine in zip((new, old, old), new.running, strict=True)
    ]
    plan = builders.weighed(new, pods, revisions={old.revision: old.facts})
    told = trainer_registry.document(new, plan)
    assert [(e["gpus"], e["rankOffset"]) for e in told["engines"]] == [(4, 1), (2, 5), (2, 7)]
    assert told["worldSize"] == 9
    data = {trainer_registry.ENGINES_KEY: json.dumps(told)}
    assert trainer_registry.revisions(data)[old.revision].gpus == 2


class TestEnginesThatSayWhatTheyAre:
    """The tag of an image of one's own names no version."""

    def pool(self, **changes: Any) -> Pool:
        image = "registry.example.com/rl/sglang:prod"
        return builders.a_pool({**builders.with_config(**changes), "image": image, "replicas": 3})

    def told(self, pool: Pool, *said: str, **observed: Any) -> dict[str, Any]:
        """The registry once engines have said their versions, by rank."""
        pods = [builders.a_pod(pool, each, container_id=f"c{each.rank}") for each in pool.running]
        reports = {
            str(pod.instance): EngineReport(
                instance=str(pod.instance), resolved=Resolved(version=version)
            )
            for pod, version in zip(pods, said, strict=False)
        }
        plan = builders.weighed(pool, pods, reports=reports, **observed)
        return dict(trainer_registry.document(pool, plan))

    def read(self, document: dict[str, Any]) -> list[str]:
        """The version of each engine, as trainers read it."""
        data = {trainer_registry.ENGINES_KEY: json.dumps(document)}
        return [engine.engine_version for engine in registry.parse({"data": data}).engines]

    def test_trainers_are_told_the_version_that_engines_say(self):
        pool = self.pool()
        document = self.told(pool, *["0.5.10"] * 3)
        assert self.read(document) == ["0.5.10"] * 3
        assert document["engineVersion"] == str(pool.version)
        assert self.read(self.told(pool)) == [str(pool.version)] * 3

    def test_engines_of_one_tag_may_differ(self):
        document = self.told(self.pool(), "0.5.10", "0.5.9", "0.5.10")
        assert self.read(document) == ["0.5.10", "0.5.9", "0.5.10"]

    def test_engines_that_say_many_versions_do_not_fill_the_registry(self):
        pool = builders.a_pool(num_gpus_per_worker=1, device_mapping="list(range(0,100))")
        document = self.told(pool, *(f"9.9.{number}" for number in range(100)))
        assert len(document["revisions"]) <= trainer_registry.MOST_REVISIONS

    def test_nobody_syncs_engines_whose_version_forbids_it(self):
        pool = self.pool(tokenizer_worker_num=4)
        assert not pool.no_sync
        assert "noSync" not in self.told(pool)["weights"]
        assert "until 0.5.12" in self.told(pool, "0.5.10")["weights"]["noSync"]

    def test_what_was_said_is_known_to_the_next_operator(self):
        pool = self.pool(tokenizer_worker_num=4)
        data = {trainer_registry.ENGINES_KEY: json.dumps(self.told(pool, *["0.5.10"] * 3))}
        revisions = trainer_registry.revisions(data)
        assert revisions[pool.revision].reported
        document = self.told(pool, revisions=revisions)
        assert self.read(document) == ["0.5.10"] * 3
        assert document["weights"]["noSync"]


def test_ids_that_are_the_trainers_gpus_are_told_as_that():
    own = builders.a_pool()
    joined = builders.a_pool(num_gpus_per_node=4, placement={"mode": "Shared"})
    assert "placement" not in trainer_registry.document(own, builders.weighed(own, []))
    plan = builders.weighed(joined, [])
    document = dict(trainer_registry.document(joined, plan))
    assert document["placement"] == {"numGpusPerNode": 4, "awaitsSlots": True}
    told = registry.parse(
        {"metadata": {}, "data": {trainer_registry.ENGINES_KEY: json.dumps(document)}}
    )
    assert (told.gpus_per_node, told.awaits_slots) == (4, True)
