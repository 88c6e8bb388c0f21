"""How a pool's weights stand, for people and as JSON: what ``weights status`` shows."""

import json
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from sglang_operator.api import texts as operator_texts
from sglang_operator.cli.findings import one_line
from sglang_operator.cli.options import plain_lines
from sglang_operator.client.registry import IN_SERVICE, Engine, Registry
from sglang_operator.weights import times
from sglang_operator.weights.lease_state import GroupsOwner, Phase, Transaction
from sglang_operator.weights.times import shown


def is_open(engine: Engine) -> bool:
    """Whether it counts as SYNCED, as in the pool's status: without a gate, if it serves."""
    return engine.gate == "Open" if engine.gate else engine.state == IN_SERVICE


def as_json(registry: Registry, state: Transaction) -> str:
    return json.dumps(
        {
            "pool": registry.pool,
            "namespace": registry.namespace,
            "epoch": registry.epoch,
            "gate": registry.weights.gate,
            "phase": state.phase.value,
            "version": state.version or None,
            "targetVersion": state.target_version or None,
            "holder": state.holder or None,
            "begun": times.micro_time(state.begun) if state.begun else None,
            "committed": times.micro_time(state.committed) if state.committed else None,
            "released": list(state.released),
            "message": state.message or None,
            "engines": [
                {
                    "rank": engine.rank,
                    "engine": engine.engine,
                    "state": engine.state,
                    "gate": engine.gate,
                    "version": engine.version,
                    "url": engine.url,
                    **({"asleep": True} if engine.asleep else {}),
                    **({"behind": True} if engine.behind else {}),
                }
                for engine in registry.engines
            ],
        },
        indent=2,
    )


def as_text(registry: Registry, state: Transaction, synced: int) -> str:
    facts = {
        "pool": f"{registry.namespace}/{registry.pool}, gate {registry.weights.gate}",
        "phase": _phase(state),
        "version": _version(state),
        "synced": f"{synced}/{len(registry.engines)}" + _apart(registry, state),
        "released": " and ".join(state.released),
        "groups": _groups(state),
        "unclear": _unclear(registry, state),
        "message": state.message,
        "epoch": registry.epoch,
    }
    lines = [f"{key:<9} {one_line(value)}" for key, value in facts.items() if value]
    return "\n".join([*lines, "", *plain_lines(_table(registry.engines))])


def _apart(registry: Registry, state: Transaction) -> str:
    """What the column SYNCED of the pool says beside the number, in words of the Lease."""
    apart = sum(engine.instance in state.apart for engine in registry.engines)
    return f", {apart} asleep" if apart else ""


def _table(engines: Iterable[Engine]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    for column in ("RANK", "ENGINE", "STATE", "GATE", "VERSION", "URL"):
        table.add_column(column, no_wrap=True)
    for e in engines:
        gate = (e.gate or "-") + (", asleep" if e.asleep else ", behind" if e.behind else "")
        cells = (str(e.rank), e.engine, e.state, gate, e.version or "-", e.url or "-")
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


def _groups(state: Transaction) -> str:
    found = state.groups
    if found is None:
        return ""
    return ("none, reset by " if found.left else "of ") + owner(found)


def owner(found: GroupsOwner) -> str:
    """Whose process groups they are, and since when."""
    return f"{found.holder}, since {shown(found.since)}, last seen {shown(found.seen)}"


def _unclear(registry: Registry, state: Transaction) -> str:
    """The pods in every trainer's way, and what to do about them."""
    pods = [e.pod or e.engine for e in registry.present if e.instance in state.unclear]
    return operator_texts.MEMORY_UNCLEAR.format(pods=" ".join(pods)) if pods else ""


def _phase(state: Transaction) -> str:
    held = f", held by {state.holder} until {shown(state.renewed + state.duration)}"
    if state.recovers:
        held += f", which loads it into {operator_texts.engines(len(state.recovering))}"
    return state.phase.value + (held if state.holder else "")


def _version(state: Transaction) -> str:
    committed = f"{state.version}, committed {shown(state.committed)}" if state.version else "none"
    writing = state.phase is Phase.SYNCING
    return committed + (f"; {state.target_version} is being written" if writing else "")
