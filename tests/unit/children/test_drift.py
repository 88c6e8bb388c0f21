"""Every field of every child: what decides who is served is put right, the rest stays alone."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import drift, kinds
from sglang_operator.observed.model import Observed, ObservedChild
from tests.builders import OWNER, a_pool, all_pods, weighed

Json = dict[str, Any]

POOL = a_pool(network={"headlessService": True})
CHILDREN = {
    f"{body['kind']}/{body['metadata']['name']}": body
    for body in kinds.children(POOL, weighed(POOL, all_pods(POOL)))
}
CLIENTS, HEADLESS = "Service/actor-infer", "Service/actor-infer-engines"
BUDGET = "PodDisruptionBudget/actor-infer-engines"

# What an API server adds to what it is sent.
SERVER: Mapping[str, Json] = {
    CLIENTS: {
        "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "sessionAffinity": "None",
    },
    HEADLESS: {
        "clusterIPs": ["None"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "sessionAffinity": "None",
    },
}


def stored(name: str) -> Json:
    """The child as the API server keeps it."""
    body = copy.deepcopy(CHILDREN[name])
    body.get("spec", {}).update(copy.deepcopy(SERVER.get(name, {})))
    return body


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, as the API server does it."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def asked(name: str, found: Json) -> list[actions.ChildAction]:
    child = ObservedChild(uid=names.Uid("uid"), owner=OWNER.uid, body=found)
    observed = Observed(children={(found["kind"], found["metadata"]["name"]): child})
    return actions.child_actions(POOL, [CHILDREN[name]], observed)


def put_right(name: str, found: Json) -> Json:
    """The object after what is asked for it; fails if nothing is."""
    (action,) = asked(name, found)
    assert isinstance(action, actions.UpdateChild), action
    patch = {key: action.body[key] for key in ("spec", "data", "revision") if key in action.body}
    patch["metadata"] = {"labels": action.body["metadata"]["labels"]}
    after: Json = merged(found, patch)
    return after


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


RENDERED = [
    (name, path)
    for name, body in CHILDREN.items()
    for part in ("spec", "data", "revision")
    if part in (*kinds.of(body["kind"]).compared, "spec")
    for path in leaves(body.get(part, {}), (part,))
] + [
    (name, ("metadata", "labels", key))
    for name, body in CHILDREN.items()
    for key in body["metadata"]["labels"]
]


def inside(body: Json, path: tuple[Any, ...]) -> Any:
    for part in path:
        body = body[part]
    return body


def changed(value: object) -> object:
    return value + 1 if isinstance(value, int) and not isinstance(value, bool) else f"{value}-x"


@pytest.mark.parametrize(("name", "path"), RENDERED, ids=str)
@pytest.mark.parametrize("removed", [False, True], ids=["changed", "removed"])
def test_every_field_that_is_written_is_put_right(name, path, removed):
    found = stored(name)
    holder = inside(found, path[:-1])
    if removed:
        del holder[path[-1]]
    else:
        holder[path[-1]] = changed(holder[path[-1]])
    if path[-1] == "clusterIP":
        (action,) = asked(name, found)
        assert isinstance(action, actions.DeleteChild)  # it cannot be changed in place
        return
    after = put_right(name, found)
    assert not asked(name, after)
    assert inside(after, path) == inside(CHILDREN[name], path)


@pytest.mark.parametrize("name", CHILDREN)
def test_what_the_server_and_others_add_is_no_difference(name):
    found = stored(name)
    found["metadata"]["labels"]["team"] = "rl"
    found["metadata"]["annotations"] = {"note": "x"}
    found["metadata"]["finalizers"] = ["example.com/x"]
    assert not asked(name, found)


WRITTEN_BY_OTHERS: list[tuple[str, str, Any, bool]] = [
    # child, field of its spec, value, whether it decides who is served
    (CLIENTS, "publishNotReadyAddresses", True, True),
    (CLIENTS, "externalIPs", ["192.0.2.1"], True),
    (CLIENTS, "externalName", "example.com", True),
    (CLIENTS, "internalTrafficPolicy", "Local", True),
    (CLIENTS, "loadBalancerIP", "192.0.2.1", True),
    (CLIENTS, "selector", {**CHILDREN[CLIENTS]["spec"]["selector"], "zone": "a"}, True),
    (CLIENTS, "selector", {}, True),
    (CLIENTS, "type", "NodePort", True),
    (CLIENTS, "ports", [*CHILDREN[CLIENTS]["spec"]["ports"], {"name": "x", "port": 1}], True),
    (CLIENTS, "sessionAffinity", "ClientIP", False),
    (CLIENTS, "trafficDistribution", "PreferClose", False),
    (CLIENTS, "ipFamilyPolicy", "PreferDualStack", False),
    (CLIENTS, "clusterIP", "10.96.0.8", False),
    (HEADLESS, "externalIPs", ["192.0.2.1"], True),
    (HEADLESS, "selector", {**CHILDREN[HEADLESS]["spec"]["selector"], "zone": "a"}, True),
    (BUDGET, "maxUnavailable", "100%", True),
    (
        BUDGET,
        "selector",
        {
            **CHILDREN[BUDGET]["spec"]["selector"],
            "matchExpressions": [{"key": "zone", "operator": "Exists"}],
        },
        True,
    ),
    (
        BUDGET,
        "selector",
        {"matchLabels": {**CHILDREN[BUDGET]["spec"]["selector"]["matchLabels"], "zone": "a"}},
        True,
    ),
]


@pytest.mark.parametrize(("name", "field", "value", "matters"), WRITTEN_BY_OTHERS, ids=str)
def test_what_others_write_is_put_right_if_it_decides_who_is_served(name, field, value, matters):
    found = stored(name)
    found["spec"][field] = value
    if not matters:
        assert not asked(name, found)
        return
    after = put_right(name, found)
    assert not asked(name, after)
    default = SERVER.get(name, {}).get(field)
    assert after["spec"].get(field, default) == CHILDREN[name]["spec"].get(field, default)


@pytest.mark.parametrize("name", [CLIENTS, HEADLESS])
@pytest.mark.parametrize(
    "label", ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"]
)
def test_a_label_with_which_kube_proxy_passes_a_service_over_is_taken_away(name, label):
    found = stored(name)
    found["metadata"]["labels"].update({label: "x", "team": "a"})
    after = put_right(name, found)
    assert not asked(name, after)
    assert label not in after["metadata"]["labels"]
    assert after["metadata"]["labels"]["team"] == "a"


def test_a_client_service_without_an_address_is_made_anew():
    found = stored(CLIENTS)
    found["spec"].update(clusterIP="None", clusterIPs=["None"])
    (action,) = asked(CLIENTS, found)
    assert (type(action), action.name) == (actions.DeleteChild, "actor-infer")


@pytest.mark.parametrize("name", CHILDREN)
def test_nothing_is_wrong_with_what_was_just_written(name):
    assert drift.drift(CHILDREN[name], stored(name)) is None
    assert drift.drift(CHILDREN[name], CHILDREN[name]) is None


def test_a_map_that_chooses_pods_is_named_directly_below_the_spec():
    """What takes one key more away again knows no other place (``drift._cleared``)."""
    assert all(path.count(".") == 2 and path.startswith(".spec.") for path in drift.EXACT)


def test_a_trainers_words_in_the_lease_are_its_own():
    found = stored("Lease/actor-infer-weights")
    found["spec"] = {"holderIdentity": "trainer", "leaseDurationSeconds": 30}
    found["metadata"]["annotations"] = {names.ANNOTATION_PHASE: "Syncing"}
    assert not asked("Lease/actor-infer-weights", found)


def test_others_may_keep_their_own_words_in_the_registry():
    found = stored("ConfigMap/actor-infer-engines")
    found["data"]["note"] = "x"
    assert not asked("ConfigMap/actor-infer-engines", found)


def test_what_an_earlier_operator_told_trainers_and_nobody_keeps_up_to_date_goes():
    found = stored("ConfigMap/actor-infer-engines")
    found["data"] |= {"verl": '["10.0.0.9:30000"]', "note": "x"}
    (action,) = asked("ConfigMap/actor-infer-engines", found)
    assert isinstance(action, actions.UpdateChild)
    assert action.reason == ".data.verl differs"
    assert merged(found["data"], action.body["data"]) == {
        **CHILDREN["ConfigMap/actor-infer-engines"]["data"],
        "note": "x",
    }
