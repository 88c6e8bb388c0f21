"""``make demo``: the guide's example from nothing to a Ready pool, to look at.

A control plane with three nodes of eight GPUs, the operator installed on it, the pool applied
with kubectl; a live view while its engines come up; then a cluster to play with.  Where they can
run, the nodes are real, and the engines are containers that answer HTTP.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sglang_operator.api import conditions
from sglang_operator.kube import paths
from sglang_operator.observed import wire
from sglang_operator.testing import demo_engines, errors
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.installed import InstalledOperator, manifests
from sglang_operator.view import grid, text
from sglang_operator.view.cluster_view import ClusterView, NodeView, PoolView, cluster_view

NODES = "3x8"
SAMPLE = "roll-guide.yaml"
READY_SECONDS = 300.0  # twelve containers start at once, on a busy laptop
REFRESH_SECONDS = 0.2


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
        with InstalledOperator(plane) as operator:
            sample = manifests() / "samples" / SAMPLE
            console.print(f"[bold]3[/] kubectl apply -f {_shown(sample)}")
            begun = time.monotonic()
            plane.kubectl("apply", "-f", str(sample))
            seen = _watch(plane, console, begun)
            _conclude(plane, console, seen, time.monotonic() - begun)
            demo_engines.show(plane, console)
            demo_engines.train(plane, console)
            if not once:
                _stay(plane, operator, console)
    return 0


def _shown(path: Path) -> str:
    """The path as the reader would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _watch(plane: ControlPlane, console: Console, begun: float) -> ClusterView:
    """Follow the pool until it is Ready; raises WaitTimeoutError with what is missing."""
    last = ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            plane.check()
            seen = observe(plane)
            line = _line(seen.pools[0])
            if console.is_terminal:
                live.update(render(seen), refresh=True)
            elif line != last:
                console.print(f"  {time.monotonic() - begun:5.1f} s  {line}")
            last = line
            if seen.pools[0].ready:
                return seen
            if time.monotonic() - begun > READY_SECONDS:
                raise errors.WaitTimeoutError(f"the pool is not Ready: {line}")
            time.sleep(REFRESH_SECONDS)


def _line(pool: PoolView) -> str:
    ready = pool.condition(conditions.READY)
    told = f"{ready['reason']}: {ready['message']}" if ready else "the operator has yet to see it"
    return f"READY {pool.record.status.get('readySummary', '-')}  {told}"


def _conclude(plane: ControlPlane, console: Console, seen: ClusterView, seconds: float) -> None:
    console.print(render(seen))
    console.print(f"[bold]Ready[/] after {seconds:.1f} s, as kubectl shows it:\n")
    wide = plane.kubectl("get", "sgi", "-o", "wide").stdout
    console.print(wide, soft_wrap=True, highlight=False, markup=False)
    pool = seen.pools[0]
    status, synced = pool.record.status, pool.condition(conditions.WEIGHTS_SYNCED)
    if synced.get("status") != conditions.TRUE:
        console.print(
            f"[bold yellow]SYNCED {status['syncedSummary']}[/]: the gate is closed, "
            f"because load_format is {status['resolved']['loadFormat']}: the engines hold "
            "random weights until a trainer commits a sync; clients get nothing from them.\n"
        )


def _stay(plane: ControlPlane, operator: InstalledOperator, console: Console) -> None:
    console.print("The cluster stays up until Ctrl-C. In another shell:\n")
    # With kubectl-sglang beside this interpreter, kubectl has the command sglang.
    path = f"{plane.tools}:{Path(sys.executable).parent}:$PATH"
    console.print(
        f"  export KUBECONFIG={plane.kubeconfig}\n  export PATH={path}\n  kubectl get sgi,pods\n"
        + demo_engines.commands(plane)
        + f"  tail -f {operator.log}   # the operator: a process outside the cluster\n",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    try:
        while True:
            if operator.pid is None and not operator.is_permitted():
                console.print("\nending: the operator's account or its roles were deleted")
                return
            plane.check()
            time.sleep(1.0)
    except KeyboardInterrupt:
        console.print("\nending")


# --- looking


def observe(plane: ControlPlane) -> ClusterView:
    """The pools of the namespace ``default``, their pods and all nodes."""
    pools = plane.api.get(paths.pools("default"))["items"]
    pods = plane.api.get(paths.pods("default"))["items"]
    nodes = plane.api.get(paths.NODES)["items"]
    return cluster_view(
        msgspec.json.decode(msgspec.json.encode(pools), type=list[wire.CustomResource]),
        msgspec.convert(pods, list[wire.Pod]),
        msgspec.convert(nodes, list[NodeView]),
        now=time.time(),
    )


# --- drawing


def render(seen: ClusterView) -> Group:
    """The map and the conditions."""
    pool = seen.pools[0]
    picture = grid.gpu_map(seen)
    return Group(text.render(picture, title=pool.name), _conditions_table(pool))


def _conditions_table(pool: PoolView) -> Table:
    table = Table(box=None, padding=(0, 1))
    for column in ("condition", "", "reason", "message"):
        table.add_column(column, overflow="fold")
    for condition in pool.record.status.get("conditions", []):
        good = condition["status"] == conditions.TRUE
        mark = Text(condition["status"], style="green" if good else "yellow")
        table.add_row(condition["type"], mark, condition["reason"], condition["message"])
    return table


def main(*, once: bool, kwok: bool = False) -> int:
    """The demo as a command: errors in words, Ctrl-C is a good end."""
    try:
        return run(once=once, kwok=kwok)
    except KeyboardInterrupt:
        return 0
    except errors.KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
