"""The revision of an engine: a hash of everything whose change asks for a new pod.

It is taken from what the pod is *made of*, not from the pod as rendered, and only of what
differs from the default: so an operator upgrade that adds a label, or a field with a default,
restarts no engine.  Golden files guard it.  A field of the spec that shapes pods and is not in it
reaches only those that happen to be made anew: its test says of every field which it is.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sglang_operator.api import spec

# Sections of the spec that shape the pod: a change of one replaces the engines.  Not here: restart
# (its tolerations reach the next pod), drain (the grace period is given with each delete).
SECTIONS = ("startup", "security", "scheduling", "placement")
# Fields of these that only pods take note of that are made anew, and that never change a revision,
# though nothing else stands in the section: a queue and the place in it are those of the quota by
# which an engine came in, and what waits is moved (plan/rules/queued); so is who waits for how many
# others (plan/rules/started).
_NOT_IN = {"scheduling": ("queueName", "workloadPriorityClassName", "minEngines")}
# Fields that came later than their section: at their default they are left out, one by one.
_LATER = {
    "scheduling": ("gang", "requiredTopology", "preferredTopology", "spread"),
    "placement": ("shared", "slot"),
}
# Of the section within: whose slot or claim is another one goes alone, by what its own pod says
# (plan/rules/seated); a claim that pods have stays as it was made.
_NOT_WITHIN = {"shared": ("slots",), "slot": ("claims", "deviceClassName", "pinned")}
# Written out, these were the defaults of an earlier operator: they restart nothing.
_ALSO_DEFAULT = (spec.Startup(timeout_seconds=1800),)

# The fields of the spec by which a pod is what it is: to have them again is to have the revision
# again.  Its test holds them against the hash.
REACHES_PODS = (
    "model_args",
    "strategy_args.strategy_config",
    "num_gpus_per_worker",
    "system_envs",
    "router_replay.mode",
    "seed",
    "image",
    "engineVersion",
    "extraArgs",
    "generation",
    "placement.mode",
    "placement.resourceName",
    "placement.shared.runtimeClassName",
    "placement.shared.sharedMemory.hostPath",
    "placement.shared.sharedMemory.claimName",
    "placement.slot.sharedMemory.hostPath",
    "placement.slot.sharedMemory.claimName",
    "weights.gate",
    "startup.timeoutSeconds",
    "network.port",
    "network.headlessService",
    "network.listenOnPodIP",
    "network.rdma",
    "security.runAsUser",
    "security.runAsGroup",
    "security.fsGroup",
    "security.runAsNonRoot",
    "security.apiKey",
    "security.adminApiKey",
    "scheduling.schedulerName",
    "scheduling.priorityClassName",
    "scheduling.gang",
    "scheduling.requiredTopology",
    "scheduling.preferredTopology",
    "scheduling.spread",
    "podTemplate",
)
# What a pool has to say with a gang, and may not without: stored, for whoever goes back to one
# finds none in the spec.  Between two of a gang the queue stays as it is now.
_GANG = "scheduling.gang"
_WITH_GANG = tuple(f"scheduling.{name}" for name in _NOT_IN["scheduling"])
# And those that do so in some pools alone.
OF_THE_SERVER = "generating_args"  # where they are the server's defaults
# Where an engine spans nodes: always stored then, so that a part tells by it of which pool it is.
_SPANNING = "num_gpus_per_node"
OF_GROUPS: tuple[str, ...] = (_SPANNING,)  # it, and others that only such engines take note of


def reaching_pods(parsed: spec.PoolSpec, *, spans: bool) -> dict[str, Any]:
    """The part of the spec that reaches pods, as it is written but for what is at its default."""
    written, default = msgspec.to_builtins(parsed), msgspec.to_builtins(spec.PoolSpec())
    found: dict[str, Any] = {}
    for path in paths_of(parsed.generation is spec.Generation.SERVER_DEFAULT, spans=spans):
        value = at(written, path)
        if path == _SPANNING or value != at(default, path):
            put(found, path, value)
    for path in _WITH_GANG:
        if at(written, _GANG) != at(default, _GANG) and (value := at(written, path)) is not None:
            put(found, path, value)
    return found


def with_part(raw: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with this part in place of its own; what does not reach pods stays."""
    changed = copy.deepcopy(dict(raw))
    server, spans = part.get("generation") == "ServerDefault", _SPANNING in part
    other_gang = at(part, _GANG) != _written_gang(raw)
    for path in paths_of(server, spans=spans) + _WITH_GANG * other_gang:
        value = at(part, path)
        if value is None:
            drop(changed, path)
        else:
            put(changed, path, copy.deepcopy(value))
    return changed


def _written_gang(raw: Mapping[str, Any]) -> str | None:
    """The gang of a spec as it is written; None where it has none."""
    gang = at(raw, _GANG)
    return None if gang == spec.Gang.NONE.value else gang


def paths_of(server: bool, *, spans: bool) -> tuple[str, ...]:
    """The fields that reach pods."""
    return REACHES_PODS + (OF_THE_SERVER,) * server + OF_GROUPS * spans


def at(tree: Any, path: str) -> Any:
    """What stands at a path of names in maps; None where nothing does."""
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Write a value at a path, in place; maps on the way to it are made."""
    *above, last = path.split(".")
    for name in above:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def drop(tree: dict[str, Any], path: str) -> None:
    """Take what stands at a path away, in place, and maps that hold nothing else."""
    first, _, rest = path.partition(".")
    if not rest:
        tree.pop(first, None)
    elif isinstance(tree.get(first), dict):
        drop(tree[first], rest)
        if not tree[first]:
            del tree[first]


def inputs(
    parsed: spec.PoolSpec,
    image: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    gated: bool,
) -> dict[str, Any]:
    """What an engine pod is made of, as JSON, without what is at its default."""
    made_of: dict[str, Any] = {
        "image": image,
        "args": list(argv),
        "env": dict(environment),
        "gpus": parsed.num_gpus_per_worker,
        "gated": gated,
        "podTemplate": parsed.pod_template,
        "rdma": parsed.network.rdma,
        "headless": parsed.network.headless_service,
        "listenOnPodIP": parsed.network.listen_on_pod_ip,
    }
    for section in SECTIONS:
        made_of[section] = _section(section, getattr(parsed, section))
    return {key: value for key, value in made_of.items() if value not in (None, False, {}, [])}


def _section(name: str, value: msgspec.Struct) -> dict[str, Any]:
    """A section as JSON, with those of its fields that are part of a revision; empty where all of
    these are at their default."""
    written, default = _fields(name, value), _fields(name, type(value)())
    also = (_fields(name, each) for each in _ALSO_DEFAULT if type(each) is type(value))
    if written in (default, *also):
        return {}
    later = [field for field in _LATER.get(name, ()) if written[field] == default[field]]
    return {key: value for key, value in written.items() if key not in later}


def _fields(name: str, section: msgspec.Struct) -> dict[str, Any]:
    written: dict[str, Any] = msgspec.to_builtins(section)
    found = {key: value for key, value in written.items() if key not in _NOT_IN.get(name, ())}
    for within in found.keys() & _NOT_WITHIN.keys():
        found[within] = {k: v for k, v in found[within].items() if k not in _NOT_WITHIN[within]}
    return found


def digest(made_of: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits."""
    canonical = json.dumps(made_of, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]
