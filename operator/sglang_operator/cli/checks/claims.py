"""What a cluster needs for engines that have their trainer's GPUs by claims, as ``doctor`` sees it.

Asked of every cluster, told only where a pool of the namespace is such a one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.cli import texts
from sglang_operator.cli.checks.check import Check, Grade
from sglang_operator.cli.cluster.kubectl import ClusterError, Why
from sglang_operator.pool.resolve import Pool
from sglang_operator.view.cluster_view import ClusterView

NAME = "GPUs by claims"
_GROUP = "/apis/resource.k8s.io"
_VERSION = "v1"
_MOST_NAMED = 5

QUESTIONS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "resource group": (_GROUP, {}),
    "device classes": (f"{_GROUP}/{_VERSION}/deviceclasses", {}),
    "resource slices": (f"{_GROUP}/{_VERSION}/resourceslices", {}),
}

Json = Mapping[str, Any]
Facts = Mapping[str, bytes | ClusterError]


def check(scope: str, found: Facts, pools: ClusterView | None) -> Iterator[Check]:
    """What keeps engines of the namespace's pools from the devices of their claims."""
    seen = (pool.resolved for pool in pools.pools) if pools is not None else ()
    own = [
        pool
        for pool in seen
        if isinstance(pool, Pool) and pool.placement.joins and not pool.placement.published
        if pool.owner.namespace == scope
    ]
    if not own:
        return
    told = [*_served(found)] or [*_classes(own, found), *_devices(own, found)]
    yield from told
    if not told:
        which = ", ".join(sorted(pool.owner.name for pool in own))
        yield Check(name=NAME, grade=Grade.GOOD, what=texts.CLAIMS_GOOD.format(pools=which))


def _served(found: Facts) -> Iterator[Check]:
    """Whether claims are served, in the version that the operator speaks."""
    answer = found.get("resource group")
    if answer is None or isinstance(answer, ClusterError):
        if answer is not None and answer.why is Why.NOT_FOUND:
            yield _not_served("nothing of it")
        return
    versions = [each.get("version") for each in json.loads(answer).get("versions") or ()]
    if _VERSION not in versions:
        yield _not_served(", ".join(map(str, versions)) or "nothing of it")


def _not_served(versions: str) -> Check:
    what = texts.CLAIMS_NOT_SERVED.format(found=versions)
    return Check(name=NAME, grade=Grade.BAD, what=what, do=texts.DO_SERVE_CLAIMS)


def _classes(pools: list[Pool], found: Facts) -> Iterator[Check]:
    """Whether there are the DeviceClasses that the claims ask for."""
    classes = _items(found.get("device classes"))
    if classes is None:
        return
    known = {item["metadata"]["name"] for item in classes}
    for pool in pools:
        named = pool.spec.placement.slot.device_class_name
        if named not in known:
            what = texts.CLAIMS_NO_CLASS.format(pool=pool.owner.name, name=named)
            do = texts.DO_DEVICE_CLASS.format(known=", ".join(sorted(known)) or "none")
            yield Check(name=NAME, grade=Grade.BAD, what=what, do=do)


def _devices(pools: list[Pool], found: Facts) -> Iterator[Check]:
    """Whether a driver publishes devices, and no device plugin counts the same ones."""
    if _items(found.get("resource slices")) is None:
        return
    there, nodes = published(found), _items(found.get("nodes"))
    if not there:
        yield Check(name=NAME, grade=Grade.BAD, what=texts.CLAIMS_NO_DEVICES, do=texts.DO_DRIVER)
    for resource in sorted({pool.resource for pool in pools}):
        both = sorted(
            node["metadata"]["name"]
            for node in nodes or ()
            if node["metadata"]["name"] in there and _counts(node, resource)
        )
        if both:
            more = f" and {len(both) - _MOST_NAMED} more" if len(both) > _MOST_NAMED else ""
            what = texts.CLAIMS_COUNTED_TWICE.format(
                nodes=", ".join(both[:_MOST_NAMED]) + more, resource=resource
            )
            yield Check(name=NAME, grade=Grade.BAD, what=what, do=texts.DO_COUNT_ONCE)


def published(found: Facts) -> frozenset[str]:
    """The nodes of which a driver publishes devices, as far as that may be read."""
    specs = [each.get("spec") or {} for each in _items(found.get("resource slices")) or ()]
    return frozenset(str(spec.get("nodeName") or "") for spec in specs if spec.get("devices"))


def _counts(node: Json, resource: str) -> bool:
    """Whether a device plugin has some of this resource there."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return str(allocatable.get(resource, "0")) != "0"


def _items(answer: bytes | ClusterError | None) -> list[Json] | None:
    """The objects of a list; None where it could not be read."""
    if answer is None or isinstance(answer, ClusterError):
        return None
    return list(json.loads(answer).get("items") or ())
