"""What engines were planned to hold, and what they say they got.  Pure.

Engines of one pool differ by the memory that was free when they started: the one is told of which
the plan was most wrong, or that got the fewest tokens where nothing is planned.  What it said once
is kept, so that a new operator, or nodes out of sight, take nothing back.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sglang_operator.api import errors
from sglang_operator.api.spec import MemoryCheck
from sglang_operator.memory import verdict
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import EnginePlan
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import EngineReport, ObservedNode, Resolved
from sglang_operator.pool import planned_memory
from sglang_operator.pool.resolve import Pool

Nodes = Mapping[str, ObservedNode] | None
_DIGITS = 2


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
    heard = {e.name: (e, told) for e in own if (told := _resolved(e, reports)) is not None}
    found = _worst(pool, heard.values(), nodes)
    remembered = _remembered(pool, before, heard)
    if remembered and (not found or _badness(remembered) > _badness(found)):
        return remembered
    if found:
        return found
    kept = {key: before[key] for key in ("card", "planned") if key in before}
    return next(_planned_alone(pool, own, nodes), kept)


def warnings(
    pool: Pool,
    engines: Sequence[EngineStatus],
    held: Mapping[str, Any],
    nodes: Nodes,
    previous: Mapping[str, Any],
) -> Iterator[errors.Problem]:
    """That memory is tight on the first card that is known, or lacks; ``held``: ``memory``'s.

    What is said of a revision stays while its card is out of sight: each warning is told once.
    """
    if pool.spec.memory_check is MemoryCheck.OFF:
        return
    seen = (_card(engine, nodes) for engine in engines if _is_of(pool, engine))
    found = planned_memory.of(pool, next(filter(None, seen), None))
    if found is not None:
        tight = verdict.of_memory(found.plan, runs="reported" in held)
        if tight is not None:
            card = found.plan.request.card.name
            yield errors.MEMORY_TIGHT("spec", card=card, verdict=tight.line)
    elif previous.get("revision") == pool.revision:
        row = errors.MEMORY_TIGHT
        for told in previous.get("warnings", ()):
            if told["reason"] == row.reason:
                yield errors.Problem(
                    reason=row.reason,
                    field=told["field"],
                    message=told["message"],
                    severity=row.severity,
                )


def _is_of(pool: Pool, engine: EngineStatus) -> bool:
    """Whether it was started with the arguments that are planned: tuning changes them."""
    leader = engine.leader
    return leader is not None and leader.revision == pool.revision


def _resolved(engine: EngineStatus, reports: Mapping[str, EngineReport]) -> Resolved | None:
    """What an engine said, if that tells of its memory."""
    report = reports.get(engine.instance or "")
    resolved = report.resolved if report is not None else None
    return resolved if resolved is not None and resolved.max_total_tokens else None


def _worst(
    pool: Pool, heard: Iterable[tuple[EngineStatus, Resolved]], nodes: Nodes
) -> dict[str, Any]:
    """The one of which the plan was most wrong; {} if nobody was heard.

    A pool has thousands of engines, and few cards.
    """
    plans: dict[Card | None, dict[str, Any]] = {}
    worst: dict[str, Any] = {}
    for engine, resolved in heard:
        card = _card(engine, nodes)
        if card not in plans:
            plans[card] = _planned(pool, card)
        tokens, planned = resolved.max_total_tokens or 1, plans[card].get("planned")
        told: dict[str, Any] = {"reported": {"tokens": tokens}}
        if planned is not None:
            told["errorPercent"] = off(planned["tokens"], tokens)
        if not worst or _badness(told) > _badness(worst):
            worst = plans[card] | told
            worst |= {"reported": _reported(resolved), "worstEngine": engine.name}
    return worst


def _badness(told: Mapping[str, Any]) -> tuple[bool, float]:
    """By which the worst comes last."""
    error = told.get("errorPercent")
    if error is not None:
        return True, abs(float(error))
    return False, -float(told["reported"].get("tokens", 0))


def _remembered(pool: Pool, before: Mapping[str, Any], heard: Collection[str]) -> dict[str, Any]:
    """What the status says, if its engine is still wanted and has not been heard anew."""
    worst = before.get("worstEngine")
    wanted = any(engine.name == worst for engine in pool.running)
    return dict(before) if before.get("reported") and wanted and worst not in heard else {}


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
    return {"card": found.plan.request.card.name, "planned": numbers(found.plan)}


def off(planned: float, reported: float) -> float:
    """By how much more was planned than is reported, in percent; never -0.0."""
    return round(100 * (planned / reported - 1), _DIGITS) + 0.0


def numbers(plan: EnginePlan) -> dict[str, Any]:
    """What ``planned`` says of each engine."""
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
