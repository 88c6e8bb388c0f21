"""The API server's paths for every kind the operator touches."""

from sglang_operator.api import names
from sglang_operator.children import kinds

NODES = "/api/v1/nodes"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
EVENTS_GROUP = "/apis/events.k8s.io/v1"


def _collection(group: str, plural: str, namespace: str) -> str:
    """A collection in one namespace, or in all of them if the namespace is empty."""
    return f"{group}/namespaces/{namespace}/{plural}" if namespace else f"{group}/{plural}"


def object_of(path: str) -> tuple[str, str]:
    """The plural and the name of the object that a path leads to, or whose subresource it is.

    Of what leads to no object in a namespace these are any two words.
    """
    parts = path.split("/")
    if "namespaces" in parts[:-2]:
        parts = parts[parts.index("namespaces") + 2 :][:2]
    plural, name = ["", "", *parts][-2:]
    return plural, name


def pods(namespace: str) -> str:
    return _collection("/api/v1", "pods", namespace)


def pod(namespace: str, name: str) -> str:
    return f"{pods(namespace)}/{name}"


def pools(namespace: str) -> str:
    return _collection(f"/apis/{names.API_VERSION}", names.PLURAL, namespace)


def pool(namespace: str, name: str) -> str:
    return f"{pools(namespace)}/{name}"


def children(kind: str, namespace: str) -> str:
    declared = kinds.of(kind)
    return _collection(declared.root, declared.plural, namespace)


def child(kind: str, namespace: str, name: str) -> str:
    return f"{children(kind, namespace)}/{name}"


def leases(namespace: str) -> str:
    return children(kinds.LEASE.kind, namespace)


def lease(namespace: str, name: str) -> str:
    return f"{leases(namespace)}/{name}"


def core_events(namespace: str) -> str:
    """Events by what they are about, which only this API can be asked for."""
    return _collection("/api/v1", "events", namespace)


def events(namespace: str) -> str:
    return _collection(EVENTS_GROUP, "events", namespace)
