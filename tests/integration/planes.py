"""Control planes that files share: each file gets one as if it were new.

To start one costs about as much as all that a short file does on it.  So the files that
``tests/conftest.py`` puts together get the same one in a row, each with its own nodes and its own
operator.  What a file may leave is cleared away after it: pools, pods and what makes pods, nodes,
and what an installation brings beside the definition.  Its namespaces stay, so that no name comes
again.  Anything else of the cluster's own that differs from before fails the file, and the next
one gets a new plane.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from sglang_operator.api import names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import NAMESPACE, InstalledOperator
from sglang_operator.testing.realnode import kitimages

CLEARED_SECONDS = 60.0
SETTLED_SECONDS = 10.0  # roles that are made of others, for one, follow them in a moment
POOLS = f"/apis/{names.API_VERSION}/{names.PLURAL}"
PODS = "/api/v1/pods"
# They would make pods anew.
OWNERS = (
    "/apis/batch/v1/cronjobs",
    "/apis/batch/v1/jobs",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/replicasets",
)
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
ROLES = "/apis/rbac.authorization.k8s.io/v1"
INSTALLED = "labelSelector=app.kubernetes.io/name=sglang-operator"
# These come and go with others: namespaces stay, nodes are each file's own, an IPAddress goes with
# its Service, a CSINode with its node, and an APIService with its definition.
FOLLOWING = frozenset({"namespaces", "nodes", "ipaddresses", "csinodes", "apiservices"})

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a module says by ``pytestmark = pytest.mark.plane(…)``."""

    nodes: str
    kind: Literal["kwok", "real"] = "kwok"
    operator: bool = True  # else the module starts its own
    quiet: bool = False  # the operator's log has no error in the end
    options: Json = field(default_factory=dict)  # of InstalledOperator

    @property
    def key(self) -> tuple[str, ...]:
        """Modules of the same key can have the same plane: KWOK's nodes are soon replaced."""
        return (self.kind,) if self.kind == "kwok" else (self.kind, self.nodes)


def wanted(item: pytest.Item | pytest.Collector | None) -> Wanted | None:
    """What the mark of a test's module asks for; None without a mark."""
    mark = item.get_closest_marker("plane") if item is not None else None
    if mark is None:
        return None
    known = {key: mark.kwargs[key] for key in ("kind", "operator", "quiet") if key in mark.kwargs}
    options = {key: value for key, value in mark.kwargs.items() if key not in known}
    (nodes,) = mark.args
    return Wanted(nodes=nodes, **known, options=options)


class Shared:
    """The plane that this process has now, if any; one at a time."""

    def __init__(self) -> None:
        self._plane: ControlPlane | None = None
        self._key: tuple[str, ...] = ()

    @contextlib.contextmanager
    def lent(self, wanted: Wanted) -> Iterator[ControlPlane]:
        """The plane for one module, with the definition and the nodes that it wants.

        Raises AssertionError in the end if the module has left something.
        """
        plane = self._started(wanted)
        if wanted.kind == "kwok":
            plane.replace_nodes(wanted.nodes)
        before = state(plane)

        def as_before() -> bool:
            differing = left(before, state(plane))
            assert not differing, f"this file leaves behind: {', '.join(differing)}"
            return True

        try:
            yield plane
            clear(plane)
            plane.wait(as_before, SETTLED_SECONDS, "the plane to be as it was before this file")
        except BaseException:
            self.close()
            raise

    def keep_for(self, following: Wanted | None) -> None:
        """End the plane if this is not for it."""
        if self._plane is not None and (following is None or following.key != self._key):
            self.close()

    def close(self) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            plane.stop()

    def _started(self, wanted: Wanted) -> ControlPlane:
        self.keep_for(wanted)
        if self._plane is None:
            plane = ControlPlane("0" if wanted.kind == "kwok" else wanted.nodes, kind=wanted.kind)
            plane.start()
            self._plane, self._key = plane, wanted.key
            InstalledOperator(plane).define()
            if wanted.kind == "real":
                plane.load_image(kitimages.default_engine())
        return self._plane


def clear(plane: ControlPlane) -> None:
    """Remove what a file may leave, its operators having ended."""
    grace = 0 if plane.kind == "kwok" else 1  # else a container outlives its pod
    plane.wait(lambda: not _removed(plane, grace), CLEARED_SECONDS, "no pool and no pod")
    for lease in plane.api.get(LEASES)["items"] if _is_there(plane, NAMESPACE) else ():
        plane.api.delete(f"{LEASES}/{lease['metadata']['name']}", missing_ok=True)
    for kind in ("clusterroles", "clusterrolebindings"):
        plane.api.delete(f"{ROLES}/{kind}?{INSTALLED}")
    if plane.kind == "kwok":
        plane.replace_nodes("0")
    for log in (plane.data / "logs").glob("*operator*.log"):
        log.unlink()  # the next operator of this name writes one of its own


def _removed(plane: ControlPlane, grace: int) -> list[str]:
    """The paths of the pools, pods and what makes pods that were still there; all are deleted."""
    found = []
    for collection in (POOLS, *OWNERS, PODS):
        base, _, plural = collection.rpartition("/")
        query = f"?gracePeriodSeconds={grace}" if collection == PODS else ""
        for item in plane.api.get(collection)["items"]:
            meta = item["metadata"]
            path = f"{base}/namespaces/{meta['namespace']}/{plural}/{meta['name']}"
            if "deletionTimestamp" not in meta or not grace:
                plane.api.delete(f"{path}{query}", missing_ok=True)
            found.append(path)
    return found


def _is_there(plane: ControlPlane, namespace: str) -> bool:
    return plane.api.exists(f"/api/v1/namespaces/{namespace}")


def state(plane: ControlPlane) -> dict[str, str]:
    """What every object says that is of no namespace, by its kind and name."""
    found = {}
    for collection in _collections(plane):
        for item in plane.api.get(collection)["items"]:
            body = {key: item[key] for key in item if key not in ("metadata", "status")}
            name = f"{collection.rpartition('/')[2]}/{item['metadata']['name']}"
            found[name] = json.dumps(body, sort_keys=True)
    return found


def _collections(plane: ControlPlane) -> Iterator[str]:
    """Where objects of no namespace are listed, one version of each group."""
    groups = plane.api.get("/apis")["groups"]
    bases = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    for base in bases:
        for kind in plane.api.get(base)["resources"]:
            whole = kind["namespaced"] is False and "list" in kind["verbs"]
            if whole and "/" not in kind["name"] and kind["name"] not in FOLLOWING:
                yield f"{base}/{kind['name']}"


def left(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The objects that are there, gone or other than before."""
    names_ = before.keys() | after.keys()
    return sorted(name for name in names_ if before.get(name) != after.get(name))
