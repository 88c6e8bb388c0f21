"""What ``podTemplate`` may add to an engine pod: an allow-list, nothing that raises privilege.

The engine's image, command, ports, probes and GPUs are the operator's; what a platform needs
around them (placement, volumes, environment, requests) is the user's.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_operator.api import errors, names

SPEC_FIELDS = frozenset(
    {
        "nodeSelector",
        "tolerations",
        "affinity",
        "topologySpreadConstraints",
        "runtimeClassName",
        "imagePullSecrets",
        "volumes",
        "containers",
    }
)
CONTAINER_FIELDS = frozenset(
    {"name", "env", "envFrom", "volumeMounts", "resources", "imagePullPolicy"}
)
VOLUME_KINDS = frozenset(
    {"persistentVolumeClaim", "hostPath", "image", "configMap", "secret", "emptyDir", "ephemeral"}
)
# Names of the volumes that every engine pod has.
SHM_VOLUME = "dshm"
CACHE_VOLUME = "cache"

_FIELD = "spec.podTemplate"
# As the definition has it; nothing below zero can be asked for.
_QUANTITY = re.compile(
    r"[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?", re.ASCII
)


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
        """The names of the environment variables that the template sets."""
        return tuple(str(item.get("name")) for item in _items(self.container.get("env")))


def parse(template: Mapping[str, Any]) -> tuple[Overlay, tuple[errors.Problem, ...]]:
    """The template's parts, and what in it is not allowed."""
    metadata = _mapping(template.get("metadata"))
    body = _mapping(template.get("spec"))
    containers = _items(body.get("containers"))
    volumes = tuple(_items(body.get("volumes")))
    problems = (
        *_unexpected(template, frozenset({"metadata", "spec"}), _FIELD),
        *_unexpected(metadata, frozenset({"labels", "annotations"}), f"{_FIELD}.metadata"),
        *_own_keys(metadata),
        *_unexpected(body, SPEC_FIELDS, f"{_FIELD}.spec"),
        *_container_problems(containers),
        *_volume_problems(volumes),
    )
    container = dict(containers[0]) if containers else {}
    container["volumeMounts"] = _mounts(container, volumes)
    return (
        Overlay(
            labels=_mapping(metadata.get("labels")),
            annotations=_mapping(metadata.get("annotations")),
            spec={k: v for k, v in body.items() if k not in ("containers", "volumes")},
            container=container,
            volumes=volumes,
        ),
        problems,
    )


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _unexpected(
    found: Mapping[str, Any], allowed: frozenset[str], where: str
) -> Iterator[errors.Problem]:
    for key in sorted(found.keys() - allowed):
        yield errors.POD_TEMPLATE(
            f"{where}.{key}",
            found=key,
            expected=", ".join(sorted(allowed)),
            advice="remove it",
        )


def _own_keys(metadata: Mapping[str, Any]) -> Iterator[errors.Problem]:
    for section in ("labels", "annotations"):
        for key in sorted(_mapping(metadata.get(section))):
            if names.is_own_key(key):
                yield errors.POD_TEMPLATE(
                    f"{_FIELD}.metadata.{section}",
                    found=key,
                    expected="keys that are not the operator's own",
                    advice="choose another key",
                )


def _container_problems(containers: list[Mapping[str, Any]]) -> Iterator[errors.Problem]:
    where = f"{_FIELD}.spec.containers"
    if len(containers) > 1 or any(c.get("name") != names.ENGINE_CONTAINER for c in containers):
        found = ", ".join(str(container.get("name")) for container in containers)
        yield errors.POD_TEMPLATE(
            where,
            found=f"containers {found}",
            expected=f"one container called {names.ENGINE_CONTAINER}",
            advice="run anything else in a pod of its own",
        )
    for container in containers:
        yield from _unexpected(container, CONTAINER_FIELDS, where)
        yield from _quantity_problems(_mapping(container.get("resources")), f"{where}.resources")


def _quantity_problems(resources: Mapping[str, Any], where: str) -> Iterator[errors.Problem]:
    """Amounts that the API server would refuse in every pod of the pool."""
    for section in ("requests", "limits"):
        for name, value in sorted(_mapping(resources.get(section)).items()):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            text = str(value) if isinstance(value, (str, int)) or is_number else ""
            if not _QUANTITY.fullmatch(text):
                yield errors.FIELD_RANGE(
                    f"{where}.{section}.{name}",
                    found=errors.shown(value),
                    expected="a quantity such as 8, 500m or 64Gi",
                    advice="correct it",
                )


def _volume_problems(volumes: tuple[Mapping[str, Any], ...]) -> Iterator[errors.Problem]:
    for volume in volumes:
        name = volume.get("name")
        where = f"{_FIELD}.spec.volumes[{name}]"
        yield from _unexpected(volume, VOLUME_KINDS | {"name"}, where)
        sources = sorted(volume.keys() & VOLUME_KINDS)
        if len(sources) != 1:
            yield errors.POD_TEMPLATE(
                where,
                found=f"volume {name} with {len(sources)} sources",
                expected="one source",
                advice=f"write one of {', '.join(sorted(VOLUME_KINDS))}",
            )
        if name == SHM_VOLUME:
            yield errors.POD_TEMPLATE(
                where, found=name, expected="another name", advice="the operator mounts /dev/shm"
            )


def _mounts(
    container: Mapping[str, Any], volumes: tuple[Mapping[str, Any], ...]
) -> list[dict[str, Any]]:
    """The mounts as asked for, those of host folders read-only: a model is read, never written."""
    host = {volume.get("name") for volume in volumes if "hostPath" in volume}
    return [
        {**mount, "readOnly": True} if mount.get("name") in host else dict(mount)
        for mount in _items(container.get("volumeMounts"))
    ]
