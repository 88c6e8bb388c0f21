"""What ``plan`` found as tables and a picture."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sglang_operator.api import texts as operator_texts
from sglang_operator.cli import texts
from sglang_operator.cli.plan_picture import picture
from sglang_operator.cli.plan_report import Balances, Planned, Report, Whole
from sglang_operator.memory import trainer
from sglang_operator.memory.engine import EnginePlan
from sglang_operator.memory.known import NotKnown
from sglang_operator.view import text

GIB = 2**30


def tables(report: Report) -> RenderableType:
    """The numbers behind the verdicts."""
    parts: list[RenderableType] = []
    for planned in report.pools:
        if not isinstance(planned.plan, NotKnown):
            parts += [_heading(planned), _table(planned, planned.plan)]
    for whole in report.wholes:
        parts += [*_whole(whole)]
    return Group(*parts)


def _heading(planned: Planned) -> Text:
    engines = planned.engines
    size = texts.PLAN_HEAD.format(
        name=planned.name,
        engines=operator_texts.engines(len(engines.devices)),
        gpus=f"{engines.gpus} GPU{'s' if engines.gpus != 1 else ''}",
        card=planned.card.name,
        version=engines.version,
    )
    return Text(f"\n{size}", style="bold")


def _table(planned: Planned, plan: EnginePlan) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value, note in _rows(planned, plan):
        table.add_row(name, value, note)
    return Padding(table, (0, 0, 0, 2))


def _rows(planned: Planned, plan: EnginePlan) -> Iterator[tuple[str, str, str]]:
    def gib(value: float) -> str:
        return f"{value:.1f} GiB"

    parts = [f"{name} {value / GIB:.1f}" for name, value in plan.weights.terms() if value > 1e7]
    chosen = texts.PLAN_GIVEN if plan.share_given else texts.PLAN_CHOSEN
    yield "free before loading", gib(plan.free), f"of {plan.request.card.gib:.1f} by nvidia-smi"
    yield "mem_fraction_static", f"{plan.share:.3g}", chosen
    yield "weights on each GPU", gib(plan.weights_gib), ", ".join(parts)
    if plan.cache.state_bytes:
        slots = f"{plan.pools.state_slots} states of {plan.cache.state_bytes / 2**20:.1f} MiB"
        yield "states", gib(plan.pools.state_gib), slots
    yield "cache", gib(plan.pools.cache_gib), f"{plan.cache.cell:.0f} bytes of a token"
    copies = texts.PLAN_REPLICAS.format(count=plan.replicas) if plan.replicas > 1 else ""
    yield "tokens", f"{plan.pools.tokens}", copies
    if plan.pools.window_tokens:
        yield "tokens of window layers", f"{plan.pools.window_tokens}", ""
    if plan.sequences is not None and plan.request.sequence is not None:
        length = plan.request.sequence
        note = f"of {length.prompt} + {length.response} tokens"
        yield "sequences at once", f"{plan.sequences}", note
    yield "max_running_requests", f"{plan.max_running}", ""
    others = plan.request.resident_gib
    kept = f"; {others:.1f} kept by other roles" if others else ""
    yield (
        "outside of the share",
        gib(plan.left),
        f"{plan.table:.2f} for the table of requests{kept}",
    )
    yield "graphs and work", gib(plan.needed), f"estimate; graphs {plan.graphs:.1f}"
    shm = planned.shared_memory
    yield "/dev/shm", gib(shm / GIB) if shm is not None else "not bounded", "of the pod's memory"
    if plan.host:
        yield "host memory", gib(plan.host), "for copies and tiers that arguments ask for"
    source = "the checkpoint" if plan.disk else "load_format is dummy: nothing is read"
    yield "disk", gib(plan.disk), source
    for note in plan.uncounted:
        yield "note", "", note


def _whole(whole: Whole) -> Iterator[RenderableType]:
    if not any(role.devices for role in whole.roles):
        return
    drawn = picture(whole)
    yield Text(f"\n{texts.PLAN_WHO}", style="bold")
    yield text.grids(drawn)
    for legend in drawn.pools:
        yield Text(f"  {legend.letters or '-'}  {legend.name}: {legend.mode}, {legend.gpus} GPUs")
    for phase, count in whole.idle():
        if count:
            yield Text(f"  {texts.PLAN_IDLE.format(phase=phase, count=count)}")
    yield from _peaks(whole)
    for found in whole.balances:
        yield from _balances(found)


def _peaks(whole: Whole) -> Iterator[RenderableType]:
    if not whole.trainings:
        return
    yield Text(f"\n{texts.PLAN_PEAKS}", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0))
    names = [name for name, _ in trainer.peak(whole.trainings[0]).terms()]
    for name in ("role", *names, "together", "beside it", *(card.name for card in whole.cards)):
        table.add_column(Text(name, style="dim"), justify="left" if name == "role" else "right")
    for found in whole.trainings:
        peak = trainer.peak(found)
        beside = whole.beside(found)
        together = peak.total + beside
        fits = [
            "fits" if together <= card.gib else texts.PLAN_LACKS.format(gib=together - card.gib)
            for card in whole.cards
        ]
        terms = [f"{value:.1f}" for _, value in peak.terms()]
        table.add_row(found.name, *terms, f"{peak.total:.1f}", f"{beside:.1f}", *fits)
    yield Padding(table, (0, 0, 0, 2))
    yield Text(f"  {texts.PLAN_PEAKS_NOTE}", style="dim")


def _balances(found: Balances) -> Iterator[RenderableType]:
    yield Text(f"\n{texts.PLAN_BALANCE.format(card=found.card.name)}", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "engines", "GPUs each", "share", "at once", "generate", "train", "tokens"):
        table.add_column(Text(name, style="dim"), justify="left" if not name else "right")
    for name, each in (("now", found.now), *(("better", other) for other in found.better)):
        table.add_row(
            name,
            f"{each.engines}",
            f"{each.engine_gpus}",
            f"{each.share:.3g}",
            f"{each.at_once}",
            f"{each.generation:.0f} s",
            f"{each.training:.0f} s",
            f"{each.tokens:.0f} per GPU-second",
        )
    yield Padding(table, (0, 0, 0, 2))
    note = texts.PLAN_MODEL_NOTE if found.better else texts.PLAN_NO_BETTER
    yield Text(f"  {note}", style="dim")
