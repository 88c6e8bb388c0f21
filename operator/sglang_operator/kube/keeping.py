"""What is kept of objects that anybody may write: no more than is needed, and no more than fits.

Labels and owner references are words that everybody may put on their own objects.  An object is a
pool's child if the pool is known by its UID and would give it this name; of any other it matters
only that it stands there.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from sglang_operator.api import names, shape
from sglang_operator.children.kind import ChildKind
from sglang_operator.observed import variables, wire

# Of a namespace's objects whose pool is not known, or not yet: streams of two kinds have no order.
UNCONFIRMED_BYTES = 4 * 2**20
_PER_VALUE = 96  # bytes that a key with its value takes beside what is written
Known = Callable[[str, str, str], bool]  # namespace, name and UID: is there such a pool?


class _Owner(NamedTuple):
    pool: str
    uid: str


class Keeper:
    """Decides for each child of one kind whether it is kept whole."""

    def __init__(self, kind: ChildKind, known: Known) -> None:
        self._kind = kind
        self._known = known
        self._unconfirmed: defaultdict[str, dict[str, _Owner]] = defaultdict(dict)
        self._whole: defaultdict[str, dict[str, int]] = defaultdict(dict)  # sizes, by name
        self._sums: defaultdict[str, int] = defaultdict(int)  # of these

    def kept(self, child: wire.Child) -> wire.Child:
        """The child, or what is left of it."""
        meta = child.metadata
        controller = meta.controller
        self.forget(meta.namespace, meta.name)
        if self._kind.unkept:
            child = msgspec.structs.replace(child, **dict.fromkeys(self._kind.unkept))
        if not child.whole:
            return child
        if controller is None or controller.kind != names.KIND:
            return bare(child)
        if not self._kind.is_name(meta.name, controller.name):
            return bare(child)
        size = _size(child)
        if self._sums[meta.namespace] + size > self._kind.most_bytes:
            return bare(child)
        if not self._known(meta.namespace, controller.name, controller.uid):
            if self._unproven(meta.namespace) + size > UNCONFIRMED_BYTES:
                return bare(child)
            owner = _Owner(controller.name, controller.uid)
            self._unconfirmed[meta.namespace][meta.name] = owner
        self._whole[meta.namespace][meta.name] = size
        self._sums[meta.namespace] += size
        return child

    def forget(self, namespace: str, name: str) -> None:
        """It is gone, or looked at anew."""
        self._unconfirmed.get(namespace, {}).pop(name, None)
        self._sums[namespace] -= self._whole[namespace].pop(name, 0)
        if not self._whole[namespace]:
            del self._whole[namespace], self._sums[namespace]

    def _unproven(self, namespace: str) -> int:
        """Bytes of the namespace's children whose pool is still not known."""
        there = self._unconfirmed.pop(namespace, {})
        left = {name: owner for name, owner in there.items() if not self._known(namespace, *owner)}
        if left:
            self._unconfirmed[namespace] = left
        return sum(self._whole[namespace][name] for name in left)


def _size(child: wire.Child) -> int:
    """Bytes of memory, about."""
    meta = child.metadata
    values = len(meta.labels) + len(meta.annotations) + len(child.data or ()) + _values(child.spec)
    return len(msgspec.json.encode(child)) + _PER_VALUE * values


def _values(value: Any) -> int:
    """How many maps and lists hold in all, and texts and numbers in these."""
    count, level = 0, [value]
    while level:
        parts: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                parts.extend(each.values())
            elif isinstance(each, list):
                parts.extend(each)
        count += len(parts)
        level = parts
    return count


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
        ),
        whole=False,
    )


def of_pool(pool: wire.CustomResource) -> wire.CustomResource:
    """A pool whose spec can be built, and is not too large to be; without what nothing asks for.

    Raises ValueError with what is too large, and whatever building it does.
    """
    too_large = shape.excess(pool.spec)
    if too_large is not None:
        raise ValueError(f"{shape.SPEC}{too_large}")
    meta = msgspec.structs.replace(pool.metadata, labels={}, annotations={}, owner_references=[])
    # A copy: the text itself is a piece of a whole page.
    return msgspec.structs.replace(pool, metadata=meta, written=pool.written.copy())


def of_pod(pod: wire.Pod) -> wire.Pod:
    """A pod with those labels and annotations that are asked for, no longer than they may be.

    Most of a pod are the arguments and variables of its containers, of which a few are asked for;
    a list of ten thousand pods is kept until all of it has come.
    """
    meta, spec = pod.metadata, pod.spec
    labels = {key: value for key, value in meta.labels.items() if key in wire.READ_LABELS}
    annotations = {
        key: meta.annotations[key][:most]
        for key, most in wire.READ_ANNOTATIONS.items()
        if key in meta.annotations
    }
    return msgspec.structs.replace(
        pod,
        metadata=msgspec.structs.replace(meta, labels=labels, annotations=annotations),
        spec=msgspec.structs.replace(
            spec,
            containers=spec.containers and [_of_container(each) for each in spec.containers],
            init_containers=[_of_container(each) for each in spec.init_containers],
        ),
    )


def _of_container(container: wire.Container) -> wire.Container:
    return msgspec.structs.replace(
        container,
        args=variables.read_of_arguments(container.args),
        env=variables.read_of(container.env),
    )
