"""``rollout history`` and ``undo``, over a cluster of the test's own."""

import json
from typing import Any

import pytest

from sglang_operator.cli import rollout_history as told
from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import ClusterError
from sglang_operator.pool import revision
from tests.builders import a_pool, guide_spec
from tests.unit.cli.fake_kubectl import FakeCluster, cluster
from tests.unit.view.drawn_cluster import guide

UID = "uid-rl-actor-infer"
OLD = guide_spec(seed=7, image="lmsysorg/sglang:v0.5.6.post2")


def stored(number: int, raw: dict[str, Any], uid: str = UID) -> dict[str, Any]:
    """The ControllerRevision of a pool with this spec."""
    pool = a_pool(raw)
    part = revision.reaching_pods(pool.spec, spans=False)
    return {
        "metadata": {
            "name": f"actor-infer-{pool.revision}",
            "creationTimestamp": "2026-11-30T10:00:00Z",
            "ownerReferences": [{"uid": uid}],
        },
        "revision": number,
        "data": {"spec": json.dumps(part)},
    }


def a_cluster(*revisions: dict[str, Any], **spec: Any) -> FakeCluster:
    world = guide()
    world.pools[0]["spec"] |= spec
    world.pools[0]["metadata"]["resourceVersion"] = "77"
    fake = cluster(world)
    object.__setattr__(fake, "revisions", list(revisions))
    return fake


def seen(fake: FakeCluster):
    return look.look(fake, ["actor-infer"], nodes=False).pools[0]


def undone(fake: FakeCluster, number: int | None = None) -> tuple[str, list[Any]]:
    """What is said, and the patch that was written."""
    pool = seen(fake)
    said = told.undo(fake, pool, told.stored(fake, pool), number)
    patches = [json.loads(ran[-1]) for ran in fake.ran if ran[0] == "patch"]
    return said, patches[-1] if patches else []


def lines(fake: FakeCluster) -> list[str]:
    pool = seen(fake)
    return list(told.history(pool, told.stored(fake, pool)))


def test_the_history_tells_what_is_stored_and_what_runs():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()))
    present, old, note = lines(fake)
    assert present == (
        f"2  {a_pool().revision}  12 engines  since 2026-11-30T10:00:00Z  (the spec's)"
    )
    assert old.startswith(f"1  {a_pool(OLD).revision}  0 engines")
    assert "--to-revision" in note


def test_what_runs_and_is_not_stored_is_told_too():
    world = guide()
    for pod in world.pods[:3]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "older"
    first, second, note = lines(cluster(world))
    assert {first.split()[2], second.split()[2]} == {"9", "3"}
    assert first.startswith("-  ")
    assert "no revision is stored" in note


def test_those_of_another_pool_of_this_name_are_not_shown():
    assert "no revision is stored" in lines(a_cluster(stored(1, OLD, uid="earlier")))[-1]


def test_undo_writes_the_revision_before_back_and_only_over_what_was_read():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()), replicas=3)
    said, (test, replace) = undone(fake)
    assert test == {"op": "test", "path": "/metadata/resourceVersion", "value": "77"}
    assert (replace["op"], replace["path"]) == ("replace", "/spec")
    assert replace["value"] == {**OLD, "replicas": 3}
    back = a_pool(replace["value"])
    assert back.revision == a_pool(OLD).revision
    assert f"revision 1 ({back.revision})" in said
    assert "paused" not in said


def test_undo_takes_away_what_the_revision_did_not_have():
    fake = a_cluster(
        stored(1, guide_spec()),
        stored(2, OLD),
        seed=7,
        image="lmsysorg/sglang:v0.5.6.post2",
        podTemplate={"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}},
    )
    _, (_, replace) = undone(fake, 1)
    assert replace["value"] == guide_spec()


def test_undo_goes_to_the_revision_that_is_named():
    third = guide_spec(seed=9)
    fake = a_cluster(stored(1, OLD), stored(2, third), stored(3, guide_spec()))
    assert undone(fake)[1][1]["value"]["seed"] == 9
    assert undone(fake, 1)[1][1]["value"]["seed"] == 7


def test_undo_of_what_the_spec_is_already_writes_nothing():
    said, patches = undone(a_cluster(stored(1, OLD), stored(2, guide_spec())), 2)
    assert "already" in said
    assert not patches


@pytest.mark.parametrize(
    ("revisions", "number", "words"),
    [
        ([], None, "nothing to go back to"),
        ([stored(2, guide_spec())], None, "nothing to go back to"),
        ([stored(1, OLD), stored(2, guide_spec())], 7, "no revision 7 is stored; there are 2, 1"),
    ],
)
def test_undo_says_what_there_is(revisions, number, words):
    with pytest.raises(ClusterError, match=words):
        undone(a_cluster(*revisions), number)


def test_undo_writes_nothing_that_would_be_refused():
    """GPUs of an engine and its mapping were changed together; only one of them reaches pods."""
    old = guide_spec(num_gpus_per_worker=5, device_mapping="list(range(0,5))")
    fake = a_cluster(stored(1, old), stored(2, guide_spec()))
    with pytest.raises(ClusterError, match=r"would be refused: .*device_mapping"):
        undone(fake)
    assert not [ran for ran in fake.ran if ran[0] == "patch"]


def test_a_revision_that_this_version_makes_differently_is_said():
    entry = stored(1, OLD)
    entry["metadata"]["name"] = "actor-infer-0123456789"
    said, _ = undone(a_cluster(entry, stored(2, guide_spec())))
    assert f"that is {a_pool(OLD).revision}" in said


def test_undo_of_a_paused_pool_says_that_it_waits():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()), rollout={"paused": True})
    assert "rollout.paused keeps the engines" in undone(fake)[0]


def test_of_a_pool_that_is_refused_the_last_good_revision_comes_back():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()), seed=-1)
    assert "seed" not in undone(fake)[1][1]["value"]


def test_objects_that_are_none_of_these_are_left_out():
    odd = stored(3, OLD)
    odd["data"] = {"spec": "no JSON"}
    other = stored(4, OLD)
    other["metadata"]["name"] = "actor-infer-mine"
    assert len(lines(a_cluster(odd, other, stored(1, OLD)))) == 3
