"""Without a gang each pod is scheduled by itself."""

from sglang_operator.api import spec
from sglang_operator.scheduling import gangs
from tests.builders import guide_spec


def parsed(**scheduling: str) -> spec.PoolSpec:
    return spec.parse(guide_spec(scheduling=scheduling))


def test_a_pod_says_only_what_the_user_says():
    assert gangs.of(parsed()).pod_spec(parsed()) == {}
    named = parsed(schedulerName="another", priorityClassName="high")
    assert gangs.of(named).pod_spec(named) == {
        "schedulerName": "another",
        "priorityClassName": "high",
    }


def test_a_priority_class_has_a_name_that_can_be_one():
    odd = parsed(priorityClassName="Not A Name")
    (problem,) = gangs.of(odd).problems(odd)
    assert problem.field == "spec.scheduling.priorityClassName"
    assert not list(gangs.of(parsed(priorityClassName="high")).problems(parsed()))
