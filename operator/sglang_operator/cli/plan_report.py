"""What ``plan`` found, for people and for programs."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_operator.cli import texts
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.yaml_tree.nodes import Mark
from sglang_operator.engine import versions
from sglang_operator.memory import balance, trainer, verdict
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import EnginePlan
from sglang_operator.memory.known import NotKnown
from sglang_operator.memory.trainer import Training
from sglang_operator.memory.verdict import Outcome, Verdict
from sglang_operator.roll import device_mapping

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Engines that are alike: a pool, or what a trainer would start."""

    name: str
    model: str
    version: versions.Version
    gpus: int  # of each
    devices: tuple[tuple[int, ...], ...]  # of each; empty where only their number is known
    mark: Mark | None = None  # where it is written


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Engines on a card."""

    engines: Engines
    role: Role | None
    card: Card
    plan: EnginePlan | NotKnown
    shared_memory: int | None = None  # bytes that an engine may have in its /dev/shm

    @property
    def name(self) -> str:
        return self.engines.name

    @property
    def verdict(self) -> Verdict | None:
        return None if isinstance(self.plan, NotKnown) else verdict.judge(self.plan)


@dataclass(frozen=True, kw_only=True)
class Balances:
    """How the engines are balanced with the trainer, and how they might be."""

    card: Card
    now: balance.Balance
    better: tuple[balance.Balance, ...]


@dataclass(frozen=True, kw_only=True)
class Whole:
    """All roles of a pipeline."""

    roles: Sequence[Role]
    pools: Sequence[Planned]
    trainings: Sequence[Training]
    cards: Sequence[Card]
    per_node: int
    balances: Sequence[Balances]

    def engines(self) -> Iterator[Planned]:
        """Each pool once, whatever the cards."""
        for found in self.pools:
            if found.card is self.cards[0]:
                yield found

    def beside(self, training: Training) -> float:
        """GiB that other roles keep on the GPUs of this one while it works."""
        own = next(role for role in self.roles if role.name == training.name)
        engines = {found.name for found in self.engines()}
        shared = [r for r in self.roles if r.path != own.path and r.devices & own.devices]
        asleep = any(role.name in engines for role in shared)
        others = sum(1 for role in shared if role.name not in engines)
        return trainer.beside(training, others, asleep)

    def lacking(self) -> Iterator[str]:
        """The roles whose peak is too much for a card, and what would mend it."""
        for found in self.trainings:
            beside = self.beside(found)
            for card in self.cards:
                lacks = trainer.peak(found).total + beside - card.gib
                if lacks > 0:
                    knob = trainer.knob(found, card.gib - beside)
                    advice = f"set {knob[0]}: {knob[1]}" if knob else texts.PLAN_NO_KNOB
                    yield texts.PLAN_TRAINER.format(
                        name=found.name, card=card.name, gib=f"{lacks:.0f}", advice=advice
                    )

    def idle(self) -> Iterator[tuple[str, int]]:
        """Phases of a step, and how many GPUs wait in each."""
        everything = frozenset[int]().union(*(role.devices for role in self.roles))
        for phase, names in _PHASES:
            working = frozenset[int]().union(
                *(role.devices for role in self.roles if _is_of(role, names))
            )
            if working:
                yield phase, len(everything - working)


_PHASES = (
    ("rollout", ("actor_infer", "student_infer", "rewards", "reward")),
    ("reference", ("reference", "teacher", "critic")),
    ("training", ("actor_train", "student_train", "sft_train", "critic")),
)


def _is_of(role: Role, names: Sequence[str]) -> bool:
    return role.path[0] in names


@dataclass(frozen=True, kw_only=True)
class Report:
    """The plan of a file."""

    pools: list[Planned] = field(default_factory=list)
    wholes: list[Whole] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether every pool is known to fit."""
        found = [planned.verdict for planned in self.pools]
        return all(v is not None and v.outcome is not Outcome.DOES_NOT_FIT for v in found)


# --- for people


def verdicts(report: Report) -> Iterator[str]:
    """One line for each pool and card."""
    for planned in report.pools:
        head = f"{planned.name} on {planned.card.name}"
        found = planned.verdict
        if found is not None:
            yield f"{head}: {found.line}"
        elif isinstance(planned.plan, NotKnown):
            yield f"{head}: {texts.PLAN_NOT_KNOWN.format(why=planned.plan.why)}"
    for whole in report.wholes:
        yield from whole.lacking()


# --- for programs


def as_json(report: Report) -> str:
    """The same as JSON."""
    body = {
        "fits": report.fits,
        "pools": [_pool(planned) for planned in report.pools],
        "pipelines": [_pipeline(whole) for whole in report.wholes],
    }
    return json.dumps(body, indent=2, ensure_ascii=False)


def _pool(planned: Planned) -> dict[str, Any]:
    engines = planned.engines
    record: dict[str, Any] = {
        "name": planned.name,
        "card": planned.card.name,
        "model": engines.model,
        "version": str(engines.version),
        "engines": len(engines.devices),
        "gpusPerEngine": engines.gpus,
    }
    if isinstance(planned.plan, NotKnown):
        return {**record, "verdict": {"outcome": "not known", "reason": planned.plan.why}}
    return {**record, "verdict": _verdict(planned.verdict), "gib": _gib(planned, planned.plan),
            "uncounted": [*planned.plan.uncounted], **_counts(planned.plan)}  # fmt: skip


def _verdict(found: Verdict | None) -> dict[str, Any]:
    assert found is not None
    knob = found.knob
    return {
        "outcome": found.outcome.value,
        "reason": found.reason,
        "marginGiB": round(found.margin, 2),
        "knob": dataclasses.asdict(knob) if knob is not None else None,
    }


def _gib(planned: Planned, plan: EnginePlan) -> dict[str, Any]:
    shm = planned.shared_memory
    values = {
        "freeBeforeLoading": plan.free,
        "weights": plan.weights_gib,
        "states": plan.pools.state_gib,
        "cache": plan.pools.cache_gib,
        "outside": plan.left,
        "needed": plan.needed,
        "graphs": plan.graphs,
        "residentOthers": plan.request.resident_gib,
        "host": plan.host,
        "disk": plan.disk,
        "sharedMemory": shm / GIB if shm is not None else None,
    }
    rounded = {key: None if value is None else round(value, 2) for key, value in values.items()}
    terms = {name: round(value / GIB, 2) for name, value in plan.weights.terms()}
    return {**rounded, "weightsBy": terms}


def _counts(plan: EnginePlan) -> dict[str, Any]:
    return {
        "memFractionStatic": round(plan.share, 4),
        "memFractionStaticGiven": plan.share_given,
        "tokens": plan.pools.tokens,
        "attentionReplicas": plan.replicas,
        "windowTokens": plan.pools.window_tokens,
        "stateSlots": plan.pools.state_slots,
        "bytesPerToken": plan.cache.cell,
        "sequences": plan.sequences,
        "maxRunningRequests": plan.max_running,
        "contextLength": plan.context,
    }


def _pipeline(whole: Whole) -> dict[str, Any]:
    return {
        "roles": [
            {
                "name": role.name,
                "strategy": role.strategy,
                "devices": device_mapping.describe(sorted(role.devices)) if role.devices else "",
            }
            for role in whole.roles
        ],
        "idle": dict(whole.idle()),
        "trainers": [
            {
                "name": found.name,
                "gib": {name: round(value, 2) for name, value in trainer.peak(found).terms()},
                "besideGiB": round(whole.beside(found), 2),
            }
            for found in whole.trainings
        ],
        "lacking": [*whole.lacking()],
        "balances": [
            {
                "card": found.card.name,
                "now": _balance(found.now),
                "better": [_balance(each) for each in found.better],
            }
            for found in whole.balances
        ],
    }


def _balance(found: balance.Balance) -> dict[str, Any]:
    return {
        "engines": found.engines,
        "gpusPerEngine": found.engine_gpus,
        "memFractionStatic": round(found.share, 4),
        "sequencesAtOnce": found.at_once,
        "generateSeconds": round(found.generation, 1),
        "trainSeconds": round(found.training, 1),
        "tokensPerGpuSecond": round(found.tokens, 1),
    }
