"""Engines of a plan, wherever they are written: on each card that is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sglang_operator.cli import plan_report
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.cli.plan_report import Engines, Planned
from sglang_operator.engine import versions
from sglang_operator.memory import balance, engine, known, settings
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import Request, Sequence
from sglang_operator.memory.known import NotKnown


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says."""

    cards: tuple[Card, ...]
    config: dict[str, Any] | None
    sequence: Sequence | None
    environment: bool
    version: versions.Version = versions.NEWEST_KNOWN  # where a file cannot say one
    resident: float | None = None  # GiB that others keep of each GPU; None: by the file


def on_cards(
    engines: Engines,
    role: Role | None,
    given: settings.Settings,
    sequence: Sequence | None,
    resident: float,
    asked: Asked,
    shm: int | None,
) -> Iterator[Planned]:
    """A plan for each card; ``resident``: GiB that others keep, if nobody says; ``shm``: bytes."""
    shape = known.shape(engines.model, engines.version, given, asked.config)
    for card in asked.cards:
        plan: engine.EnginePlan | NotKnown
        if isinstance(shape, NotKnown):
            plan = shape
        else:
            request = Request(
                shape=shape,
                card=card,
                version=engines.version,
                settings=given,
                sequence=sequence,
                resident_gib=resident if asked.resident is None else asked.resident,
            )
            plan = engine.plan(request)
        yield Planned(engines=engines, role=role, card=card, plan=plan, shared_memory=shm)


def balances(
    pools: list[Planned], work: balance.TrainingStep | None
) -> Iterator[plan_report.Balances]:
    """How engines that serve a trainer are balanced with its work, and better ones."""
    for found in pools:
        plan = found.plan
        main = found.role is not None and found.role.name in ("actor_infer", "student_infer")
        if work is None or not main or isinstance(plan, NotKnown):
            continue
        engines = len(found.engines.devices)
        present = balance.of(plan, engines, work)
        if present is not None:
            others = balance.better(plan.request, engines, work)
            yield plan_report.Balances(card=found.card, now=present, better=others)
