"""Without a gang each pod is scheduled by itself; an adapter has only its own to add."""

from collections.abc import Iterator
from typing import Any

import pytest

from sglang_operator.api import names, spec, syntax
from sglang_operator.api.problems import Problem
from sglang_operator.children import engine_pod
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from sglang_operator.scheduling import gangs, texts
from sglang_operator.scheduling.base import Member
from tests import structural
from tests.builders import OWNER, a_pool, guide_spec

CRD = structural.definition()


def parsed(**scheduling: str) -> spec.PoolSpec:
    return spec.parse(guide_spec(scheduling=scheduling))


def test_a_pod_says_only_what_the_user_says():
    assert gangs.pod_spec(parsed()) == {}
    named = parsed(schedulerName="another", priorityClassName="high")
    assert gangs.pod_spec(named) == {
        "schedulerName": "another",
        "priorityClassName": "high",
    }


def test_a_priority_class_has_a_name_that_can_be_one():
    odd = parsed(priorityClassName="Not A Name")
    (problem,) = gangs.problems(odd)
    assert problem.field == "spec.scheduling.priorityClassName"
    assert not list(gangs.problems(parsed(priorityClassName="high")))


@pytest.mark.parametrize("name", ["system-node-critical", "system-cluster-critical", "system-x"])
def test_a_priority_class_of_the_clusters_own_is_refused(name):
    """An engine would drive out what its node needs, and not make way for it."""
    refused = resolve_pool(OWNER, guide_spec(scheduling={"priorityClassName": name}))
    assert isinstance(refused, Refused)
    (problem,) = refused.problems
    assert problem.field == "spec.scheduling.priorityClassName"
    assert f"found {name}, expected a PriorityClass that does not begin with system-" in str(
        problem
    )


@pytest.mark.parametrize("name", ["high", "system", "mysystem-critical", "ai-system-critical"])
def test_any_other_priority_class_is_whose_it_is_to_say(name):
    assert isinstance(resolve_pool(OWNER, guide_spec(scheduling={"priorityClassName": name})), Pool)


def test_the_definition_refuses_it_in_the_same_words():
    section = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    field = section["properties"]["scheduling"]["properties"]["priorityClassName"]
    (rule,) = field["x-kubernetes-validations"]
    told = rule["messageExpression"].replace("\\'", "'")
    assert f"'found %s, expected {texts.PRIORITY}; {texts.DO_PRIORITY}'.format([self])" == told


class AGang:
    """An adapter, which knows nothing of what any pool may say."""

    def problems(self, parsed: spec.PoolSpec) -> Iterator[Problem]:
        if parsed.num_gpus_per_worker > 2:
            yield syntax.wrong("spec.num_gpus_per_worker", 3, "at most 2")

    grouped = None

    def group(self, parsed: spec.PoolSpec, member: Member) -> dict[str, Any]:
        return {}

    def member_spec(self, parsed: spec.PoolSpec, member: Member) -> dict[str, Any]:
        return {"overhead": {"pods": str(member.node_rank)}}

    def pod_spec(self, parsed: spec.PoolSpec) -> dict[str, Any]:
        return {"schedulingGates": [{"name": "gang.example.com/complete"}]}

    def labels(self, parsed: spec.PoolSpec, member: Member) -> dict[str, str]:
        return {"gang.example.com/rank": str(member.node_rank), names.LABEL_POOL: "theirs"}

    def annotations(self, parsed: spec.PoolSpec, member: Member) -> dict[str, str]:
        return {"gang.example.com/name": member.group, names.ANNOTATION_ATTEMPT: "7"}

    def queue(self, parsed: spec.PoolSpec) -> None:
        return None


@pytest.fixture
def adapter(monkeypatch):
    monkeypatch.setattr(gangs, "GANGS", {"a-gang": AGang()})


def test_a_scheduler_of_the_table_writes_on_the_pods_of_each_engine_and_no_other_does(adapter):
    for scheduler, told in (("a-gang", True), ("another", False)):
        pool = a_pool(scheduling={"schedulerName": scheduler})
        for engine in pool.engines[:2]:
            pod = engine_pod.pod(pool, engine_pod.template(pool), engine, 0)
            found = pod["metadata"]["annotations"]
            # Without its pool's name it would be of the gang of another pool's engine.
            gang = f"{pool.owner.name}-{engine.name}-0"
            labels = pod["metadata"]["labels"]
            assert labels.get("gang.example.com/rank") == ("0" if told else None)
            assert labels[names.LABEL_POOL] == pool.owner.name
            assert found.get("gang.example.com/name") == (gang if told else None)
            assert found[names.ANNOTATION_ATTEMPT] == "0"  # what is the operator's own stays so
            assert ("schedulingGates" in pod["spec"]) is told
            assert pod["spec"].get("overhead") == ({"pods": "0"} if told else None)


def test_what_the_user_says_does_not_depend_on_the_adapter(adapter):
    """It was rendered and judged by the one for no gang: each other would have had to as well."""
    pool = a_pool(scheduling={"schedulerName": "a-gang", "priorityClassName": "high"})
    found = engine_pod.template(pool)["spec"]
    assert (found["schedulerName"], found["priorityClassName"]) == ("a-gang", "high")
    odd = parsed(schedulerName="a-gang", priorityClassName="system-node-critical")
    assert [problem.field for problem in gangs.problems(odd)] == [
        "spec.scheduling.priorityClassName"
    ]


def test_an_adapter_may_refuse_a_pool(adapter):
    raw = guide_spec(scheduling={"schedulerName": "a-gang"}, num_gpus_per_worker=4)
    refused = resolve_pool(OWNER, raw)
    assert isinstance(refused, Refused)
    assert [problem.field for problem in refused.problems] == ["spec.num_gpus_per_worker"]
