"""Who is asked what: silence unless nothing else tells."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.ask.engines import WEIGHTS_SECONDS, Question, Topic, questions
from sglang_operator.observed.model import EngineReport, Resolved
from sglang_operator.pool.resolve import Pool
from tests.builders import a_pod, a_pool, all_pods, planned

KEY = {"name": "keys", "key": "token"}


def asked(pool: Pool, **changes) -> tuple[Question, ...]:
    """What is asked of the pool when all its engines are up."""
    pods = all_pods(pool, **{"container_id": "containerd://1", **changes})
    return questions(pool, planned(pool, pods).engines)


def topics(found: tuple[Question, ...]) -> set[Topic]:
    return {question.topic for question in found}


def test_engines_that_are_up_are_asked_once_what_they_run():
    found = asked(a_pool(replicas=2))
    assert [(q.topic, q.every, q.url) for q in found] == [
        (Topic.RESOLVED, None, "http://10.0.0.1:30000")
    ] * 2
    assert len({question.instance for question in found}) == 2


def test_a_versioned_pool_is_asked_for_its_weights_again_and_again():
    found = asked(a_pool(weights={"gate": "Versioned"}, replicas=1))
    assert [(q.topic, q.every) for q in found] == [
        (Topic.RESOLVED, None),
        (Topic.WEIGHTS, WEIGHTS_SECONDS),
    ]


@pytest.mark.parametrize("gate", ["Auto", "Committed", "Off"])
def test_no_other_pool_is_polled(gate):
    found = asked(a_pool(weights={"gate": gate}))
    assert topics(found) == {Topic.RESOLVED}
    assert all(question.every is None for question in found)


@pytest.mark.parametrize("security", [{"apiKey": KEY}, {"adminApiKey": KEY}], ids=str)
def test_a_pool_with_a_key_is_never_asked(security):
    pool = a_pool(security=security, image="lmsysorg/sglang:v0.5.9")
    assert asked(pool) == ()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"containers_ready": False}, id="starts"),
        pytest.param({"ip": ""}, id="has no address"),
        pytest.param({"container_id": ""}, id="has no container"),
        pytest.param({"deleting": True}, id="is being deleted"),
        pytest.param({"revision": "older"}, id="is of an older revision"),
    ],
)
def test_an_engine_that_cannot_answer_for_the_pool_is_not_asked(changes):
    assert asked(a_pool(weights={"gate": "Versioned"}, replicas=1), **changes) == ()


def test_an_address_of_ipv6_stands_in_brackets():
    (question,) = asked(a_pool(replicas=1), ip="fd00::1")
    assert question.url == "http://[fd00::1]:30000"


def test_an_instance_is_one_life_of_a_pod():
    pool = a_pool()
    pod = a_pod(pool, pool.engines[0], container_id="containerd://1")
    again = dataclasses.replace(pod, container_id="containerd://2")
    instances = {pod.instance, again.instance}
    assert len(instances) == 2
    assert all(instance and len(instance) == 8 for instance in instances)
    assert dataclasses.replace(pod, container_id="").instance is None


@pytest.mark.parametrize(
    ("rollout", "kept"), [({"paused": True}, 4), ({"partition": 2}, 2)], ids=str
)
def test_engines_that_a_rollout_keeps_are_asked_as_they_were_started(rollout, kept):
    weights = {"gate": "Versioned"}
    image: dict[str, Any] = {"image": "lmsysorg/sglang:v0.5.5.post3", "network": {"port": 31000}}
    old = a_pool(weights=weights, replicas=4, **image)
    new = a_pool(weights=weights, replicas=4, rollout=rollout, restart={"hangSeconds": 60})
    of = [old if engine.rank < kept else new for engine in new.running]
    pods = [
        a_pod(pool, engine, container_id=f"c{engine.rank}")
        for pool, engine in zip(of, new.running, strict=True)
    ]
    engines, known = planned(new, pods).engines, {old.revision: old.facts}
    found = questions(new, engines, revisions=known)
    assert {q.instance for q in found if q.topic is Topic.WEIGHTS} == {p.instance for p in pods}
    of_old = [q for q in found if q.instance in {pod.instance for pod in pods[:kept]}]
    assert topics(tuple(of_old)) == set(Topic)
    assert {(q.url[-5:], q.features) for q in of_old} == {("31000", old.features)}


def test_an_engine_is_asked_in_the_words_of_the_version_that_it_says():
    pool = a_pool(weights={"gate": "Versioned"}, replicas=1, image="registry.example.com/a:prod")
    pods = all_pods(pool, container_id="containerd://1")
    run = pods[0].instance
    assert run is not None
    reports = {run: EngineReport(instance=run, resolved=Resolved(version="0.5.5"))}
    found = questions(pool, planned(pool, pods).engines, reports=reports)
    assert {question.features.model_info_path for question in found} == {"/get_model_info"}


def test_a_version_that_cannot_say_is_not_asked():
    old = a_pool(replicas=1, image="lmsysorg/sglang:v0.4.6.post5")
    new = a_pool(
        replicas=1,
        weights={"gate": "Versioned"},
        rollout={"paused": True},
        restart={"hangSeconds": 60},
    )
    engines = planned(new, all_pods(old, container_id="containerd://1")).engines
    found = questions(new, engines, revisions={old.revision: old.facts})
    assert topics(found) == {Topic.RESOLVED}
