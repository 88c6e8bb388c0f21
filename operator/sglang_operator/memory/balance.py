"""Tokens for each GPU-second of a training step, by a simple model, and better balances.  Pure.

A step generates ``samples`` responses and trains on them.  Generation is bound by memory: in each
of its steps an engine reads its weights (of experts no more than its sequences can ask for) and the
cache of its sequences, at 60 % of the card's bandwidth, and takes 20 microseconds in each layer to
begin them and 25 more for each doubling of tp, in which its GPUs add up what they have; so many
sequences run at once as fit, in waves.  Passes over all tokens are bound by
arithmetic: 2 operations of a parameter for each pass without gradients and 6 for training, at 35 %
of the card's rate.  All responses are taken as half as long as they may get.  Roles follow one
another, as in ROLL without asynchronous generation.  It ranks; it does not predict.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sglang_operator.memory import engine, verdict, weights
from sglang_operator.memory.engine import EnginePlan, Request
from sglang_operator.memory.verdict import Outcome

_BANDWIDTH, _RATE = 0.6, 0.35
_LAYER_SECONDS, _REDUCE_SECONDS = 20e-6, 25e-6
_BETTER = 1.05
_MOST = 2
_MEAN = 0.5  # of a response's longest


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """The work of one training step of the pipeline."""

    samples: int  # responses
    prompt: int
    response: int
    passes: int  # over all tokens without gradients: reference, old log probabilities
    train_gpus: int
    total_gpus: int


@dataclass(frozen=True, kw_only=True)
class Balance:
    """One way to use the GPUs."""

    engine_gpus: int  # of one engine
    engines: int
    share: float
    at_once: int  # sequences, of one engine
    generation: float  # seconds
    training: float
    tokens: float  # for each GPU-second
    total_gpus: int

    @property
    def gpus(self) -> int:
        """That engines have together."""
        return self.engine_gpus * self.engines


def of(plan: EnginePlan, engines: int, step: TrainingStep) -> Balance | None:
    """The balance as it is; None where the card's speed is not known, or nothing fits."""
    card, at_once = plan.request.card, plan.sequences
    if not card.bandwidth or not card.flops or not at_once or not engines:
        return None
    division = plan.request.settings.division
    each = max(1, min(at_once, -(-step.samples // engines)))
    mean = step.prompt + step.response * _MEAN
    seconds = _seconds_of_a_step(plan, each, mean)
    made = step.samples * step.response * _MEAN
    generation = made / (engines * each) * seconds
    training = _training(plan, step)
    return Balance(
        engine_gpus=division.tp * division.pp,
        engines=engines,
        share=plan.share,
        at_once=each,
        generation=generation,
        training=training,
        tokens=made / (step.total_gpus * (generation + training)),
        total_gpus=step.total_gpus,
    )


def _seconds_of_a_step(plan: EnginePlan, sequences: int, length: float) -> float:
    """In which each sequence gets one token."""
    shape, card = plan.request.shape, plan.request.card
    read = plan.weights.total - plan.weights.tower
    if shape.experts is not None:
        asked = min(1.0, sequences * shape.experts.active / shape.experts.number)
        read -= plan.weights.experts * (1 - asked)
    own = sequences / plan.replicas
    read += own * (length * plan.cache.cell + plan.cache.state_bytes)
    ranks = plan.request.settings.division.tp
    operations = 2 * weights.active(shape) * sequences / ranks
    memory = read / (card.bandwidth * _BANDWIDTH)
    each_layer = _LAYER_SECONDS + _REDUCE_SECONDS * math.log2(ranks)
    return max(memory, operations / (card.flops * _RATE)) + shape.layers * each_layer


def _training(plan: EnginePlan, step: TrainingStep) -> float:
    tokens = step.samples * (step.prompt + step.response * _MEAN)
    operations = (6 + 2 * step.passes) * weights.active(plan.request.shape) * tokens
    return operations / (step.train_gpus * plan.request.card.flops * _RATE)


def better(request: Request, engines: int, step: TrainingStep) -> tuple[Balance, ...]:
    """The two best of other divisions of the same GPUs, if they are better by 5 %."""
    present = of(engine.plan(request), engines, step)
    if present is None:
        return ()
    found = sorted(
        (balance for balance in _others(request, present, step)),
        key=lambda balance: -balance.tokens,
    )
    least = present.tokens * _BETTER
    chosen: list[Balance] = []
    for balance in found:
        seen = {(other.engine_gpus, other.engines) for other in chosen}
        new = (balance.engine_gpus, balance.engines) not in seen
        if balance.tokens >= least and new:
            chosen.append(balance)
    return tuple(chosen[:_MOST])


def _others(request: Request, present: Balance, step: TrainingStep) -> Iterator[Balance]:
    pools = {present.gpus, step.total_gpus}
    shares = (request.settings.mem_fraction_static, None)
    for gpus in sorted(pools):
        for tp in (1, 2, 4, 8, 16):
            if gpus % tp:
                continue
            for share in dict.fromkeys(shares):
                asked = engine.changed(request, tp=tp, pp=1, ep=1, mem_fraction_static=share)
                plan = engine.plan(asked)
                if verdict.judge(plan).outcome is Outcome.DOES_NOT_FIT:
                    continue
                balance = of(plan, gpus // tp, step)
                if balance is not None:
                    yield balance
