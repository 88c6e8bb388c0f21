"""What ``podTemplate`` may add to an engine pod: an allow-list, nothing that raises privilege.

The engine's image, command, ports, probes and GPUs are the operator's; what a platform needs
around them (placement, volumes, environment, requests) is the user's.  A template has the form
that Kubernetes' own schema gives it (``pod_shape``), and then keeps the rules that the API server
has beyond it (``pod_scheduling``, ``pod_container``, ``pod_volumes``): so no pod is refused for it.
No annotation has others raise its privilege either (``pod_annotations``).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_operator.api import (
    errors,
    names,
    pod_container,
    pod_scheduling,
    pod_shape,
    pod_volumes,
    syntax,
)

SPEC_FIELDS = pod_shape.allowed("spec")
CONTAINER_FIELDS = pod_shape.allowed("spec", "containers")
VOLUME_KINDS = pod_shape.allowed("spec", "volumes") - {"name"}

FIELD = pod_shape.FIELD
_CONTAINER = f"{FIELD}.spec.containers[0]"
_MOST_PROBLEMS = 100
_GPUS = "nvidia.com/gpu"


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A checked template: parts of a pod, as Kubernetes JSON."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    container: Mapping[str, Any] = field(default_factory=dict)
    volumes: tuple[Mapping[str, Any], ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the environment variables that the template sets, in its order."""
        return tuple(str(item.get("name")) for item in self.container.get("env", ()))

    def mounts_at(self, path: str) -> bool:
        """Whether the user has something mounted exactly there."""
        return pod_volumes.mounted(self.container.get("volumeMounts", ()), path)


def parse(
    template: Mapping[str, Any], gpus: str = _GPUS
) -> tuple[Overlay, tuple[errors.Problem, ...]]:
    """The template's parts, and what in it is not allowed.

    ``gpus`` is the resource whose amount the operator sets.
    """
    kept = pod_shape.kept(template)
    misshapen = tuple(itertools.islice(pod_shape.problems(template), _MOST_PROBLEMS))
    broken = any(item.severity is errors.Severity.ERROR for item in misshapen)
    # The rules look at what has its form.
    found = () if broken else itertools.islice(_problems(kept, gpus), _MOST_PROBLEMS)
    body = kept.get("spec", {})
    containers, volumes = body.get("containers", []), tuple(body.get("volumes", []))
    container = dict(containers[0]) if containers else {}
    mounts = container.get("volumeMounts", [])
    overlay = Overlay(
        labels=kept.get("metadata", {}).get("labels", {}),
        annotations=kept.get("metadata", {}).get("annotations", {}),
        spec={k: v for k, v in body.items() if k not in ("containers", "volumes")},
        container={**container, "volumeMounts": [pod_volumes.mount(m, volumes) for m in mounts]},
        volumes=volumes,
    )
    return overlay, (*misshapen, *found)


def _problems(kept: Mapping[str, Any], gpus: str) -> Iterator[errors.Problem]:
    body, where = kept.get("spec", {}), f"{FIELD}.spec"
    containers = body.get("containers", [])
    container = containers[0] if containers else {}
    yield from pod_scheduling.metadata(kept.get("metadata", {}), f"{FIELD}.metadata")
    yield from pod_scheduling.label_map(body.get("nodeSelector", {}), f"{where}.nodeSelector")
    yield from pod_scheduling.tolerations(body.get("tolerations", ()), f"{where}.tolerations")
    yield from pod_scheduling.affinity(body.get("affinity", {}), f"{where}.affinity")
    spread = body.get("topologySpreadConstraints", ())
    yield from pod_scheduling.spreading(spread, f"{where}.topologySpreadConstraints")
    runtime = body.get("runtimeClassName")
    if runtime is not None and not syntax.is_subdomain(runtime):
        yield syntax.wrong(f"{where}.runtimeClassName", runtime, syntax.SUBDOMAIN)
    for index, secret in enumerate(body.get("imagePullSecrets", ())):
        at = f"{where}.imagePullSecrets[{index}]"
        yield from syntax.object_name(secret, "name", at, "a Secret")
    yield from _container_problems(containers)
    yield from pod_volumes.problems(
        body.get("volumes", ()),
        container.get("volumeMounts", ()),
        VOLUME_KINDS,
        f"{where}.volumes",
        f"{_CONTAINER}.volumeMounts",
    )
    yield from pod_volumes.unused(
        body.get("volumes", ()),
        container.get("volumeMounts", ()),
        container.get("env", ()),
        f"{where}.volumes",
    )
    folders = pod_volumes.folders(body.get("volumes", ()), container.get("volumeMounts", ()))
    variables = container.get("env", ())
    yield from pod_container.environment(variables, f"{_CONTAINER}.env", folders)
    yield from pod_container.whole_sources(container.get("envFrom", ()), f"{_CONTAINER}.envFrom")
    resources = container.get("resources", {})
    yield from pod_container.resources(resources, f"{_CONTAINER}.resources", gpus)
    policy = container.get("imagePullPolicy", "Always")
    if policy and policy not in pod_container.PULL_POLICIES:
        known = pod_container.PULL_POLICIES
        yield syntax.not_one_of(f"{_CONTAINER}.imagePullPolicy", policy, known)


def _container_problems(containers: list[Mapping[str, Any]]) -> Iterator[errors.Problem]:
    if len(containers) > 1 or any(c.get("name") != names.ENGINE_CONTAINER for c in containers):
        found = ", ".join(str(container.get("name", "without a name")) for container in containers)
        yield errors.POD_TEMPLATE(
            f"{FIELD}.spec.containers",
            found=f"containers {errors.shown(found)}",
            expected=f"one container called {names.ENGINE_CONTAINER}",
            advice="run anything else in a pod of its own",
        )
