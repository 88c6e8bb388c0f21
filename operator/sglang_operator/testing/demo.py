"""``make demo``: the guide's example from nothing to a Ready pool, to look at.

A control plane with three nodes of eight GPUs, the operator installed on it, the pool applied
with kubectl; a live view while its engines come up; then a cluster to play with.  Where they can
run, the nodes are real, and the engines are containers that answer HTTP.
"""

from __future__ import annotations

import string
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sglang_operator.api import conditions, names
from sglang_operator.testing import demo_engines, errors
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.installed import InstalledOperator, manifests

NODES = "3x8"
SAMPLE = "roll-guide.yaml"
READY_SECONDS = 120.0
REFRESH_SECONDS = 0.2
GPU = "nvidia.com/gpu"

_STATES = {"in service": "green", "up": "cyan", "starting": "yellow", "pending": "red"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One GPU that an engine holds."""

    letter: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The pool as it stands."""

    pool: Mapping[str, Any]
    pods: Sequence[Mapping[str, Any]]
    nodes: Mapping[str, int]  # GPUs by node
    states: Mapping[str, str] = field(default_factory=dict)  # of pods, by name

    @property
    def status(self) -> Mapping[str, Any]:
        status: Mapping[str, Any] = self.pool.get("status", {})
        return status

    def condition(self, type_: str) -> Mapping[str, Any]:
        return conditions.find(self.status.get("conditions", []), type_) or {}

    @property
    def ready(self) -> bool:
        fresh = self.status.get("observedGeneration") == self.pool["metadata"]["generation"]
        return fresh and self.condition(conditions.READY).get("status") == conditions.TRUE


def run(*, once: bool, kwok: bool = False, console: Console | None = None) -> int:
    """Show the demo; the exit code.

    ``once`` ends it when the pool is Ready; ``kwok`` asks for nodes that run no containers.
    """
    console = console or Console()
    kind = demo_engines.kind(console, kwok=kwok)
    console.print(
        f"[bold]1[/] a control plane with {NODES} GPUs, {demo_engines.NODES[kind]} "
        "(built on first use: minutes)"
    )
    with ControlPlane(NODES, kind=kind, progress=lambda text: console.print(f"  {text}")) as plane:
        console.print(f"  up after {plane.start_seconds:.1f} s")
        demo_engines.load(plane, console)
        console.print("[bold]2[/] the operator, as its own ServiceAccount with the shipped roles")
        with InstalledOperator(plane):
            sample = manifests() / "samples" / SAMPLE
            console.print(f"[bold]3[/] kubectl apply -f {_shown(sample)}")
            begun = time.monotonic()
            plane.kubectl("apply", "-f", str(sample))
            picture = _watch(plane, console, begun)
            _conclude(plane, console, picture, time.monotonic() - begun)
            demo_engines.show(plane, console)
            demo_engines.train(plane, console)
            if not once:
                _stay(plane, console)
    return 0


def _shown(path: Path) -> str:
    """The path as the reader would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _watch(plane: ControlPlane, console: Console, begun: float) -> Picture:
    """Follow the pool until it is Ready; raises WaitTimeoutError with what is missing."""
    last = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            plane.check()
            picture = observe(plane)
            line = _line(picture)
            if console.is_terminal:
                live.update(render(picture), refresh=True)
            elif line != last:
                console.print(f"  {time.monotonic() - begun:5.1f} s  {line}")
            last = line
            if picture.ready:
                return picture
            if time.monotonic() - begun > READY_SECONDS:
                raise errors.WaitTimeoutError(f"the pool is not Ready: {line}")
            time.sleep(REFRESH_SECONDS)


def _line(picture: Picture) -> str:
    ready = picture.condition(conditions.READY)
    told = f"{ready['reason']}: {ready['message']}" if ready else "not seen by the operator yet"
    return f"READY {picture.status.get('readySummary', '-')}  {told}"


def _conclude(plane: ControlPlane, console: Console, picture: Picture, seconds: float) -> None:
    console.print(render(picture))
    console.print(f"[bold]Ready[/] after {seconds:.1f} s, as kubectl shows it:\n")
    wide = plane.kubectl("get", "sgi", "-o", "wide").stdout
    console.print(wide, soft_wrap=True, highlight=False, markup=False)
    synced = picture.condition(conditions.WEIGHTS_SYNCED)
    if synced.get("status") != conditions.TRUE:
        console.print(
            f"[bold yellow]SYNCED {picture.status['syncedSummary']}[/]: the gate is closed, "
            f"because load_format is {picture.status['resolved']['loadFormat']}: the engines hold "
            "random weights until a trainer commits a sync; clients get nothing from them.\n"
        )


def _stay(plane: ControlPlane, console: Console) -> None:
    console.print("The cluster stays up until Ctrl-C. In another shell:\n")
    # With kubectl-sglang beside this interpreter, kubectl has the command sglang.
    path = f"{plane.tools}:{Path(sys.executable).parent}:$PATH"
    console.print(
        f"  export KUBECONFIG={plane.kubeconfig}\n  export PATH={path}\n  kubectl get sgi,pods\n"
        + demo_engines.commands(plane),
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    try:
        while True:
            plane.check()
            time.sleep(1.0)
    except KeyboardInterrupt:
        console.print("\nending")


# --- looking


def observe(plane: ControlPlane) -> Picture:
    """The only pool of the namespace ``default``, its pods and all nodes."""
    base = "/api/v1"
    pools = plane.api.get(f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}")["items"]
    pods = plane.api.get(f"{base}/namespaces/default/pods")["items"]
    nodes = plane.api.get(f"{base}/nodes")["items"]
    return Picture(
        pool=pools[0],
        pods=sorted(pods, key=lambda pod: _devices(pod)),
        nodes={
            node["metadata"]["name"]: int(node["status"]["allocatable"].get(GPU, "0"))
            for node in nodes
        },
        states={pod["metadata"]["name"]: _state(pod) for pod in pods},
    )


def _devices(pod: Mapping[str, Any]) -> list[int]:
    text = pod["metadata"].get("annotations", {}).get(names.ANNOTATION_DEVICES, "")
    return [int(part) for part in text.split(",") if part]


def _state(pod: Mapping[str, Any]) -> str:
    true = {
        c["type"] for c in pod["status"].get("conditions", []) if c["status"] == conditions.TRUE
    }
    if "Ready" in true:
        return "in service"
    if "ContainersReady" in true:
        return "up"
    return "starting" if pod["spec"].get("nodeName") else "pending"


# --- drawing


def render(picture: Picture) -> Group:
    """Engines, conditions and the grid of nodes × GPUs."""
    return Group(
        _grid(picture), _conditions_table(picture), Text(" · ".join(_legend(picture)), style="dim")
    )


def _cells(picture: Picture) -> dict[str, list[Cell]]:
    """The GPUs that are held on each node, engine by engine: in Count mode the places are not
    known, so they are filled from the left."""
    cells: dict[str, list[Cell]] = {node: [] for node in picture.nodes}
    for letter, pod in zip(string.ascii_uppercase, picture.pods, strict=False):
        node = pod["spec"].get("nodeName", "")
        if node in cells:
            gpus = int(pod["spec"]["containers"][0]["resources"]["limits"][GPU])
            state = picture.states[pod["metadata"]["name"]]
            cells[node] += [Cell(letter=letter, state=state)] * gpus
    return cells


def _grid(picture: Picture) -> Panel:
    table = Table(box=None, padding=(0, 1))
    table.add_column("node")
    for gpu in range(max(picture.nodes.values(), default=0)):
        table.add_column(str(gpu), justify="center", style="dim")
    for node, cells in sorted(_cells(picture).items()):
        row = [Text(cell.letter, style=f"bold reverse {_STATES[cell.state]}") for cell in cells]
        free = [Text("·", style="dim")] * (picture.nodes[node] - len(cells))
        table.add_row(node, *row, *free)
    name = picture.pool["metadata"]["name"]
    return Panel(table, title=f"{name}: nodes × GPUs", title_align="left", expand=False)


def _conditions_table(picture: Picture) -> Table:
    table = Table(box=None, padding=(0, 1))
    for column in ("condition", "", "reason", "message"):
        table.add_column(column, overflow="fold")
    for condition in picture.status.get("conditions", []):
        good = condition["status"] == conditions.TRUE
        mark = Text(condition["status"], style="green" if good else "yellow")
        table.add_row(condition["type"], mark, condition["reason"], condition["message"])
    return table


def _legend(picture: Picture) -> Iterator[str]:
    """One letter for each engine, and how many are in which state."""
    counts: dict[str, int] = {}
    for state in picture.states.values():
        counts[state] = counts.get(state, 0) + 1
    yield f"{len(picture.pods)} engines, a letter each"
    for state, count in sorted(counts.items()):
        yield f"{count} {state} ({_STATES[state]})"


def main(*, once: bool, kwok: bool = False) -> int:
    """The demo as a command: errors in words, Ctrl-C is a good end."""
    try:
        return run(once=once, kwok=kwok)
    except KeyboardInterrupt:
        return 0
    except errors.KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
