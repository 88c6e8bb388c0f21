"""The pool as the user wrote it: typed, frozen, and nothing filled in from elsewhere.

``parse`` turns the ``spec`` of an object into a :class:`PoolSpec`.  The API server has already
checked the structure against the custom resource definition; what it could not check, or what
was stored under an older definition, is refused here in the words of the table of errors.
"""

import copy
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import msgspec

from sglang_operator.api import errors, misfit, shape


class _Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of the spec in Kubernetes' spelling: camelCase in YAML, snake_case here."""


class _RollSection(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the spec in ROLL's spelling, the same in YAML and here."""


class PlacementMode(Enum):
    COUNT = "Count"
    SHARED = "Shared"
    SLOT = "Slot"


class WeightsGate(Enum):
    AUTO = "Auto"
    COMMITTED = "Committed"
    VERSIONED = "Versioned"
    OFF = "Off"


class Recovery(Enum):
    WAIT = "Wait"
    FROM_CHECKPOINT = "FromCheckpoint"


class OnNodeLost(Enum):
    REPLACE = "Replace"
    WAIT = "Wait"


class RolloutWindow(Enum):
    """When an engine that serves may go for a rollout."""

    ANYTIME = "Anytime"
    BETWEEN_STEPS = "BetweenSteps"


class RolloutOrder(Enum):
    """Which engines of an older revision are replaced first."""

    HIGHEST_RANK_FIRST = "HighestRankFirst"
    LOWEST_RANK_FIRST = "LowestRankFirst"


class MemoryCheck(Enum):
    """What is done about engines that do not fit their GPUs by the plan of their memory."""

    REFUSE = "Refuse"
    WARN = "Warn"
    OFF = "Off"


class Generation(Enum):
    PER_REQUEST = "PerRequest"
    SERVER_DEFAULT = "ServerDefault"


class Gang(Enum):
    """Who lets the pods of an engine start, all of them or none."""

    NONE = "None"
    KUEUE = "Kueue"
    POD_GROUP = "PodGroup"
    VOLCANO = "Volcano"
    KAI = "KAI"
    COSCHEDULING = "Coscheduling"


class WhenUnsatisfiable(Enum):
    """What becomes of an engine that no domain may take by the spread."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class StrategyArgs(_RollSection, frozen=True, kw_only=True):
    """ROLL's ``strategy_args``; ``strategy_config`` holds SGLang's ServerArgs fields."""

    strategy_name: str | None = None
    strategy_config: dict[str, Any] | None = None


class RouterReplay(_RollSection, frozen=True, kw_only=True):
    """ROLL's ``router_replay``: ``disable``, ``R2`` or ``R3``."""

    mode: str = "disable"


class GivenSlot(_Section, frozen=True, kw_only=True):
    """The GPUs of one node rank, as somebody wrote them down."""

    node_rank: int
    node: str
    gpus: list[str] = []


class SharedMemory(_Section, frozen=True, kw_only=True):
    """The folder that engines and their trainer have in common at /dev/shm."""

    host_path: str | None = None  # None: one for each namespace
    claim_name: str | None = None


class SharedPlacement(_Section, frozen=True, kw_only=True):
    """How engines join the pods of a trainer, which own the GPUs."""

    slots: list[GivenSlot] = []  # by hand; none: the trainer publishes them
    runtime_class_name: str | None = None
    shared_memory: SharedMemory = SharedMemory()


class GivenClaim(_Section, frozen=True, kw_only=True):
    """A ResourceClaim that somebody else made for the GPUs of one node rank."""

    node_rank: int
    claim_name: str


class SlotPlacement(_Section, frozen=True, kw_only=True):
    """The claims by which engines and their trainer have the same GPUs."""

    device_class_name: str = "gpu.nvidia.com"
    pinned: bool = True  # to the devices that a claim had last
    claims: list[GivenClaim] = []  # of the other node ranks the operator makes them
    shared_memory: SharedMemory = SharedMemory()


class Placement(_Section, frozen=True, kw_only=True):
    mode: PlacementMode = PlacementMode.COUNT
    resource_name: str = "nvidia.com/gpu"
    shared: SharedPlacement = SharedPlacement()
    slot: SlotPlacement = SlotPlacement()


class Weights(_Section, frozen=True, kw_only=True):
    gate: WeightsGate = WeightsGate.AUTO
    recovery: Recovery = Recovery.WAIT


class Rollout(_Section, frozen=True, kw_only=True):
    max_unavailable: int | str = 1
    max_surge: int | str = 0
    partition: int = 0
    order: RolloutOrder = RolloutOrder.HIGHEST_RANK_FIRST
    window: RolloutWindow = RolloutWindow.ANYTIME
    window_deadline_seconds: int = 3600  # since a rollout began, then it goes on at any time
    paused: bool = False
    revision_history_limit: int = 10  # earlier revisions that can be gone back to
    progress_deadline_seconds: int | None = None  # None: it may take as long as it does


class TuneRange(_Section, frozen=True, kw_only=True):
    """Bounds within which a share of GPU memory may be changed, and how."""

    min: float
    max: float
    step: float = 0.02
    tries: int = 3


class AutoTune(_Section, frozen=True, kw_only=True):
    mem_fraction_static: TuneRange | None = msgspec.field(name="mem_fraction_static", default=None)


class Restart(_Section, frozen=True, kw_only=True):
    """How a lost engine comes back; all times in seconds."""

    on_node_lost: OnNodeLost = OnNodeLost.REPLACE
    node_lost_seconds: int = 10
    backoff_seconds: int = 10
    max_backoff_seconds: int = 300
    reset_seconds: int = 600
    startup_budget: int = 5  # restarts in vain before the pool is Stalled
    auto_tune: AutoTune | None = None
    hang_seconds: int | None = None  # with work and without progress; None: not looked at


class Drain(_Section, frozen=True, kw_only=True):
    grace_period_seconds: int = 60


class Startup(_Section, frozen=True, kw_only=True):
    timeout_seconds: int | None = None  # None: by the size of the model


class Network(_Section, frozen=True, kw_only=True):
    port: int = 30000
    headless_service: bool = False
    listen_on_pod_ip: bool = msgspec.field(name="listenOnPodIP", default=False)
    rdma: bool = False


class SecretKey(_Section, frozen=True, kw_only=True):
    name: str
    key: str


class Security(_Section, frozen=True, kw_only=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None
    run_as_non_root: bool | None = None
    api_key: SecretKey | None = None
    admin_api_key: SecretKey | None = None


class Spread(_Section, frozen=True, kw_only=True):
    topology_key: str
    max_skew: int = 1
    when_unsatisfiable: WhenUnsatisfiable = WhenUnsatisfiable.DO_NOT_SCHEDULE


class Scheduling(_Section, frozen=True, kw_only=True):
    scheduler_name: str | None = None
    priority_class_name: str | None = None
    gang: Gang = Gang.NONE
    min_engines: int | None = None  # that start at once or not at all; None: each by itself
    queue_name: str | None = None
    workload_priority_class_name: str | None = None
    required_topology: str | None = None
    preferred_topology: str | None = None
    spread: Spread | None = None


class PoolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a user can say about a pool, with the defaults of this API version."""

    # ROLL's own, verbatim
    model_args: dict[str, Any] = {}
    generating_args: dict[str, Any] = {}
    strategy_args: StrategyArgs = StrategyArgs()
    num_gpus_per_worker: int = 1
    num_gpus_per_node: int = 8
    device_mapping: Any = None  # a string; what else it may be is said in ROLL's words
    infer_batch_size: Any = None
    system_envs: dict[str, Any] = {}
    router_replay: RouterReplay = RouterReplay()
    seed: int = 42

    # Kubernetes' own
    image: str | None = None
    engine_version: str | None = msgspec.field(name="engineVersion", default=None)
    replicas: int | None = None
    suspend: bool = False
    extra_args: list[str] = msgspec.field(name="extraArgs", default_factory=list)
    generation: Generation = Generation.PER_REQUEST
    placement: Placement = Placement()
    weights: Weights = Weights()
    rollout: Rollout = Rollout()
    restart: Restart = Restart()
    drain: Drain = Drain()
    startup: Startup = Startup()
    memory_check: MemoryCheck = msgspec.field(name="memoryCheck", default=MemoryCheck.REFUSE)
    network: Network = Network()
    security: Security = Security()
    scheduling: Scheduling = Scheduling()
    router: dict[str, Any] | None = None
    pod_template: dict[str, Any] = msgspec.field(name="podTemplate", default_factory=dict)


FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(PoolSpec))


def _choices(struct: type, path: str = "") -> Iterator[tuple[str, type[Enum]]]:
    for field in msgspec.structs.fields(struct):
        for kind in (field.type, *typing.get_args(field.type)):
            if isinstance(kind, type) and issubclass(kind, Enum):
                yield f"{path}{field.encode_name}", kind
            elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                yield from _choices(kind, f"{path}{field.encode_name}.")


# The words of the fields that take one of a few.
CHOICES: Mapping[str, type[Enum]] = dict(_choices(PoolSpec))


def ignored_fields(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of the object that are accepted and kept, and mean nothing to an engine."""
    return tuple(
        sorted(key for key, value in spec.items() if key not in FIELDS and value is not None)
    )


def parse(spec: Mapping[str, Any]) -> PoolSpec:
    """The spec as types; a null counts as absent, as it does in ROLL.

    Raises :class:`errors.InvalidError` with every field whose type does not fit.
    """
    too_large = shape.problem(spec)
    if too_large is not None:
        raise errors.InvalidError(too_large)
    present = {key: value for key, value in spec.items() if value is not None}
    try:
        return msgspec.convert(present, PoolSpec)
    except msgspec.ValidationError as error:
        raise errors.InvalidError(*_misfits(present, error)) from error


def _misfits(present: dict[str, Any], first: msgspec.ValidationError) -> Iterator[errors.Problem]:
    """Each field that does not fit: msgspec stops at one, so that one is left out and the rest
    is tried again."""
    left, gone = copy.deepcopy(present), list[str]()
    error: msgspec.ValidationError | None = first
    while error is not None:
        detail, _, place = str(error).partition(" - at ")
        # "`$.seed`", or "`key` in `$.model_args`"
        field = place.rpartition("`$")[2].strip("`").removeprefix(".")
        # What is left of a map may lack what was left out of it.
        if not (detail.startswith(_LACKING) and any(name.startswith(field) for name in gone)):
            yield misfit.problem(field, detail, present, CHOICES)
        gone.append(field)
        error = _without(left, field)


_LACKING = "Object missing required field"


def _without(left: dict[str, Any], field: str) -> msgspec.ValidationError | None:
    """Take a field out, in place, and say what then does not fit."""
    *parents, last = field.partition("[")[0].split(".")
    holder: Any = left
    for name in parents:
        holder = holder[name]
    del holder[last]
    try:
        msgspec.convert(left, PoolSpec)
    except msgspec.ValidationError as error:
        return error
    return None
