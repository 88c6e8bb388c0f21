"""Pods of trainers as the API server sends them, reduced to what engines depend on."""

import msgspec

from sglang_operator.api import names
from sglang_operator.observed import wire
from sglang_operator.placement.seats import TrainerPod

_ENDED = ("Failed", "Succeeded")


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""


class TrainerObject(msgspec.Struct, frozen=True):
    """A pod with the label of trainers."""

    metadata: wire.Meta
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def seen(self) -> TrainerPod:
        """What engines depend on of it."""
        gone = self.metadata.deletion_timestamp is not None or self.status.phase in _ENDED
        return TrainerPod(uid=self.metadata.uid, node=self.spec.node_name, gone=gone)


def kept(record: TrainerObject) -> TrainerObject:
    """What is kept of one: no more than who it is, where it is, and whether it lives."""
    meta = record.metadata
    return msgspec.structs.replace(
        record,
        metadata=wire.Meta(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            resource_version=meta.resource_version,
            deletion_timestamp=meta.deletion_timestamp,
            labels={key: "" for key in meta.labels if key == names.LABEL_TRAINER},
        ),
    )
