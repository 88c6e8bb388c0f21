"""What a placement decides: what a pod asks of the scheduler, what makes it see exactly its GPUs,
and what was achieved.  Others ask for its properties: ``pool.draft`` (engines beside a trainer
release memory: ``joins``), ``controller.loop`` (whom trainers' pods and claims wake),
``plan.turns`` and ``plan.rules.asleep``, ``children.engine_pod`` and
``children.trainer_registry``.

A MIG profile, or any other resource of a device plugin, is no mode: ``placement.resourceName``
names it.  But all others take it that GPUs are counted on nodes by one resource (of the plan
``plan.places``, ``plan.footing``; what is told ``ask.capacity``, ``status.holdups``,
``status.rollout_waits``, ``observed.facts``, ``controller.meters``, ``controller.explaining``,
``view.grid``; ``pool.planned_memory``; ``cli.checks.occupancy``, ``cli.rollout_simulation``,
``cli.status``), and that what is wrong with it is told of the field ``placement.resourceName``
(``api.device_resources``, ``children.origin``).  Words that name a mode: the README, and
``cli.pipeline.notes``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sglang_operator.api.names import EngineName
from sglang_operator.api.problems import Problem
from sglang_operator.api.spec import PoolSpec
from sglang_operator.placement.seats import Devices, Seating, Seen


@dataclass(frozen=True, kw_only=True)
class Placed:
    """How many of a pool's engines have their GPUs."""

    engines: int
    of: int  # engines that the pool wants
    nodes: int  # on which they are
    gpus: int  # of each engine
    neighbours: tuple[str, ...] = ()  # other pools that have engines on the same GPUs


@dataclass(frozen=True, kw_only=True)
class PodParts:
    """What all engine pods of a pool have for the sake of its placement."""

    spec: Mapping[str, Any] = field(default_factory=dict)  # fields of the pod's spec
    tolerations: tuple[Mapping[str, Any], ...] = ()
    shm: Mapping[str, Any] | None = None  # what is mounted at /dev/shm; None: memory of its own
    entry: tuple[str, ...] = ()  # what is started, and starts the engine
    # The fields of the object that decide these, by their names in ``spec``, ``"tolerations"`` and
    # ``"shm"``: told to who writes the same in podTemplate, and where the API server refuses it.
    decided: Mapping[str, str] = field(default_factory=dict)

    def field_of(self, part: str) -> str:
        """The field of the object that decides a part, such as ``spec.placement.shared``."""
        return self.decided.get(part, "spec.placement")


@dataclass(frozen=True, kw_only=True)
class Achieved:
    """What the condition ``DevicesAssigned`` says."""

    complete: bool
    reason: str
    message: str


class PlacementStrategy(Protocol):
    """One mode of ``spec.placement``."""

    @property
    def by_id(self) -> bool:
        """Whether the ids of ``device_mapping`` are GPUs that there are, so that pools which name
        one share it; else they are a number, and nobody knows which GPUs of its node an engine has.
        """
        ...

    @property
    def seats(self) -> bool:
        """Whether each pod has GPUs of its own that are known before it is made, or waits."""
        ...

    @property
    def joins(self) -> bool:
        """Whether engines are on GPUs that a trainer has too: they hold their memory in turns."""
        ...

    @property
    def published(self) -> bool:
        """Whether the trainer's pods say which GPUs these are."""
        ...

    def problems(
        self, parsed: PoolSpec, namespace: str, engines: Mapping[EngineName, Devices]
    ) -> Iterator[Problem]:
        """Why a pool of these engines cannot be placed so."""
        ...

    def resource(self, parsed: PoolSpec) -> str:
        """The resource of a node that an engine's GPUs are counted by, such as nvidia.com/gpu."""
        ...

    def device_classes(self, parsed: PoolSpec) -> Sequence[tuple[str, str]]:
        """The classes of devices that its claims ask for, each by the field that names it."""
        ...

    def requests(self, parsed: PoolSpec, gpus: int) -> Mapping[str, str]:
        """What the container of a pod with so many GPUs asks of the scheduler, as Kubernetes'
        resources."""
        ...

    def parts(self, parsed: PoolSpec, namespace: str) -> PodParts:
        """What pods have beside that."""
        ...

    def seating(
        self, parsed: PoolSpec, name: str, engines: Mapping[EngineName, Devices], seen: Seen
    ) -> Seating | None:
        """Where the pods of the pool of this name belong; None: that is the scheduler's to say."""
        ...

    def achieved(self, placed: Placed) -> Achieved:
        """What there is to say of the engines that have their GPUs."""
        ...
