"""What is known of a pod, and whose it is."""

import dataclasses
from dataclasses import dataclass
from sys import intern

from sglang_operator.api import names
from sglang_operator.clocks import moment
from sglang_operator.cluster.pool_key import PoolKey
from sglang_operator.observed import variables, wire
from sglang_operator.observed.model import ObservedPod


@dataclass(frozen=True, slots=True)
class PodEntry:
    """A pod and whose it is."""

    pod: ObservedPod
    pool: PoolKey
    # Empty: an orphan under an engine's name, and in the pool's Service; or, where no pool is
    # named, nobody's, that was given GPUs by name as engines are.
    owner: names.Uid
    aside: bool = False  # its labels were taken away: it belongs to no Service any more

    @property
    def attempt(self) -> tuple[names.EngineName, int]:
        """The attempt at an engine that it is, or is a part of."""
        return self.pod.engine, self.pod.attempt


def of_record(record: wire.Pod, known: PodEntry | None) -> PodEntry | None:
    """The pod with its pool; None if it has nothing to do with one.

    A pool's pods are those that it controls.  Its labels matter beside that: without them a pod is
    put aside, and an orphan with them and an engine's name stands where an engine should.  Any
    other that was given GPUs by name, adopted or under other labels by now, may have them yet.

    When something became of it is counted from when it was first seen (``sightings``).
    """
    meta = record.metadata
    controller = meta.controller
    if controller is not None and controller.kind == names.KIND:
        pool, owner = controller.name, controller.uid
    elif controller is None and _has_engine_name(meta):
        pool, owner = meta.labels[names.LABEL_POOL], ""
    else:
        pool, owner = "", ""
    pod = wire.observed_pod(record, moment(), known.pod if known else None)
    if not pool and not pod.gpus_seen:
        return None
    engine = names.engine_of(meta.name, pool)
    if engine and engine != pod.engine:
        pod = dataclasses.replace(pod, engine=engine)  # a name cannot be edited, a label can
    return PodEntry(
        pod=pod,
        pool=PoolKey(intern(meta.namespace), intern(pool)),
        owner=names.Uid(intern(owner)),
        aside=not (pool and names.is_watched(meta.name, meta.labels, pool)),
    )


def is_news(record: wire.Pod, known: ObservedPod) -> bool:
    """Whether a record tells what is not known.

    Of a pod that was just made its metadata alone is.  The next word on it tells the rest; on one
    that waits behind a scheduling gate there may be none, and which GPUs it was given by name
    cannot wait for it.
    """
    if known.resource_version != record.metadata.version:
        return known.resource_version < record.metadata.version
    gates = bool(record.spec.scheduling_gates) and not known.scheduling_gates
    return gates or (not known.gpus_seen and _names_gpus(record))


def _names_gpus(record: wire.Pod) -> bool:
    own = (each for each in record.spec.containers or () if each.name == names.ENGINE_CONTAINER)
    return any(variables.gpus(each.env) for each in own)


def is_outside(meta: wire.Meta) -> bool:
    """Whether no stream of pods tells of one with these labels."""
    return meta.labels.get(names.LABEL_MANAGED_BY) != names.MANAGED_BY


def _has_engine_name(meta: wire.Meta) -> bool:
    pool, engine = meta.labels.get(names.LABEL_POOL), meta.labels.get(names.LABEL_ENGINE)
    if not pool or not engine or not names.is_engine_pod(meta.name, meta.labels, pool):
        return False
    return names.is_pod_of(meta.name, pool, names.EngineName(engine))


def worsened(before: ObservedPod, after: ObservedPod) -> bool:
    """Whether something happened that should not wait to be answered."""
    return (
        (after.deleting and not before.deleting)
        or (after.ended and not before.ended)
        or bool(after.disruption and not before.disruption)
        or (before.containers_ready and not after.containers_ready)
    )
