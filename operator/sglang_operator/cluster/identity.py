"""Whose an object is, and whether the API server keeps what it is known by, as it was asked for."""

from collections.abc import Mapping
from typing import Any

from sglang_operator import actions
from sglang_operator.api import names, texts
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import wire

# Why a pod is taken back.
HIDDEN = "it was made with other labels, and no pool would know it"
ALONE = "it was made without its group, and would start without the others of its engine"


def lost(asked: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of the operator that an object of a pool lost; put back by name."""
    wanted = asked["metadata"].get("labels", {})
    return {key: wanted[key] for key in wanted if labels.get(key) != wanted[key]}


def taken_back(asked: Mapping[str, Any], made: wire.Pod) -> actions.DeletePod:
    """The end of a pod that came out otherwise than it was asked for, and that holds GPUs.

    In whatever state it is by then: a scheduler and a kubelet change it at once.
    """
    meta = made.metadata
    return actions.DeletePod(
        name=meta.name,
        uid=names.Uid(meta.uid),
        resource_version=None,
        grace_seconds=0,
        reason=HIDDEN if _relabelled(asked, made) else ALONE,
    )


def spoilt(asked: Mapping[str, Any], found: wire.Pod, owner: names.Uid) -> actions.DeletePod | None:
    """The same of one that a create without an answer has made; None if it is as it was asked for,
    or somebody else's."""
    controller = found.metadata.controller
    if controller is None or controller.uid != owner or changed(asked, found) is None:
        return None
    return taken_back(asked, found)


def changed(asked: Mapping[str, Any], made: wire.Pod) -> ApiError | None:
    """Why a pod that was just made is not found as the pool's; None if it is.

    An admission webhook or policy may set labels.  A pod without those that the pool's Service
    selects by serves nobody, and its engine would get one pod after the other.  One whose group the
    API server drops, as it does where the feature is off, would start without the others.
    """
    if message := _relabelled(asked, made):
        return ApiError(422, "Invalid", message, None)
    group = asked.get("spec", {}).get("schedulingGroup", {}).get("podGroupName", "")
    if group and (made.spec.scheduling_group or {}).get("podGroupName") != group:
        return ApiError(422, "Invalid", texts.GROUP_DROPPED.format(group=group), None)
    return None


def _relabelled(asked: Mapping[str, Any], made: wire.Pod) -> str:
    """What became of a label by which it is found; empty if nothing did."""
    wanted, got = asked.get("metadata", {}).get("labels", {}), made.metadata.labels
    for key in names.serving_selector(""):
        if key in wanted and got.get(key) != wanted[key]:
            found = f"to {got[key]}" if key in got else "away"
            return texts.LABEL_CHANGED.format(label=key, wanted=wanted[key], found=found)
    return ""


def of_earlier_pool(controller: wire.OwnerReference | None, key: PoolKey, owner: names.Uid) -> bool:
    """Whether an object belongs to a pool of this name that is gone: it will be collected."""
    if controller is None or controller.uid == owner:
        return False
    return (controller.kind, controller.name) == (names.KIND, key.name)
