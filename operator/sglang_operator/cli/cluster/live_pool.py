"""A pool as it is on a cluster: the object and its pods, from a file or from kubectl."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sglang_operator.api import errors, names
from sglang_operator.cli import file_errors, findings
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError
from sglang_operator.cli.yaml_tree import file_text
from sglang_operator.cli.yaml_tree.nodes import Mark, YamlNode
from sglang_operator.observed import sightings, wire
from sglang_operator.observed.model import ObservedPod
from sglang_operator.observed.moment import Moment


@dataclass(frozen=True, kw_only=True)
class LivePool:
    """What a cluster has under the name of a pool; no spec if there is no such object."""

    name: str
    namespace: str
    spec: Mapping[str, Any] | None
    pods: tuple[ObservedPod, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where live pools are looked up."""

    file: str | None = None
    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    def pool(self, body: YamlNode) -> LivePool:
        """The live pool of this object's name.

        Raises :class:`findings.StopError` if it cannot be told.
        """
        name = body.text("metadata", "name") or ""
        namespace = self.namespace or body.text("metadata", "namespace")
        objects = list(self._objects(name, namespace))
        ours = [item for item in objects if item.get("kind") == names.KIND and _is(item, name)]
        pods = [
            _pod(item) for item in objects if item.get("kind") == "Pod" and _belongs(item, name)
        ]
        where = namespace or next((_metadata(item).get("namespace") for item in ours), None)
        fitting = [i for i in ours if not where or _metadata(i).get("namespace", where) == where]
        spec = fitting[0].get("spec") if fitting else None
        return LivePool(
            name=name,
            namespace=where or "default",
            spec=spec if isinstance(spec, dict) else None,
            pods=tuple(
                pod for pod, found in pods if pod is not None and (not where or found == where)
            ),
        )

    def _objects(self, name: str, namespace: str | None) -> Iterator[dict[str, Any]]:
        if self.file is not None:
            yield from _flat(_decoded(file_text.read(self.file), self.file))
            return
        scope = ["--namespace", namespace] if namespace else []
        plural = f"{names.PLURAL}.{names.GROUP}"
        yield from _flat(self._get([plural, name, "--ignore-not-found", *scope]))
        yield from _flat(self._get(["pods", "--selector", names.pods_text(name), *scope]))

    def _get(self, arguments: list[str]) -> Any:
        cluster = Cluster(context=self.context, kubeconfig=self.kubeconfig)
        try:
            told = cluster.run("get", "--output", "json", *arguments)
        except ClusterError as error:
            raise _failed(error) from error
        return _decoded(told.decode(errors="replace"), "kubectl") if told.strip() else {}


def _failed(error: ClusterError) -> findings.StopError:
    shown = errors.shown("kubectl get --output json")
    return findings.stop(
        Mark("kubectl", 1, 1),
        file_errors.CLUSTER_UNREADABLE("", command=shown, detail=errors.shown(error.detail)),
    )


def _decoded(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        problem = file_errors.FILE_UNREADABLE(
            "", detail="it is no JSON", advice="give what kubectl get -o json writes"
        )
        raise findings.stop(Mark(name, line, 1), problem) from error


def _flat(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list, or the one object."""
    waiting = [value]
    while waiting:
        top = waiting.pop(0)
        if isinstance(top, dict) and isinstance(top.get("items"), list):
            waiting += top["items"]
        elif isinstance(top, dict):
            yield top


def _metadata(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("metadata")
    return found if isinstance(found, dict) else {}


def _is(item: Mapping[str, Any], name: str) -> bool:
    return _metadata(item).get("name") == name


def _belongs(item: Mapping[str, Any], pool: str) -> bool:
    labels = _metadata(item).get("labels")
    return isinstance(labels, dict) and labels.get(names.LABEL_POOL) == pool


def _pod(item: dict[str, Any]) -> tuple[ObservedPod | None, str]:
    """The pod as the operator would see it, with its namespace."""
    try:
        decoded = msgspec.convert(item, wire.Pod)
        return sightings.by_stamps(
            wire.observed_pod(decoded, Moment(0.0, 0.0))
        ), decoded.metadata.namespace
    except (msgspec.ValidationError, ValueError):
        return None, ""
