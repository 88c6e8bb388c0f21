"""What engines were planned to hold, and what they say they got.  Pure.

Engines of one pool differ by the memory that was free when they started: the one is told of which
the plan was most wrong, or that got the fewest tokens where nothing is planned.  What it said once
is kept, so that a new operator, or nodes out of sight, take nothing back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import EnginePlan
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import EngineReport, ObservedNode, Resolved
from sglang_operator.pool import planned_memory
from sglang_operator.pool.resolve import Pool

Nodes = Mapping[str, ObservedNode] | None
_DIGITS = 2


@dataclass(frozen=True, kw_only=True)
class _Told:
    """One engine's share of the status."""

    engine: str
    told: dict[str, Any]

    @property
    def badness(self) -> tuple[bool, float]:
        """By which the worst comes last."""
        error = self.told.get("errorPercent")
        if isinstance(error, (int, float)):
            return True, abs(error)
        return False, -float(self.told["reported"].get("tokens", 0))


def memory(
    pool: Pool,
    engines: Sequence[EngineStatus],
    reports: Mapping[str, EngineReport],
    nodes: Nodes,
    previous: Mapping[str, Any],
) -> dict[str, Any]:
    """``status.memory``; {} where nothing is planned and nothing reported."""
    same = previous.get("revision") == pool.revision
    before: Mapping[str, Any] = previous.get("memory", {}) if same else {}
    if nodes is None and before.get("planned") and planned_memory.asked_for(pool) is None:
        return dict(before)  # the nodes are out of sight, and with them the card
    own = [engine for engine in engines if _is_of(pool, engine)]
    found = [*_heard(pool, own, reports, nodes)]
    found += _remembered(pool, before, {told.engine for told in found})
    if found:
        return max(found, key=lambda told: told.badness).told
    return next(_planned_alone(pool, own, nodes), dict[str, Any]())


def _is_of(pool: Pool, engine: EngineStatus) -> bool:
    """Whether it was started with the arguments that are planned: tuning changes them."""
    leader = engine.leader
    return leader is not None and leader.revision == pool.revision


def _heard(
    pool: Pool,
    engines: Sequence[EngineStatus],
    reports: Mapping[str, EngineReport],
    nodes: Nodes,
) -> Iterator[_Told]:
    for engine in engines:
        report = reports.get(engine.instance or "")
        resolved = report.resolved if report is not None else None
        if resolved is None or not resolved.max_total_tokens:
            continue
        told = _planned(pool, _card(engine, nodes)) | {
            "reported": _reported(resolved),
            "worstEngine": engine.name,
        }
        planned = told.get("planned")
        if planned is not None:
            share = planned["tokens"] / resolved.max_total_tokens - 1
            told["errorPercent"] = round(100 * share, _DIGITS) + 0.0  # never -0.0
        yield _Told(engine=engine.name, told=told)


def _remembered(pool: Pool, before: Mapping[str, Any], heard: set[str]) -> Iterator[_Told]:
    """What the status says, if its engine is still wanted and has not been heard anew."""
    worst = before.get("worstEngine")
    wanted = any(engine.name == worst for engine in pool.running)
    if before.get("reported") and wanted and worst not in heard:
        yield _Told(engine=str(worst), told=dict(before))


def _planned_alone(
    pool: Pool, engines: Sequence[EngineStatus], nodes: Nodes
) -> Iterator[dict[str, Any]]:
    """The plan for the first card that is known, while nobody has reported."""
    for card in (*(_card(engine, nodes) for engine in engines), None):
        if told := _planned(pool, card):
            yield told


def _card(engine: EngineStatus, nodes: Nodes) -> Card | None:
    """The card of an engine's node, where that tells."""
    leader = engine.leader
    node = (nodes or {}).get(leader.node) if leader is not None else None
    return node.card if node is not None else None


def _planned(pool: Pool, card: Card | None) -> dict[str, Any]:
    """Card and plan; {} where one of them is not known."""
    found = planned_memory.of(pool, card)
    if found is None or found.plan.pools.tokens <= 0:
        return {}
    return {"card": found.plan.request.card.name, "planned": _numbers(found.plan)}


def _numbers(plan: EnginePlan) -> dict[str, Any]:
    return {
        "tokens": plan.pools.tokens,
        "weightsGiB": round(plan.weights_gib, _DIGITS),
        "cacheGiB": round(plan.pools.cache_gib, _DIGITS),
    }


def _reported(resolved: Resolved) -> dict[str, Any]:
    found = {
        "tokens": resolved.max_total_tokens,
        "weightsGiB": resolved.weights_gib,
        "cacheGiB": resolved.cache_gib,
    }
    return {
        name: round(value, _DIGITS) if isinstance(value, float) else value
        for name, value in found.items()
        if value is not None
    }
