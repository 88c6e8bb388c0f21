"""``rollout history``, over a cluster of the test's own."""

import json
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.cli import rollout_history as told
from sglang_operator.cli.cluster import look
from sglang_operator.pool import revision
from tests.builders import a_pool, guide_spec
from tests.unit.cli.fake_kubectl import FakeCluster, cluster
from tests.unit.view.drawn_cluster import guide

UID = "uid-rl-actor-infer"
NESTED: Any = {}
for _ in range(500):
    NESTED = {"a": NESTED}
OLD = guide_spec(seed=7, image="lmsysorg/sglang:v0.5.6.post2")


def stored(number: int, raw: dict[str, Any], uid: str = UID) -> dict[str, Any]:
    """The ControllerRevision of a pool with this spec."""
    pool = a_pool(raw)
    part = revision.reaching_pods(pool.spec, spans=False)
    return {
        "metadata": {
            "name": f"actor-infer-{pool.revision}",
            "creationTimestamp": "2026-11-30T10:00:00Z",
            "ownerReferences": [{"kind": "SGLangInference", "uid": uid, "controller": True}],
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


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"data": {"spec": "no JSON"}}, id="no JSON"),
        pytest.param({"data": {"spec": "[" * 100_000}}, id="nested text"),
        pytest.param({"data": {"spec": json.dumps(NESTED)}}, id="nested maps"),
        pytest.param({"data": {"spec": {"template": {}}}}, id="a StatefulSet's"),
        pytest.param({"data": [1]}, id="a list"),
        pytest.param({"data": "x"}, id="text"),
        pytest.param({"revision": 2**63 - 1}, id="a number beyond all"),
        pytest.param({"revision": 0}, id="no number"),
        pytest.param({"revision": "7"}, id="a number in words"),
    ],
)
def test_one_that_cannot_be_read_costs_that_one_and_is_named(odd):
    entry = {**stored(3, OLD), **odd}
    entry["metadata"]["name"] = "actor-infer-0123456789"
    *told_of, left_out, note = lines(a_cluster(entry, stored(1, OLD), stored(2, guide_spec())))
    assert [line.split()[0] for line in told_of] == ["2", "1"]
    assert "left out" in left_out
    assert "actor-infer-0123456789" in left_out
    assert "--to-revision" in note


def test_a_deeply_nested_object_costs_no_other():
    good = [stored(1, OLD), stored(2, guide_spec())]
    fake = a_cluster(*good)
    deep = json.dumps({**stored(3, OLD), "data": "HERE"}).replace(
        '"HERE"', '{"a": ' * 100_000 + "1" + "}" * 100_000
    )
    whole = json.dumps({"items": [*good, "HERE"]}).replace('"HERE"', deep)
    plain = fake.get
    answer = lambda path, **query: (  # noqa: E731
        whole.encode() if path.endswith("/controllerrevisions") else plain(path, **query)
    )
    object.__setattr__(fake, "get", answer)
    assert [line.split()[0] for line in lines(fake)[:2]] == ["2", "1"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "actor-infer-mine"},
        {"ownerReferences": [{"kind": "SGLangInference", "uid": UID}]},
        {"ownerReferences": [{"kind": "StatefulSet", "uid": UID, "controller": True}]},
        {"ownerReferences": None},
        {"name": 7},
    ],
)
def test_what_is_not_named_and_owned_as_the_operators_are_is_not_shown(metadata):
    other = stored(4, OLD)
    other["metadata"] |= metadata
    assert [line.split()[0] for line in lines(a_cluster(other, stored(1, OLD)))] == ["1", "-", "to"]


def test_engines_that_run_tuned_are_told_of_what_they_are_made_of():
    entry = stored(2, guide_spec())
    entry["metadata"]["labels"] = {f"{names.LABEL_TUNED}24fa262b8e": ""}
    world = guide()
    for pod in world.pods[:5]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "24fa262b8e"
    fake = cluster(world)
    object.__setattr__(fake, "revisions", [entry])
    first, note = lines(fake)
    assert "  12 engines  " in first
    assert "--to-revision" in note
