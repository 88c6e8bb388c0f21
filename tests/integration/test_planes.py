"""A plane that files share is as before when a file is done, or the file has failed."""

import pytest

from sglang_operator.testing import WaitTimeoutError
from tests.integration import planes
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("1x4", operator=False)

CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
RUNTIME = {"metadata": {"name": "left-behind"}, "handler": "any"}
DEPLOYMENT = {
    "metadata": {"name": "operator"},
    "spec": {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {
            "metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [{"name": "x", "image": "x:1"}]},
        },
    },
}


def pods(plane):
    return plane.api.get(planes.PODS)["items"]


def test_what_a_file_leaves_of_the_clusters_own_is_named(plane):
    before = planes.state(plane)
    plane.api.post(CLASSES, RUNTIME)
    try:
        assert planes.left(before, planes.state(plane)) == ["runtimeclasses/left-behind"]
    finally:
        plane.api.delete(f"{CLASSES}/left-behind")
    assert planes.left(before, planes.state(plane)) == []


def test_a_definition_that_was_changed_is_named_too(plane):
    before = planes.state(plane)
    (definition,) = (name for name in before if name.startswith("customresourcedefinitions/"))
    changed = {**before, definition: before[definition].replace("sgi", "other")}
    assert planes.left(before, changed) == [definition]
    assert planes.left({}, {definition: ""}) == planes.left({definition: ""}, {}) == [definition]


def test_pools_pods_and_what_makes_them_are_cleared_away_and_so_are_nodes(plane):
    pool = PoolUnderTest(plane, plane.namespace("cleared"))
    pool.apply()
    plane.api.post("/apis/apps/v1/namespaces/cleared/deployments", DEPLOYMENT)
    plane.wait(lambda: pods(plane), 30, "a pod")
    try:
        planes.clear(plane)
        assert pods(plane) == plane.api.get(planes.POOLS)["items"] == []
        assert plane.api.get("/api/v1/nodes")["items"] == []
    finally:
        plane.replace_nodes("1x4")


def test_a_file_that_leaves_something_fails_and_the_next_has_a_new_plane(plane, monkeypatch):
    """With a plane that counts its ends: to start one takes seconds."""
    shared, ends = planes.Shared(), []
    monkeypatch.setattr(planes, "SETTLED_SECONDS", 0)
    monkeypatch.setattr(planes.Shared, "_started", lambda self, _: plane)
    monkeypatch.setattr(planes.Shared, "close", lambda _: ends.append("closed"))
    wanted = planes.Wanted(nodes="1x4")
    with shared.lent(wanted):
        pass
    assert ends == []
    try:
        told = pytest.raises(WaitTimeoutError, match="leaves behind: runtimeclasses/left-behind")
        with told, shared.lent(wanted):
            plane.api.post(CLASSES, RUNTIME)
    finally:
        plane.api.delete(f"{CLASSES}/left-behind")
    assert ends == ["closed"]
    plane.replace_nodes("1x4")
