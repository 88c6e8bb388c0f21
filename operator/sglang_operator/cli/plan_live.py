"""``plan --live``: what a pool's engines were planned to hold, beside what they say they got.

The operator asks engines and keeps what they say in the status; here it is read, and planned anew
with what the command line knows more: the model's config.json, or the card.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

from sglang_operator.cli import texts
from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from sglang_operator.memory import cards, engine, known, settings
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import EnginePlan, Request
from sglang_operator.memory.known import NotKnown
from sglang_operator.pool import tuning
from sglang_operator.pool.resolve import Pool, resolve_pool
from sglang_operator.roll import worker
from sglang_operator.status import memory, stored

_GIB = "GiB"
# The rows of the table: key of both columns, what it is, and its unit.
_ROWS = (
    ("tokens", "tokens", ""),
    ("weightsGiB", "weights on each GPU", _GIB),
    ("cacheGiB", "cache on each GPU", _GIB),
    ("memFractionStatic", "mem_fraction_static", ""),
    ("maxRunningRequests", "max_running_requests", ""),
    ("contextLength", "context_length", ""),
)
_IN_STATUS = ("memFractionStatic", "maxRunningRequests", "contextLength")


@dataclass(frozen=True, kw_only=True)
class Live:
    """A pool that runs, by both columns."""

    name: str
    namespace: str
    model: str
    version: str
    card: str  # "" where it is not known
    planned: Mapping[str, Any]  # {} where it is not known
    reported: Mapping[str, Any]  # {} until an engine has said something
    engine: str  # that reported it
    why: str = ""  # nothing is planned

    @property
    def known(self) -> bool:
        """Whether there is something in both columns."""
        return bool(self.planned.get("tokens") and self.reported.get("tokens"))

    def off(self, key: str) -> float | None:
        """By how much more was planned than is reported, in percent."""
        planned, reported = self.planned.get(key), self.reported.get(key)
        if not planned or not reported:
            return None
        return memory.off(float(planned), float(reported))


def live(cluster: Cluster, name: str, card: Card | None, config: dict[str, Any] | None) -> Live:
    """The pool of this name.  ``card``: None: the one that the status tells.

    Raises :class:`ClusterError`, also for a pool that is not there, or whose spec is refused.
    """
    seen = look.look(cluster, [name], nodes=False).pools[0]
    status = stored.understood(seen.status)
    pool = seen.resolved
    if not isinstance(pool, Pool):
        detail = texts.PLAN_REFUSED.format(name=name, why=pool.errors[0])
        raise ClusterError("kubectl get sgi", detail, Why.OTHER)
    tuned = resolve_pool(pool.owner, seen.record.spec, tuning.read(seen.status))
    pool = tuned if isinstance(tuned, Pool) else pool
    held = status.get("memory", {})
    told = held.get("card", "")
    card = card or cards.parse(told)
    planned, why = _planned(pool, card, config)
    if card is None and held.get("planned"):
        planned, why = held["planned"], ""  # a card that only its node knew the size of
    return Live(
        name=name,
        namespace=seen.namespace,
        model=worker.model(pool.spec.model_args) or "",
        version=str(pool.version),
        card=card.name if card is not None else told,
        planned=planned,
        reported=_reported(status),
        engine=held.get("worstEngine", ""),
        why=why,
    )


def _planned(
    pool: Pool, card: Card | None, config: dict[str, Any] | None
) -> tuple[dict[str, Any], str]:
    """The plan's column, or why there is none."""
    if card is None:
        return {}, texts.PLAN_NO_CARD
    given = settings.of_argv(pool.argv, pool.version)
    model = worker.model(pool.spec.model_args) or ""
    shape = known.shape(model, pool.version, given, config)
    if isinstance(shape, NotKnown):
        return {}, shape.why
    request = Request(shape=shape, card=card, version=pool.version, settings=given)
    return _column(engine.plan(request)), ""


def _column(plan: EnginePlan) -> dict[str, Any]:
    return {
        **memory.numbers(plan),
        "memFractionStatic": round(plan.share, 4),
        "maxRunningRequests": plan.max_running,
        "contextLength": plan.context,
    }


def _reported(status: Mapping[str, Any]) -> dict[str, Any]:
    """Of the engine that the status names; arguments are the same for all."""
    said = status.get("reported", {})
    numbers = {key: said[key] for key in _IN_STATUS if isinstance(said.get(key), (int, float))}
    return {**status.get("memory", {}).get("reported", {}), **numbers}


# --- for people


def line(found: Live) -> str:
    """The verdict."""
    head = f"{found.name} on {found.card}" if found.card else found.name
    if found.why:
        return f"{head}: {texts.PLAN_NOT_KNOWN.format(why=found.why)}"
    if not found.known:
        return f"{head}: {texts.PLAN_NOT_REPORTED}"
    return f"{head}: " + texts.PLAN_LIVE.format(
        planned=found.planned["tokens"],
        reported=found.reported["tokens"],
        engine=found.engine,
        off=f"{found.off('tokens'):+.2f}",
    )


def table(found: Live) -> RenderableType:
    """Both columns, row by row."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "planned", "reported", "off"):
        made.add_column(name, justify="right" if name else "left", header_style="dim")
    for row in _rows(found):
        made.add_row(*row)
    return Padding(made, (1, 0, 0, 2))


def _rows(found: Live) -> Iterator[tuple[str, str, str, str]]:
    for key, name, unit in _ROWS:
        planned, reported = found.planned.get(key), found.reported.get(key)
        if planned is not None or reported is not None:
            off = found.off(key)
            told = "" if off is None else f"{off:+.2f} %"
            yield name, _shown(planned, unit), _shown(reported, unit), told


def _shown(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value} {unit}".rstrip()


# --- for programs


def as_json(found: Live) -> str:
    """The same as JSON; null where a column is empty."""
    body = {
        "name": found.name,
        "namespace": found.namespace,
        "model": found.model,
        "version": found.version,
        "card": found.card or None,
        "planned": dict(found.planned) or None,
        "reported": dict(found.reported) or None,
        "errorPercent": found.off("tokens"),
        "worstEngine": found.engine or None,
        "why": found.why or None,
    }
    return json.dumps(body, indent=2, ensure_ascii=False)
