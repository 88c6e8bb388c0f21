"""``python -m tests.faults``: every fault, and one table of what came of them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from sglang_operator.testing import ControlPlane
from tests.faults import (
    fields,
    installation,
    kills,
    leaders,
    members,
    nodes,
    replies,
    requests,
    surroundings,
    test_model,
    watches,
)
from tests.faults.lab import NODES, Lab, Result, lab
from tests.faults.model import GroupModel, GroupSurgeModel, Model, SurgeModel

Explore = Callable[[Lab], Iterator[Result]]
MODEL_STEPS = 1_000_000
# What walks on the model are of, and what share of the steps each gets.
WORLDS: Sequence[tuple[type[Model], str, float]] = (
    (Model, "single pods", 1),
    (GroupModel, "groups of two", 1),
    (SurgeModel, "single pods that surge", 0.25),
    (GroupSurgeModel, "groups of two that surge", 0.25),
)


def _kills(workload: kills.Workload, every: int, lab: Lab) -> Iterator[Result]:
    """Every point of a workload; at least at each create and delete one is reached, or it fails.

    A run has fewer writes than the one counted where two of a status, or of a registry, became one.
    """
    try:
        reference = kills.fault_free(lab, workload)
    except AssertionError as error:
        yield Result(point=f"{workload.name}: no fault", problems=[str(error)])
        return
    explored = 0
    for result in kills.explore(lab, workload, reference, every=every):
        there = result.reached or result.skipped
        explored += there
        if there or result.problems:
            yield result
    sure = 2 * len(range(1, reference.sure + 1, every))
    if explored < sure:
        problem = f"{explored} points reached, {sure} before and after creates and deletes"
        yield Result(point=f"{workload.name}: count", problems=[problem])


def scenarios(every: int = 1) -> dict[str, Explore]:
    """Every fault by name, those of a plane with common nodes."""
    found: dict[str, Explore] = {
        f"F1 kill: {workload.name}": partial(_kills, workload, every)
        for workload in kills.WORKLOADS
    }
    found |= {
        "F2 SIGTERM amid a scale-up": surroundings.terminated,
        "F3 two writers": leaders.two_writers,
        "F4 stopped holder": leaders.stopped_holder,
        "F5 broken Lease": leaders.broken_lease,
        "F6 overload (429)": requests.overload,
        "F7 server errors": requests.server_errors,
        "F8 lost replies": requests.lost_replies,
        "F8 late replies": replies.late_replies,
        "F9 black holes": requests.black_holes,
        "F9 slow server": replies.slow_server,
        "F10 foreign objects": surroundings.foreign_objects,
        "F11 conflicts": requests.conflicts,
        "F12 denials": requests.denials,
        "F13 unauthorized": requests.unauthorized,
        "F13 rotated token": installation.rotated_token,
        "F14 broken watches": watches.broken_watches,
        "F14 silent watches": watches.silent_watches,
        "F15 ghosts": watches.ghosts,
        "F16 late events": watches.late_events,
        "F17 old lists": watches.old_lists,
        "F18 dying pods": surroundings.dying_pods,
        "F18 dying members": members.dying_members,
        "F19 deleted pools": surroundings.deleted_pools,
        "F20 flapping specs": surroundings.flapping,
        "F21 rights, namespace": surroundings.rights,
        "F22 outages": surroundings.outages,
        "F23 event storm": surroundings.storm,
        "fields of the spec": fields.mutated_fields,
        # Last: for a while afterwards nothing of a deleted pool is collected.
        "F21 definition reinstalled": installation.reinstalled,
    }
    return found


@dataclasses.dataclass
class Row:
    """One line of the table."""

    fault: str
    results: list[Result] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.problems]

    def cells(self) -> tuple[str, ...]:
        times = sorted(result.seconds for result in self.results) or [0.0]
        extra = [result.extra_writes for result in self.results]
        return (
            self.fault,
            str(len(self.results)),
            str(len(self.results) - len(self.failed)),
            f"{times[len(times) // 2]:.1f}",
            f"{times[min(len(times) - 1, int(len(times) * 0.99))]:.1f}",
            str(max(extra, default=0)),
            f"{self.seconds:.0f}",
        )


HEAD = ("fault", "points", "passed", "p50 s", "p99 s", "extra writes", "took s")


def table(rows: Sequence[Row]) -> str:
    """The table as text."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def explore(lab: Lab, fault: str, explored: Explore) -> Row:
    """Run one fault; failures are told as they come."""
    row, begun = Row(fault), time.monotonic()
    try:
        for result in explored(lab):
            if result.skipped:
                continue
            row.results.append(result)
            for problem in result.problems:
                print(f"  {fault}: {result.point}: {problem}", flush=True)
    except Exception as error:  # the others are explored all the same
        problem = f"{type(error).__name__}: {error}"
        row.results.append(Result(point="the exploration itself", problems=[problem]))
        print(f"  {fault}: {problem}", flush=True)
    row.seconds = time.monotonic() - begun
    print(f"{fault}: {len(row.results) - len(row.failed)}/{len(row.results)}", flush=True)
    return row


def model(steps: int, world: type[Model], of: str) -> Row:
    """The random walks of the planner."""
    row, begun = Row(f"planner against the model, {of}, {steps} steps"), time.monotonic()
    try:
        test_model.run(steps, world=world)
        row.results.append(Result(point="walks"))
    except Exception as error:  # several at once come as a group
        row.results.append(Result(point="walks", problems=[str(error)]))
        print(f"  model: {error}", flush=True)
    row.seconds = time.monotonic() - begun
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Explore; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="faults with one of these texts")
    parser.add_argument("--point", default="", help="of these, points whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="every n-th write is a point")
    parser.add_argument("--steps", type=int, default=MODEL_STEPS, help="steps on the model")
    parser.add_argument("--first", action="store_true", help="end with a walk that fails")
    parser.add_argument("--package", type=Path, help="a source root to run instead")
    arguments = parser.parse_args(argv)
    rows: list[Row] = []

    def chosen(name: str) -> bool:
        return any(text in name for text in arguments.only)

    found = {name: how for name, how in scenarios(arguments.every).items() if chosen(name)}
    if found:
        with ControlPlane(NODES) as plane, lab(plane, arguments.package) as made:
            made.only = arguments.point
            rows += [explore(made, name, how) for name, how in found.items()]
    if chosen("lost nodes"):
        plane = ControlPlane(NODES, node_monitor_grace_seconds=nodes.GRACE_SECONDS)
        with plane, lab(plane, arguments.package) as made:
            made.only = arguments.point
            rows.append(explore(made, "lost nodes", nodes.lost_nodes))
    if chosen("model"):
        for world, of, share in WORLDS:
            rows.append(model(int(arguments.steps * share), world, of))
            if arguments.first and rows[-1].failed:
                break
    print(table(rows))
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
