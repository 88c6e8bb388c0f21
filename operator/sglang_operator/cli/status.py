"""The command ``status``: one screen, the verdict first."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sglang_operator.api import conditions
from sglang_operator.cli import texts
from sglang_operator.cli.cluster import look, operator_leases, queues
from sglang_operator.cli.cluster.kubectl import Cluster
from sglang_operator.cli.cluster.verdict import Level, Verdict, remembered, verdicts
from sglang_operator.cli.findings import one_line
from sglang_operator.cli.options import (
    NOT_SO,
    OK,
    STRUCTURED,
    as_mapping,
    ends,
    pool_names,
    show,
    where,
)
from sglang_operator.diagnosis import causes
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.pool.resolve import Pool
from sglang_operator.roll import device_mapping
from sglang_operator.view.ages import age
from sglang_operator.view.cluster_view import ClusterView, PoolView
from sglang_operator.view.drawing import LEAVING, STATES

MAX_ENGINES = 10
MAX_NOTES = 5
_SIGNS = {Level.BROKEN: ("✘", "bold red"), Level.WORKING: ("…", "yellow"), Level.NOTE: ("·", "dim")}


def document(cluster_view: ClusterView, now: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "pools": [_record(pool, now) for pool in cluster_view.pools],
        "operators": None
        if cluster_view.leaders is None
        else [
            {"namespace": each.namespace, "holder": each.identity, "renewedSecondsAgo": each.silent}
            for each in cluster_view.leaders
        ],
        "notes": list(cluster_view.notes),
    }


def render(cluster_view: ClusterView, now: float, *, detail: bool) -> RenderableType:
    """A line for each pool and what is wrong with those that are not well; or all about each."""
    about = (*_operators(cluster_view), *_notes(cluster_view))
    if detail:
        return Group(*(_whole(pool, now) for pool in cluster_view.pools), *about)
    return Group(_list(cluster_view.pools, now), *_troubled(cluster_view.pools, now), *about)


def _operators(cluster_view: ClusterView) -> Iterator[Text]:
    """Who acts for these pools."""
    if cluster_view.leaders == ():
        yield Text(one_line(f"✘ {operator_leases.nobody_acts(cluster_view)}"), style="bold red")
        yield Text(f"→ {texts.DO_FIND_OPERATOR}", style="bold")
    for leader in cluster_view.leaders or ():
        told = texts.LEADER.format(
            holder=leader.identity, namespace=leader.namespace, age=age(leader.silent)
        )
        yield Text(one_line(told), style="dim")


def _notes(cluster_view: ClusterView) -> Iterator[Text]:
    for note in cluster_view.notes:
        yield Text(f"note: {one_line(note)}", style="dim")


def _record(pool: PoolView, now: float) -> dict[str, Any]:
    return {
        "name": pool.name,
        "namespace": pool.namespace,
        "ready": pool.ready,
        "observed": pool.observed,
        "engines": {state.value: n for state, n in _states(pool)},
        "desired": pool.desired,
        "leaving": [pod.name for pod in pool.leaving],
        "verdicts": [verdict.record() for verdict in verdicts(pool, now)],
        "troubled": [_engine_record(pool, engine) for engine in _troubled_engines(pool)],
    }


def _engine_record(pool: PoolView, engine: EngineStatus) -> dict[str, Any]:
    return {
        "rank": engine.rank if isinstance(pool.resolved, Pool) else None,
        "engine": engine.name,
        "state": engine.state.value,
        "pod": engine.pod_name or None,
        "node": engine.node or None,
        "why": engine.why,
    }


def _states(pool: PoolView) -> list[tuple[EngineState, int]]:
    counts = [(state, pool.count(state)) for state in STATES]
    return [(state, count) for state, count in counts if count]


def _why_else(pool: PoolView, engine: EngineStatus, said: Sequence[Verdict]) -> str:
    """What keeps an engine; only its reason where the rest is said above."""
    why = engine.why
    if engine.state in (EngineState.BACKOFF, EngineState.LOST) or not engine.exists:
        of_this = (e for e in remembered(pool) if engine.name in e.get("engines", ()))
        return str(next((entry["reason"] for entry in of_this), why))
    if isinstance(pool.resolved, Pool):
        held = causes.of_waiting(engine, causes.context(pool.resolved), pool.plan.at)
        if held is not None:
            _, cause = held
            above = any(cause.reason == v.reason or cause.message in v.what for v in said)
            return cause.reason if above else f"{cause.reason}: {cause.message}"
    return next((v.reason for v in said if why and why in v.what), why)


def _troubled_engines(pool: PoolView) -> list[EngineStatus]:
    """Those that do not answer."""
    return list(pool.plan.down)


# --- one pool


def _whole(pool: PoolView, now: float) -> RenderableType:
    return Group(
        _heading(pool, now),
        Padding(_facts(pool), (0, 0, 0, 2), expand=False),
        *_sayings(verdicts(pool, now)),
        *_engines(pool, verdicts(pool, now)),
        Text(""),
    )


def _heading(pool: PoolView, now: float) -> Text:
    worst = next(iter(verdicts(pool, now)), None)
    if pool.ready:
        sign, style, words = "✔", "bold green", "Ready"
    elif worst and worst.level is Level.BROKEN:
        sign, style, words = "✘", "bold red", worst.reason
    else:
        sign, style, words = "…", "bold yellow", worst.reason if worst else "not Ready yet"
    line = Text(f"{sign} {pool.namespace}/{pool.name}: {words}", style=style)
    return line.append(f"   {_age(pool, now)}", style="dim not bold")


def _facts(pool: PoolView) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, text in _told(pool):
        table.add_row(name, one_line(text))
    return table


def _told(pool: PoolView) -> Iterator[tuple[str, str]]:
    resolved, status = pool.resolved, pool.record.status
    counted = [f"{count} {STATES[state][1]}" for state, count in _states(pool)]
    if pool.leaving:
        counted.append(f"{len(pool.leaving)} {LEAVING[1]}")
    states = ", ".join(counted)
    if not isinstance(resolved, Pool):
        if pool.plan.engines:
            yield "engines", f"{pool.desired} of {pool.gpus} GPUs: {states}"
            yield "GPUs", _held(pool)
        return
    model = resolved.spec.model_args.get("model_name_or_path")
    yield "model", f"{model} · SGLang {resolved.version} · {resolved.image}"
    yield "engines", f"{len(pool.plan.engines)} of {resolved.gpus} GPUs: {states or 'none'}"
    yield "GPUs", f"{_held(pool)} · placement {resolved.spec.placement.mode.value}"
    synced = pool.condition(conditions.WEIGHTS_SYNCED)
    format_ = resolved.arguments.load_format
    yield (
        "weights",
        f"gate {resolved.gate.value} · SYNCED {status.get('syncedSummary', '-')} · "
        f"load_format {format_}" + (f" · {synced['reason']}" if synced else ""),
    )
    current = sum(engine.updated for engine in pool.plan.engines)
    rollout = resolved.spec.rollout
    held = " · paused" if rollout.paused else ""
    yield (
        "revision",
        f"{resolved.revision} on {current}/{len(pool.plan.engines)} · maxUnavailable "
        f"{rollout.max_unavailable}{held}",
    )


def _held(pool: PoolView) -> str:
    """How many GPUs its engines have, and on how many nodes."""
    held: Counter[str] = Counter()
    for engine in pool.plan.engines:
        held.update(engine.held(pool.resource, pool.gpus))
    return f"{held.total()}/{pool.desired * pool.gpus} on {len(held)} nodes"


def _sayings(found: Sequence[Verdict]) -> Iterator[RenderableType]:
    """What is wrong, each with what to do; of mere notes only some."""
    notes = 0
    for verdict in found:
        notes += verdict.level is Level.NOTE
        if notes > MAX_NOTES:
            break
        yield _saying(verdict)
    left_out = sum(verdict.level is Level.NOTE for verdict in found) - MAX_NOTES
    if left_out > 0:
        yield Text(f"  · and {left_out} more notes: kubectl sglang status -o yaml", style="dim")


def _saying(verdict: Verdict) -> RenderableType:
    sign, style = _SIGNS[verdict.level]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=3, justify="right", style=style)
    grid.add_column()
    line = Text(one_line(verdict.reason), style=style).append(": ", style="default not bold")
    grid.add_row(sign, line.append(one_line(verdict.what), style="default not bold not dim"))
    if verdict.do:
        grid.add_row("→", Text(one_line(verdict.do), style="bold"))
    return grid


def _engines(pool: PoolView, said: Sequence[Verdict]) -> Iterator[RenderableType]:
    troubled = _troubled_engines(pool)
    if not troubled:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("RANK", "ENGINE", "GPUS", "STATE", "POD", "NODE", "WHY"):
        table.add_column(column, overflow="fold", header_style="dim")
    groups = _alike(pool, troubled, said)
    for group in groups[:MAX_ENGINES]:
        first = group[0]
        ranks = device_mapping.describe(sorted(engine.rank for engine in group))
        devices = sorted(device for engine in group for device in engine.devices)
        table.add_row(
            ranks if isinstance(pool.resolved, Pool) else "-",
            _some([engine.name for engine in group]),
            device_mapping.describe(devices) if devices else "-",
            first.state.value,
            _some([engine.pod_name for engine in group if engine.exists]),
            _some(sorted({node for engine in group for node in engine.nodes})),
            one_line(_why_else(pool, first, said)),
        )
    yield Padding(table, (1, 0, 0, 2), expand=False)
    left_out = sum(map(len, groups[MAX_ENGINES:]))
    if left_out:
        yield Text(f"  and {left_out} more", style="dim")


def _alike(
    pool: PoolView, troubled: Sequence[EngineStatus], said: Sequence[Verdict]
) -> list[list[EngineStatus]]:
    """Engines of which there is the same to say, together."""
    groups: dict[tuple[EngineState, str], list[EngineStatus]] = {}
    for engine in troubled:
        groups.setdefault((engine.state, _why_else(pool, engine, said)), []).append(engine)
    return list(groups.values())


def _some(told: Sequence[str]) -> str:
    """One name, and how many more there are."""
    if not told:
        return "-"
    return told[0] + (f" and {len(told) - 1} more" if len(told) > 1 else "")


# --- many pools


def _list(pools: Sequence[PoolView], now: float) -> RenderableType:
    if not pools:
        return Text("no SGLangInference here; -A looks in all namespaces")
    several = len({pool.namespace for pool in pools}) > 1
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = ("", *(("NAMESPACE",) if several else ()), "NAME", "READY", "SYNCED", "REASON", "AGE")
    for column in columns:
        table.add_column(column, header_style="dim")
    for pool in pools:
        worst = next(iter(verdicts(pool, now)), None)
        broken = worst is not None and worst.level is Level.BROKEN
        sign, style = (
            ("✔", "green") if pool.ready else _SIGNS[Level.BROKEN if broken else Level.WORKING]
        )
        reason = pool.condition(conditions.READY).get("reason", "") if pool.observed else ""
        table.add_row(
            Text(sign, style=style),
            *((pool.namespace,) if several else ()),
            pool.name,
            _summary(pool, "readySummary"),
            _summary(pool, "syncedSummary"),
            one_line(reason or (worst.reason if worst else "")),
            _age(pool, now),
        )
    return table


def _summary(pool: PoolView, key: str) -> str:
    return str(pool.record.status.get(key, "-"))


def _troubled(pools: Sequence[PoolView], now: float) -> Iterator[RenderableType]:
    """For each pool that is not well, the worst there is to say."""
    for pool in pools:
        if pool.ready:
            continue
        worst = next(iter(verdicts(pool, now)), None)
        if worst is None:
            continue
        yield Text(f"\n{pool.namespace}/{pool.name}", style="bold")
        yield _saying(worst)


def _age(pool: PoolView, now: float) -> str:
    created = pool.record.metadata.creation_timestamp
    return age(now - created.timestamp()) if created else "-"


# --- the command


@click.command("status")
@pool_names
@click.option("-o", "--output", type=STRUCTURED, default="text")
@where
@ends
def command(cluster: Cluster, pools: tuple[str, ...], output: str) -> int:
    """Say on one screen how pools are, what is wrong with them and what to do next.

    With a POOL, or only one there, everything about it; else a line for each and the worst of
    those that are not well; and which operator acts, or that none does. The engines are judged
    by the operator's own code, from what the cluster says at this moment.

    Exit codes: 0 all are Ready; 1 some are not; 2 errors.
    """
    cluster_view = look.look(cluster, pools, operator=True, again=True)
    told = (*cluster_view.notes, *queues.said(cluster, cluster_view.pools))
    cluster_view = dataclasses.replace(cluster_view, notes=told)
    now = time.time()
    if output == "text":
        show(render(cluster_view, now, detail=bool(pools) or len(cluster_view.pools) == 1))
    else:
        click.echo(as_mapping(document(cluster_view, now), output))
    return OK if all(pool.ready for pool in cluster_view.pools) else NOT_SO
