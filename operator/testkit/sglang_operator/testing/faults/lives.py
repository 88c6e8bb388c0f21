"""What the monitor remembers of pods and pools: their lives, from the API server's own order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sglang_operator.testing.faults import reference

Json = Mapping[str, Any]

KIND = "SGLangInference"
ENGINE = "sglang-operator.dev/engine"
NODES = "sglang-operator.dev/nodes"
GATE = "sglang-operator.dev/weights-synced"


@dataclasses.dataclass(kw_only=True)
class PodLife:
    """One engine pod, from the first event to the last.  Times are monotonic seconds."""

    uid: str
    name: str
    namespace: str
    pool: str
    owner: str
    engine: str
    attempt: int  # pods of one engine and attempt are one, if there are several
    node_rank: int
    nodes: int  # so many pods the engine is
    version: int  # at creation
    added: float
    node: str = ""
    up: bool = False
    ready: bool = False
    open: bool = False  # its weights gate
    ended: bool = False
    disrupted: bool = False
    deleting: float | None = None
    gone: float | None = None

    @property
    def live(self) -> bool:
        """Whether it may serve: nobody has decided that it should go, and it has not ended."""
        return not (self.ended or self.disrupted or self.deleting or self.gone)

    def see(self, pod: Json, now: float) -> None:
        """Take in the pod as it is now."""
        status = pod.get("status", {})
        true = {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}
        self.node = pod["spec"].get("nodeName", "")
        self.up, self.ready = "ContainersReady" in true, "Ready" in true
        self.open = GATE in true
        self.disrupted = "DisruptionTarget" in true
        self.ended = status.get("phase") in ("Failed", "Succeeded")
        if pod["metadata"].get("deletionTimestamp") and self.deleting is None:
            self.deleting = now


def pod_life(pod: Json, now: float) -> PodLife | None:
    """The life that begins here; None for a pod that no pool controls."""
    metadata = pod["metadata"]
    owner = controller(metadata)
    if owner.get("kind") != KIND:
        return None
    attempt, node_rank = reference.attempt(metadata["name"])
    life = PodLife(
        uid=metadata["uid"],
        name=metadata["name"],
        namespace=metadata["namespace"],
        pool=owner["name"],
        owner=owner["uid"],
        engine=metadata.get("labels", {}).get(ENGINE, ""),
        attempt=attempt,
        node_rank=node_rank,
        nodes=int(metadata.get("annotations", {}).get(NODES, 1)),
        version=int(metadata["resourceVersion"]),
        added=now,
    )
    life.see(pod, now)
    return life


@dataclasses.dataclass(kw_only=True)
class PoolLife:
    """One pool, that is one UID."""

    uid: str
    namespace: str
    name: str
    observed: int = -1
    specs: list[tuple[float, reference.Expected | None]] = dataclasses.field(default_factory=list)
    generation: int = 0
    ended_version: int | None = None  # at which it was deleted, or its deletion began
    ended_at: float = 0.0

    @property
    def wanted(self) -> reference.Expected | None:
        """What its present spec should lead to; None if that cannot be said."""
        return self.specs[-1][1] if self.specs else None

    def wanted_since(self, time: float) -> set[str] | None:
        """The engines wanted at some moment after ``time``; None if that cannot be said."""
        recent = [
            want
            for at, (_, want) in enumerate(self.specs)
            if at + 1 == len(self.specs) or self.specs[at + 1][0] >= time
        ]
        return {e for w in recent if w for e in w.engines} if all(recent) else None

    def see(self, pool: Json, now: float) -> None:
        """Take in the pool as it is now."""
        metadata = pool["metadata"]
        if metadata["generation"] != self.generation:
            self.generation = metadata["generation"]
            self.specs.append((now, _expected(pool["spec"])))
        if metadata.get("deletionTimestamp"):
            self.end(pool, now)

    def end(self, pool: Json, now: float) -> None:
        """It is deleted, or is going to be."""
        if self.ended_version is None:
            self.ended_version = int(pool["metadata"]["resourceVersion"])
            self.ended_at = now


def _expected(spec: Json) -> reference.Expected | None:
    try:
        return reference.expected(spec)
    except (AssertionError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not a valid spec, or beyond the reference


def controller(metadata: Json) -> Json:
    """The controlling owner reference, or nothing."""
    owners = metadata.get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), {})
