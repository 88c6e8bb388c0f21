"""Which field of the object a field of a rendered pod comes from.

The API server speaks of the pod: ``spec.tolerations[2]`` there is the user's first toleration. In
every list that both write, the operator's items come first, so an index is counted from them; but
for the node that a pod is rather to be on (``constrained.near``), which comes last.
"""

import re
from collections.abc import Mapping
from typing import Any

from sglang_operator.api import pod_volumes, spec
from sglang_operator.children import engine_pod
from sglang_operator.engine import arguments
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import topology

TEMPLATE = "spec.podTemplate"
_WHOLE = "spec"
# What the operator writes alone, by the fields that decide it.
_DECIDED: Mapping[str, str] = {
    "metadata.name": "metadata.name",
    "metadata.namespace": "metadata.namespace",
    "spec.securityContext": "spec.security",
    "spec.schedulerName": "spec.scheduling.schedulerName",
    "spec.resourceClaims": "spec.placement.slot",
    "spec.containers[0].resources.claims": "spec.placement.slot",
    "spec.schedulingGates": "spec.scheduling.gang",
    "spec.schedulingGroup": "spec.scheduling.gang",
    "spec.priorityClassName": "spec.scheduling.priorityClassName",
    "spec.priority": "spec.scheduling.priorityClassName",
    "spec.terminationGracePeriodSeconds": "spec.drain.gracePeriodSeconds",
    "spec.readinessGates": "spec.weights.gate",
    "spec.subdomain": "spec.network.headlessService",
    "spec.hostname": "spec.network.headlessService",
    "spec.containers[0].image": "spec.image",
    "spec.containers[0].args": "spec.strategy_args.strategy_config",
    "spec.containers[0].command": "spec.strategy_args.strategy_config",
    "spec.containers[0].ports": "spec.network.port",
    "spec.containers[0].startupProbe": "spec.startup",
    "spec.containers[0].livenessProbe": "spec.startup",
    "spec.containers[0].readinessProbe": "spec.startup",
    "spec.containers[0].securityContext": "spec.security",
}
# What is told as the user's where nothing above decides it.
_GIVEN = (
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeSelector",
    "spec.affinity",
    "spec.topologySpreadConstraints",
    "spec.runtimeClassName",
    "spec.imagePullSecrets",
    "spec.containers[0].envFrom",
    "spec.containers[0].imagePullPolicy",
    "spec.containers[0].resources",
)
# What both write: the operator's items, then the user's.
_SHARED = (
    "spec.tolerations",
    "spec.volumes",
    "spec.containers[0].env",
    "spec.containers[0].volumeMounts",
)
_INDEXED = re.compile(r"\[([0-9]+)\](.*)", re.DOTALL)
# A path at which the API server begins a sentence; quoted text may look like one.
_PATH = re.compile(r'(?<![\w."/])(?:metadata|spec)(?:\.\w+|\[[^\]"]{1,253}\])+(?=: )')


def field(pool: Pool, path: str) -> str:
    """The field of the object that decides a field of its pods, such as ``spec.volumes[1].name``.

    ``spec`` for what the operator decides by itself; a path that the rendered pod does not have,
    because somebody else put it there, stays as it is.
    """
    parts = pool.parts
    placed = next((name for name in parts.spec if _is_at(path, f"spec.{name}")), None)
    if placed is not None:
        return parts.field_of(placed)
    for ours, theirs in _DECIDED.items():
        if _is_at(path, ours):
            rest = path[len(ours) :] if ours == "spec.securityContext" else ""
            return theirs + rest
    for prefix, decides in _constrained(pool).items():
        if path == prefix or path.startswith(f"{prefix}["):
            return _after(prefix, path[len(prefix) :], decides)
    for prefix in _SHARED:
        if _is_at(path, prefix):
            return _shared(pool, prefix, path[len(prefix) :], path)
    resource = f"[{pool.resource}]"
    if path.startswith("spec.containers[0].resources") and path.endswith(resource):
        return "spec.placement.resourceName"
    if any(_is_at(path, prefix) for prefix in _GIVEN):
        return f"{TEMPLATE}.{path}"
    return path if _is_foreign(path) else _WHOLE


def message(pool: Pool, text: str) -> str:
    """A message of the API server about a pod, with the paths of the object in it."""
    return _PATH.sub(lambda found: field(pool, found[0]), text)


def _is_at(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith((f"{prefix}.", f"{prefix}["))


def _is_foreign(path: str) -> bool:
    """Whether it is in a container that admission added."""
    return path.startswith(("spec.containers[", "spec.initContainers")) and not _is_at(
        path, "spec.containers[0]"
    )


def _constrained(pool: Pool) -> Mapping[str, str]:
    """Lists of which the first item is the operator's (``children.constrained``), by the field that
    decides it."""
    chosen = pool.spec.scheduling
    if chosen.gang is not spec.Gang.NONE:
        return {}
    of_pods = "spec.affinity.podAffinity"
    found = {
        f"{of_pods}.{topology.REQUIRED}": ("requiredTopology", chosen.required_topology),
        f"{of_pods}.{topology.PREFERRED}": ("preferredTopology", chosen.preferred_topology),
        f"spec.{topology.SPREAD}": ("spread", chosen.spread),
    }
    return {path: f"spec.scheduling.{name}" for path, (name, value) in found.items() if value}


def _after(prefix: str, rest: str, decides: str) -> str:
    """The field of an item of such a list; without an index it is said of all."""
    item = _INDEXED.fullmatch(rest)
    if item is None or int(item[1]) == 0:
        return decides
    return f"{TEMPLATE}.{prefix}[{int(item[1]) - 1}]{item[2]}"


def _shared(pool: Pool, prefix: str, rest: str, path: str) -> str:
    found = _INDEXED.fullmatch(rest)
    if found is None:
        return f"{TEMPLATE}.{path}"
    rendered = _items(engine_pod.template(pool), prefix)
    index = int(found[1])
    first = len(rendered) - _given(pool, prefix)
    if index >= len(rendered):
        return path
    if index >= first:
        return f"{TEMPLATE}.{prefix}[{index - first}]{found[2]}"
    return _own(pool, prefix, rendered[index])


def _items(pod: Mapping[str, Any], prefix: str) -> list[Any]:
    body = pod["spec"]
    section = body["containers"][0] if prefix.startswith("spec.containers") else body
    items = section[prefix.rpartition(".")[2]]
    assert isinstance(items, list)
    return items


def _given(pool: Pool, prefix: str) -> int:
    """How many items of a list are the user's."""
    name = prefix.rpartition(".")[2]
    if prefix == "spec.volumes":
        return len(pool.template.volumes)
    section = pool.template.spec if prefix == "spec.tolerations" else pool.template.container
    return len(section.get(name) or ())


def _own(pool: Pool, prefix: str, item: Mapping[str, Any]) -> str:
    """The field that decides one of the operator's own items."""
    if item in pool.parts.tolerations:
        return pool.parts.field_of("tolerations")
    if pool.parts.shm is not None and item.get("name") == pod_volumes.SHM_VOLUME:
        return pool.parts.field_of("shm")
    if prefix == "spec.tolerations":
        return "spec.restart.nodeLostSeconds"
    if prefix == "spec.containers[0].env":
        name = str(item["name"])
        keys = {
            arguments.API_KEY_VARIABLE: "spec.security.apiKey",
            arguments.ADMIN_API_KEY_VARIABLE: "spec.security.adminApiKey",
        }
        if name in keys:
            return keys[name]
        return f"spec.system_envs.{name}" if name in pool.spec.system_envs else _WHOLE
    return _WHOLE
