"""What is asked of the API server, and that nothing is asked when nothing differs."""

import copy
import dataclasses

import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import engine_pod, kinds
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.plan.plan import plan
from tests.builders import NOW, OWNER, a_pool, all_pods, weighed


def a_plan(pool, pods, **observed):
    return plan(pool, Observed(pods=tuple(pods), **observed), NOW)


def wanted(pool, pods):
    return kinds.children(pool, weighed(pool, pods))


def as_observed(bodies, owner=OWNER.uid):
    return {
        (body["kind"], body["metadata"]["name"]): ObservedChild(
            uid=names.Uid(f"uid-{body['kind']}"), owner=owner, body=copy.deepcopy(body)
        )
        for body in bodies
    }


def test_deletes_come_before_creates_and_name_the_exact_pod():
    old = a_pool(device_mapping="list(range(0,4))")
    new = a_pool(device_mapping="list(range(2,6))")
    batch = actions.pod_actions(new, a_plan(new, all_pods(old)), engine_pod.template(new))
    assert [type(action).__name__ for action in batch] == ["DeletePod", "CreatePod"]
    delete, create = batch
    assert isinstance(delete, actions.DeletePod)
    assert (delete.name, delete.uid, delete.resource_version) == (
        "actor-infer-g0-1-0",
        "uid-actor-infer-g0-1-0",
        100,
    )
    assert create.name == "actor-infer-g4-5-0"


def test_a_new_pool_gets_its_service_budget_lease_and_registry():
    pool = a_pool()
    batch = actions.child_actions(pool, wanted(pool, []), Observed())
    assert [(type(a).__name__, a.kind, a.name) for a in batch] == [
        ("CreateChild", "Service", "actor-infer"),
        ("CreateChild", "PodDisruptionBudget", "actor-infer-engines"),
        ("CreateChild", "Lease", "actor-infer-weights"),
        ("CreateChild", "ConfigMap", "actor-infer-engines"),
        ("CreateChild", "ControllerRevision", f"actor-infer-{pool.revision}"),
    ]


def test_what_selects_pods_waits_for_them_but_engines_names_do_not():
    pool = a_pool(network={"headlessService": True})
    batch = actions.child_actions(pool, wanted(pool, []), Observed(), pods_first=True)
    assert [(type(a).__name__, a.kind, a.name) for a in batch] == [
        ("CreateChild", "Service", "actor-infer-engines"),
        ("CreateChild", "Lease", "actor-infer-weights"),
        ("CreateChild", "ConfigMap", "actor-infer-engines"),
        ("CreateChild", "ControllerRevision", f"actor-infer-{pool.revision}"),
    ]


def test_a_service_that_is_there_already_does_not_wait_to_be_put_right():
    pool = a_pool()
    children = as_observed(wanted(pool, []))
    children["Service", "actor-infer"].body["spec"]["ports"] = []
    observed = Observed(children=children)
    batch = actions.child_actions(pool, wanted(pool, []), observed, pods_first=True)
    assert [(type(a).__name__, a.kind) for a in batch] == [("UpdateChild", "Service")]


def test_children_as_they_should_be_are_left_alone_whatever_the_server_added():
    pool = a_pool()
    bodies = wanted(pool, all_pods(pool))
    children = as_observed(bodies)
    service = children["Service", "actor-infer"].body
    service["spec"]["clusterIP"] = "10.96.0.7"
    service["spec"]["ports"][0]["nodePort"] = 0
    assert (
        actions.child_actions(pool, wanted(pool, all_pods(pool)), Observed(children=children)) == []
    )


@pytest.mark.parametrize(
    ("kind", "change", "path"),
    [
        pytest.param("Service", {"ports": []}, ".spec.ports", id="port removed"),
        pytest.param("Service", {"selector": {}}, ".spec.selector", id="selector emptied"),
        pytest.param("PodDisruptionBudget", {"minAvailable": 0}, ".spec.minAvailable", id="budget"),
    ],
)
def test_a_changed_child_is_put_right_and_the_difference_is_named(kind, change, path):
    pool = a_pool()
    children = as_observed(wanted(pool, all_pods(pool)))
    key = next(key for key in children if key[0] == kind)
    children[key].body["spec"].update(change)
    batch = actions.child_actions(pool, wanted(pool, all_pods(pool)), Observed(children=children))
    assert [(type(a).__name__, a.kind) for a in batch] == [("UpdateChild", kind)]
    assert batch[0].reason.startswith(path)


def test_a_child_of_somebody_else_is_reported_and_not_touched():
    pool = a_pool()
    bodies = wanted(pool, all_pods(pool))
    children = as_observed(bodies) | as_observed(bodies[:1], owner=names.Uid("another"))
    children["Service", "actor-infer"].body["spec"]["ports"] = []
    observed = Observed(children=children)
    assert actions.child_actions(pool, wanted(pool, all_pods(pool)), observed) == []
    assert actions.foreign_children(pool, wanted(pool, all_pods(pool)), observed) == [
        ("Service", "actor-infer")
    ]


def test_children_of_an_earlier_pool_of_this_name_are_waited_for():
    pool = a_pool()
    children = {
        key: dataclasses.replace(child, owner_pool=OWNER.name)
        for key, child in as_observed(
            wanted(pool, all_pods(pool)), owner=names.Uid("earlier")
        ).items()
    }
    observed = Observed(children=children)
    assert actions.child_actions(pool, wanted(pool, all_pods(pool)), observed) == []
    assert actions.foreign_children(pool, wanted(pool, all_pods(pool)), observed) == []


def test_the_headless_service_goes_when_it_is_no_longer_asked_for():
    with_names = a_pool(network={"headlessService": True})
    children = as_observed(wanted(with_names, all_pods(with_names)))
    assert ("Service", "actor-infer-engines") in children
    plain = a_pool()
    observed = Observed(children=children, pods=tuple(all_pods(with_names)))
    batch = actions.child_actions(
        plain, kinds.children(plain, weighed(plain, []), observed), observed
    )
    dropped = [a for a in batch if isinstance(a, actions.DeleteChild)]
    assert [(a.kind, a.name) for a in dropped] == [("Service", "actor-infer-engines")]


def test_a_pod_says_its_host_name_where_a_service_is_to_name_it():
    """Seen on a real node: without it the headless Service has no name for the pod."""
    for pool, expected in (
        (a_pool(network={"headlessService": True}), "actor-infer-g0-1-3"),
        (a_pool(), None),
    ):
        pod = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 3)
        assert pod["spec"].get("hostname") == expected


def test_a_pod_names_its_failures_and_its_attempt():
    pool = a_pool()
    template = engine_pod.template(pool)
    pod = engine_pod.pod(pool, template, pool.engines[0], 3, 2)
    assert pod["metadata"]["name"] == "actor-infer-g0-1-3"
    assert pod["metadata"]["annotations"][names.ANNOTATION_FAILURES] == "2"
    assert names.LABEL_ENGINE not in template["metadata"]["labels"]  # the template is not changed


def test_the_same_pool_of_another_generation_has_the_same_revision():
    pool = a_pool()
    later = dataclasses.replace(pool, owner=dataclasses.replace(pool.owner, generation=7))
    assert (
        engine_pod.template(later)["metadata"]["labels"]
        == engine_pod.template(pool)["metadata"]["labels"]
    )
