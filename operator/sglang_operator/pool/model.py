"""A pool as it should be: its engines, their GPUs and how each is started.  Pure data."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from sglang_operator.api import errors, names, pod_template
from sglang_operator.api.spec import PoolSpec, TuneRange, WeightsGate
from sglang_operator.engine import arguments, model_size, schema, versions
from sglang_operator.engine.arguments import ANY_ADDRESS
from sglang_operator.placement import modes
from sglang_operator.placement.base import PlacementStrategy, PodParts
from sglang_operator.placement.seats import Seating, Seen
from sglang_operator.pool import shares, weight_arguments
from sglang_operator.pool.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The object a pool comes from; children refer to it by its UID."""

    name: str
    namespace: str
    uid: names.Uid
    generation: int


NO_RANK = -1  # of an engine that runs and is none of the pool's any more


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """One engine: its name says which GPUs are its own, its rank (ROLL's dp_rank) addresses it."""

    rank: int
    name: names.EngineName
    devices: tuple[int, ...]
    pods: int = 1  # that it runs in

    @property
    def shares(self) -> tuple[tuple[int, ...], ...]:
        """The GPU ids of each of its pods: all have as many."""
        share = len(self.devices) // self.pods
        return tuple(self.devices[n * share : (n + 1) * share] for n in range(self.pods))


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What a trainer has to know of engines of one revision: it is fixed as they start."""

    version: str  # of SGLang
    port: int
    saves_memory: bool  # they can release their memory
    gpus: int = 0  # of each engine; 0: not told, by an operator of before
    no_sync: str = ""  # why no trainer may sync them; empty: it may
    reported: bool = False  # engines say that they are of this version, and another was assumed

    @property
    def features(self) -> versions.Features:
        """What engines of this version can do."""
        return _features(self.version)


@functools.cache
def _features(version: str) -> versions.Features:
    return versions.features(versions.parse(version))


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool that can be run."""

    owner: Owner
    spec: PoolSpec
    image: str
    version: versions.Version
    features: versions.Features
    engines: tuple[Engine, ...]  # the capacity, by rank
    active: int  # engines to run: the ranks below it
    nodes: int  # that each engine spans: so many pods it is
    arguments: arguments.Arguments
    environment: Mapping[str, str]
    gate: WeightsGate  # resolved: never Auto
    no_sync: str  # why no trainer may sync these engines; empty: it may
    template: pod_template.Overlay
    sampling: Mapping[str, object]
    revision: str
    warnings: tuple[errors.Problem, ...]
    tuning: Tuning | None = None  # in force
    base_revision: str = ""  # of the spec as it is written, without the tuning
    # Revisions of pods that run as well as those of the present one would: what was tuned since
    # reaches them with their next pod.
    accepted: frozenset[str] = frozenset()
    # Where engines listen.  It is the cluster's, not the spec's, and no part of the revision.
    host: str = ANY_ADDRESS
    # Resources that its operator allows, beside GPUs that are known by name.  No part of it either.
    allowed: frozenset[str] = frozenset()

    @property
    def saves_memory(self) -> bool:
        """Whether its engines can release their memory."""
        return arguments.MEMORY_SAVER in self.argv

    @cached_property
    def facts(self) -> EngineFacts:
        """What a trainer has to know of the engines of its present revision."""
        return EngineFacts(
            version=str(self.version),
            port=self.spec.network.port,
            saves_memory=self.saves_memory,
            gpus=self.gpus,
            no_sync=self.no_sync,
        )

    def facts_as(self, version: versions.Version) -> EngineFacts:
        """The same of engines that say they are of this version."""
        if version == self.version:
            return self.facts
        if version not in self._facts_as:
            known, features = schema.nearest(version), versions.features(version)
            self._facts_as[version] = replace(
                self.facts,
                version=str(version),
                no_sync=weight_arguments.refusal(self.argv, known, features),
                reported=True,
            )
        return self._facts_as[version]

    @cached_property
    def _facts_as(self) -> dict[versions.Version, EngineFacts]:
        return {}

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line of every engine, as its pod has it."""
        own = self.spec.network.listen_on_pod_ip
        argv = arguments.meeting(self.arguments.argv, self.host)
        return arguments.listening(argv, arguments.POD_IP if own else self.host)

    @property
    def bounds(self) -> TuneRange | None:
        """Within which mem_fraction_static may be tuned; None: it may not."""
        tune = self.spec.restart.auto_tune
        return tune.mem_fraction_static if tune is not None else None

    @property
    def gated(self) -> bool:
        """Whether requests are kept away until somebody says that the weights are right."""
        return self.gate is not WeightsGate.OFF

    @property
    def gpus(self) -> int:
        """GPUs of one engine."""
        return self.spec.num_gpus_per_worker

    @property
    def gpus_per_pod(self) -> int:
        """GPUs of each of the pods that one engine is."""
        return self.gpus // self.nodes

    @property
    def placement(self) -> PlacementStrategy:
        """How its engines get their GPUs."""
        return modes.of(self.spec)

    @property
    def resource(self) -> str:
        """What its GPUs are counted by on nodes, such as nvidia.com/gpu."""
        return self.placement.resource(self.spec)

    @property
    def parts(self) -> PodParts:
        """What its pods have for the sake of their placement."""
        return self.placement.parts(self.spec, self.owner.namespace)

    @property
    def takes_turns(self) -> bool:
        """Whether its engines and a trainer have the memory of their GPUs in turns."""
        return self.placement.joins

    @property
    def awaits_slots(self) -> bool:
        """Whether a trainer is to say which GPUs its engines join it on."""
        return self.placement.published and not self.spec.placement.shared.slots

    def seating(self, seen: Seen) -> Seating | None:
        """Where the pods of its engines belong; None: that is the scheduler's to say."""
        engines = {each.name: each.shares for each in self.engines}
        seen = replace(seen, allowed=self.allowed) if self.allowed else seen
        return self.placement.seating(self.spec, self.owner.name, engines, seen)

    @property
    def max_unavailable(self) -> int:
        """Engines that may be out of service for the sake of a change."""
        return shares.engines(self.spec.rollout.max_unavailable, self.active)

    @property
    def max_surge(self) -> int:
        """Engines that may run beside those that they are to replace; 0: none."""
        return shares.more(self.spec.rollout.max_surge, self.active)

    @property
    def startup_seconds(self) -> int:
        """How long an engine may take from its container's start to its first healthy answer."""
        given = self.spec.startup.timeout_seconds
        if given is not None:
            return given
        model = self.spec.model_args.get("model_name_or_path")
        return model_size.startup_seconds(str(model), self.arguments.load_format)

    @property
    def running(self) -> tuple[Engine, ...]:
        """The engines to run, by rank."""
        return self.engines[: self.active]

    def accepts(self, revision: str) -> bool:
        """Whether a pod of this revision runs as one of the present revision would."""
        return revision in self.accepted


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A pool that cannot be run, and everything that is wrong with it."""

    owner: Owner
    problems: tuple[errors.Problem, ...]

    @property
    def errors(self) -> tuple[errors.Problem, ...]:
        return tuple(p for p in self.problems if p.severity is errors.Severity.ERROR)
