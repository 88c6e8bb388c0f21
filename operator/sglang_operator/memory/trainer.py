"""What a trainer takes of each of its GPUs: an estimate, with its terms.

Megatron keeps bfloat16 weights (2 bytes of a parameter), gradients in float32 (4), and Adam's state
in float32 (12: the weights, two moments), divided among its data-parallel ranks where the optimizer
is distributed.  FSDP and DeepSpeed divide by their stage.  Activations are those of Korthikanti et
al. ("Reducing Activation Recomputation in Large Transformer Models", 2022): 34 bytes of a hidden
number in each layer, or 2 with recomputation and one whole layer.  Nothing here was measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from sglang_operator.memory import weights
from sglang_operator.memory.shape import Shape

GIB = 2**30
CONTEXT_GIB = 2.0  # of a process: CUDA, libraries, communicators
RESIDENT_GIB = 1.5  # of a process that has put its model away
_ASLEEP_GIB = 1.0  # of an engine that released its memory; measured on an H200
_GRADIENT, _ADAM = 4, 12
_WHOLE_LAYER, _KEPT = 34, 2


class Kind(Enum):
    MEGATRON = "megatron"
    SHARDED = "fsdp"  # weights, gradients and state divided among all ranks
    STATE_SHARDED = "zero"  # gradients and state
    INFERENCE = "inference"


@dataclass(frozen=True, kw_only=True)
class Training:
    """A role that is no engine."""

    name: str
    shape: Shape
    kind: Kind
    gpus: int
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    expert_tp: int = 1
    trains: bool = True
    distributed_optimizer: bool = True
    sequence_parallel: bool = True
    recompute: bool = True
    optimizer_on_host: bool = False
    micro_batch: int = 1
    tokens: int = 8192  # of a sequence

    @property
    def replicas(self) -> int:
        return max(1, self.gpus // (self.tp * self.pp * self.cp))

    @property
    def expert_replicas(self) -> int:
        return max(1, self.gpus // (self.pp * self.ep * self.expert_tp))


@dataclass(frozen=True, kw_only=True)
class Peak:
    """GiB of one GPU while this role works, by what they are."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    context: float = CONTEXT_GIB

    @property
    def total(self) -> float:
        return sum(value for _, value in self.terms())

    def terms(self) -> Iterator[tuple[str, float]]:
        for name in ("weights", "gradients", "optimizer", "activations", "logits", "context"):
            yield name, getattr(self, name)


def peak(training: Training) -> Peak:
    """The estimate."""
    dense, experts = _parameters(training)
    ours = dense + experts
    states = _states(training, dense, experts)
    shape = training.shape
    tokens = training.tokens * training.micro_batch / training.cp
    logits = tokens * shape.vocab * (4 + 2) / training.tp if training.trains else 0.0
    kept = ours / training.gpus if training.kind is Kind.SHARDED else ours
    return Peak(
        weights=kept * 2 / GIB,
        gradients=_gradients(training, ours) / GIB,
        optimizer=states / GIB,
        activations=_activations(training, tokens) / GIB,
        logits=logits / GIB,
    )


def _parameters(training: Training) -> tuple[float, float]:
    """Of one GPU: those that all tokens go through, and experts."""
    shape = training.shape
    one = weights.per_gpu(shape, weights.Division(), None)
    routed = 0.0
    if shape.experts is not None:
        found = shape.experts
        routed = found.layers * found.number * 3.0 * shape.hidden * found.intermediate
    dense = (weights.parameters(shape) - routed) if one.total else 0.0
    if training.kind in (Kind.SHARDED, Kind.STATE_SHARDED):
        return dense + routed, 0.0
    each = dense / (training.tp * training.pp)
    return each, routed / (training.ep * training.expert_tp * training.pp)


def _gradients(training: Training, ours: float) -> float:
    if not training.trains:
        return 0.0
    if training.kind in (Kind.SHARDED, Kind.STATE_SHARDED):
        return ours * 2 / training.gpus
    return ours * _GRADIENT


def _states(training: Training, dense: float, experts: float) -> float:
    if not training.trains or training.optimizer_on_host:
        return 0.0
    if training.kind in (Kind.SHARDED, Kind.STATE_SHARDED):
        return dense * _ADAM / training.gpus
    if not training.distributed_optimizer:
        return (dense + experts) * _ADAM
    return _ADAM * (dense / training.replicas + experts / training.expert_replicas)


def _activations(training: Training, tokens: float) -> float:
    shape = training.shape
    layers = -(-shape.layers // training.pp)
    width = tokens * shape.hidden / (training.tp if training.sequence_parallel else 1)
    if not training.trains:
        return _WHOLE_LAYER * width
    stages = training.pp  # the first keeps as many batches as there are stages
    if training.recompute:
        return width * (_KEPT * layers * stages + _WHOLE_LAYER)
    return width * _WHOLE_LAYER * layers * stages


def beside(training: Training, others: int, engines: bool) -> float:
    """GiB that the other processes on its GPUs keep while it works."""
    return others * RESIDENT_GIB + (_ASLEEP_GIB if engines else 0.0)


def knob(training: Training, room: float) -> tuple[str, object] | None:
    """The one argument with which its peak fits into so many GiB, and its value; None: none does.

    What costs no speed comes first, then what costs some, then what costs most.
    """
    for name, value, changed in _knobs(training):
        if peak(changed).total <= room:
            return name, value
    return None


def _knobs(training: Training) -> Iterator[tuple[str, object, Training]]:
    megatron = training.kind is Kind.MEGATRON
    if megatron and training.trains and not training.distributed_optimizer:
        yield "use_distributed_optimizer", "true", replace(training, distributed_optimizer=True)
    if training.trains and not training.recompute:
        yield "disable_gradient_checkpointing", "false", replace(training, recompute=True)
    if megatron:
        yield from _divided(training)
    if training.trains and not training.optimizer_on_host:
        yield "optimizer_cpu_offload", "true", replace(training, optimizer_on_host=True)


def _divided(training: Training) -> Iterator[tuple[str, object, Training]]:
    """Twice and four times the ranks, as far as GPUs and heads go."""
    for factor in (2, 4):
        ep, tp, pp = training.ep * factor, training.tp * factor, training.pp * factor
        experts = training.shape.experts
        if experts is not None and experts.number % ep == 0 and ep * training.pp <= training.gpus:
            yield "expert_model_parallel_size", ep, replace(training, ep=ep)
        fits = tp * training.pp * training.cp <= training.gpus
        if fits and tp <= 8 and training.shape.q_heads % tp == 0:
            yield "tensor_model_parallel_size", tp, replace(training, tp=tp)
        if pp * training.tp * training.cp <= training.gpus and pp <= training.shape.layers:
            yield "pipeline_model_parallel_size", pp, replace(training, pp=pp)
