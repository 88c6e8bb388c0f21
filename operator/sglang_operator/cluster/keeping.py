"""What is kept of objects that anybody may write: no more than is needed, and no more than fits.

Labels and owner references are words that everybody may put on their own objects.  An object is a
pool's child if the pool is known by its UID and would give it this name; of any other it matters
only that it stands there.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from sglang_operator.api import names, shape
from sglang_operator.cluster import wire

# Of a namespace's objects whose pool is not known, or not yet: streams of two kinds have no order.
UNCONFIRMED_BYTES = 4 * 2**20

Known = Callable[[str, str, str], bool]  # namespace, name and UID: is there such a pool?


class _Child(NamedTuple):
    pool: str
    uid: str
    size: int


class Keeper:
    """Decides for each child of one kind whether it is kept whole."""

    def __init__(self, kind: str, known: Known) -> None:
        self._kind = kind
        self._known = known
        self._unconfirmed: defaultdict[str, dict[str, _Child]] = defaultdict(dict)

    def kept(self, child: wire.Child) -> wire.Child:
        """The child, or what is left of it."""
        meta = child.metadata
        controller = meta.controller
        self.forget(meta.namespace, meta.name)
        if controller is None or controller.kind != names.KIND:
            return bare(child)
        if meta.name not in names.children(self._kind, controller.name):
            return bare(child)
        if self._known(meta.namespace, controller.name, controller.uid):
            return child
        size = len(msgspec.json.encode(child))
        if self._unproven(meta.namespace) + size > UNCONFIRMED_BYTES:
            return bare(child)
        self._unconfirmed[meta.namespace][meta.name] = _Child(controller.name, controller.uid, size)
        return child

    def forget(self, namespace: str, name: str) -> None:
        """It is gone, or looked at anew."""
        self._unconfirmed.get(namespace, {}).pop(name, None)

    def _unproven(self, namespace: str) -> int:
        """Bytes of the namespace's children whose pool is still not known."""
        there = self._unconfirmed.pop(namespace, {})
        left = {
            name: child
            for name, child in there.items()
            if not self._known(namespace, child.pool, child.uid)
        }
        if left:
            self._unconfirmed[namespace] = left
        return sum(child.size for child in left.values())


def bare(child: wire.Child) -> wire.Child:
    """Who it is and whose."""
    meta = child.metadata
    controller = meta.controller
    pool = meta.labels.get(names.LABEL_POOL)
    return wire.Child(
        metadata=wire.Meta(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            resource_version=meta.resource_version,
            labels={names.LABEL_POOL: pool} if pool else {},
            owner_references=[controller] if controller else [],
        )
    )


def of_pool(pool: wire.CustomResource) -> wire.CustomResource:
    """A pool whose spec can be built, and is not too large to be; without what nothing asks for.

    Raises ValueError with what is too large, and whatever building it does.
    """
    too_large = shape.excess(pool.spec)
    if too_large is not None:
        raise ValueError(f"its spec {too_large[0]}")
    meta = msgspec.structs.replace(pool.metadata, labels={}, annotations={}, owner_references=[])
    # A copy: the text itself is a piece of a whole page.
    return msgspec.structs.replace(pool, metadata=meta, written=pool.written.copy())


def of_pod(pod: wire.Pod) -> wire.Pod:
    """A pod without the labels and annotations that nothing here asks for."""
    meta = pod.metadata
    if all(map(names.is_own_key, (*meta.labels, *meta.annotations))):
        return pod
    labels, annotations = (
        {key: value for key, value in given.items() if names.is_own_key(key)}
        for given in (meta.labels, meta.annotations)
    )
    return msgspec.structs.replace(
        pod, metadata=msgspec.structs.replace(meta, labels=labels, annotations=annotations)
    )
