"""The operator's own Deployments as ``doctor`` sees them: their images, and why they do not run."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_operator.api import names
from sglang_operator.cli import texts
from sglang_operator.cli.cluster.kubectl import ClusterError

_SELECTOR = {"labelSelector": f"{names.LABEL_NAME}=sglang-operator"}
QUESTIONS = {
    "deployments": ("/apis/apps/v1/deployments", _SELECTOR),
    "operator pods": ("/api/v1/pods", _SELECTOR),
}
_ON_THE_WAY = ("ContainerCreating", "PodInitializing")
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What is deployed; ``told`` is empty where nothing is, or nothing may be seen."""

    told: str
    ready: bool  # every replica
    lacks_image: bool = False  # nodes cannot get it

    @property
    def do(self) -> str:
        """What helps where not every replica is ready."""
        return texts.DO_OPERATOR_IMAGE if self.lacks_image else texts.DO_OPERATOR_LOGS


def deployed(deployments: bytes | ClusterError, pods: bytes | ClusterError) -> Deployed:
    """All Deployments of the operator, and of pods that cannot start the reasons."""
    if isinstance(deployments, ClusterError):
        return Deployed(told="", ready=True)
    told, complete = [], True
    for item in json.loads(deployments)["items"]:
        image = item["spec"]["template"]["spec"]["containers"][0]["image"]
        ready, wanted = (
            item.get("status", {}).get("readyReplicas", 0),
            item["spec"].get("replicas", 1),
        )
        complete = complete and ready >= wanted
        told.append(f"{image} {ready}/{wanted} ready")
    waits: list[str] = []
    if not complete and not isinstance(pods, ClusterError):
        waits = sorted({*_waits(json.loads(pods)["items"])})
    lacks_image = any(wait.startswith(_NO_IMAGE) for wait in waits)
    return Deployed(told="; ".join(told + waits), ready=complete, lacks_image=lacks_image)


def _waits(pods: list[Mapping[str, Any]]) -> Iterator[str]:
    """Why containers do not start, in the kubelet's or the scheduler's words."""
    for pod in pods:
        status = pod.get("status", {})
        for container in status.get("containerStatuses", []):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason", "ContainerCreating") not in _ON_THE_WAY:
                yield ": ".join(filter(None, (waiting["reason"], waiting.get("message", ""))))
        for condition in status.get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                yield ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
