"""Kill at every write: for each workload and every k, before and after commit."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from sglang_operator.testing.faults.ledger import Ledger
from sglang_operator.testing.faults.proxy import Side, Stop
from tests.faults.lab import FaultPool, Lab, Result
from tests.faults.rendezvous import WAITING
from tests.faults.trainer import Trainer

TRIES = 3  # for a write that a run may do without, because two status writes became one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What a user does to a pool."""

    name: str
    setup: Callable[[FaultPool], None] | None
    change: Callable[[FaultPool], None]
    least_up: int | None = None  # engines that the change may not take away (I5)
    trained: bool = False  # a trainer syncs: as many are synced at each moment


_LOADED = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}


def _recreate(pool: FaultPool) -> None:
    pool.delete()
    pool.create(replicas=4)


def _argument(pool: FaultPool) -> None:
    pool.patch(strategy_args={"strategy_config": {"mem_fraction_static": 0.8}})


GROUPS = {
    "num_gpus_per_worker": 16,
    "device_mapping": "list(range(0,64))",
    "podTemplate": WAITING,
}

_NEW_FIRST = {"maxSurge": 2}
_GATED = {"gate": "Committed"}

WORKLOADS = (
    Workload(name="create 12", setup=None, change=lambda pool: pool.create()),
    Workload(
        name="shrink to 8",
        setup=lambda pool: pool.create(),
        change=lambda pool: pool.patch(device_mapping="list(range(0,16))"),
    ),
    Workload(
        name="move",
        setup=lambda pool: pool.create(device_mapping="list(range(0,8))"),
        change=lambda pool: pool.patch(device_mapping="list(range(4,12))"),
    ),
    Workload(
        name="change an argument",
        # Without a gate, so that what is up serves: what serves nobody may all go at once.
        setup=lambda pool: pool.create(
            replicas=4, rollout={"maxUnavailable": 2}, strategy_args=_LOADED
        ),
        change=_argument,
        least_up=2,
    ),
    Workload(
        name="change an argument, new first",
        setup=lambda pool: pool.create(replicas=4, rollout=_NEW_FIRST, strategy_args=_LOADED),
        change=_argument,
        least_up=4,
    ),
    Workload(
        name="scale to 0",
        setup=lambda pool: pool.create(replicas=4),
        change=lambda pool: pool.patch(replicas=0),
    ),
    Workload(
        name="delete and re-create",
        setup=lambda pool: pool.create(replicas=4),
        change=_recreate,
    ),
    Workload(
        name="suspend",
        setup=lambda pool: pool.create(replicas=4),
        change=lambda pool: pool.patch(suspend=True),
    ),
    Workload(name="create groups", setup=None, change=lambda pool: pool.create(**GROUPS)),
    Workload(
        name="change an argument of groups",
        setup=lambda pool: pool.create(
            **GROUPS, replicas=3, rollout={"maxUnavailable": 1}, strategy_args=_LOADED
        ),
        change=_argument,
        least_up=2,
    ),
    Workload(
        name="change an argument of groups, new first",
        setup=lambda pool: pool.create(
            **GROUPS, replicas=3, rollout=_NEW_FIRST, strategy_args=_LOADED
        ),
        change=_argument,
        least_up=3,
    ),
    Workload(
        name="change an argument behind a gate, new first",
        setup=lambda pool: pool.create(
            replicas=4, rollout=_NEW_FIRST, strategy_args=_LOADED, weights=_GATED
        ),
        change=_argument,
        least_up=4,
        trained=True,
    ),
    Workload(
        name="change an argument of groups behind a gate, new first",
        setup=lambda pool: pool.create(
            **GROUPS, replicas=3, rollout=_NEW_FIRST, strategy_args=_LOADED, weights=_GATED
        ),
        change=_argument,
        least_up=3,
        trained=True,
    ),
    Workload(
        name="groups to 0",
        setup=lambda pool: pool.create(**GROUPS, replicas=3),
        change=lambda pool: pool.patch(replicas=0),
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The run without faults."""

    ledger: Ledger
    counted: int  # writes of every kind: each is a point, where a run has as many
    sure: int  # of these, creates and deletes: each run has as many
    writes: int  # without Events


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    result: Result
    ledger: Ledger
    counted: int
    sure: int
    writes: int
    slips: frozenset[str] = frozenset()  # without a fault: engines that KWOK took a pod of


def fault_free(lab: Lab, workload: Workload, runs: int = 2) -> Reference:
    """Runs without a fault; raises AssertionError if one is not as it should be.

    Where two differ by what KWOK did to a pod, one more is made instead of the first.
    """
    found = [_run(lab, workload, f"{workload.name}: no fault", None, None) for _ in range(runs)]
    for _ in range(TRIES):
        slips = frozenset().union(*(run.slips for run in found))
        if not _differences(found) or _differences(found, slips):
            break
        found = [*found[1:], _run(lab, workload, f"{workload.name}: no fault", None, None)]
    for run in found:
        assert not run.result.problems, run.result
    differ = _differences(found)
    assert not differ, f"two runs differ without any fault: {differ}"
    return Reference(
        ledger=found[0].ledger,
        counted=min(run.counted for run in found),
        sure=min(run.sure for run in found),
        writes=max(run.writes for run in found),
    )


def _differences(runs: Sequence[_Run], but_for: Collection[str] = ()) -> list[str]:
    """Where the ledgers of runs differ from that of the first, but for these engines."""
    first = runs[0].ledger.without(but_for)
    return [each for run in runs for each in run.ledger.without(but_for).differences(first)]


def explore(
    lab: Lab, workload: Workload, reference: Reference, *, every: int = 1
) -> Iterator[Result]:
    """Every point, or every n-th; after the counted ones also those that only some runs reach."""
    for side in Side:
        k = 1
        while True:
            result = kill_at(lab, workload, reference, k, side)
            if (result.skipped or not result.reached) and k > reference.counted:
                break
            yield result
            k += every


def kill_at(lab: Lab, workload: Workload, reference: Reference, k: int, side: Side) -> Result:
    """One point.  A run that comes to rest before its k-th write is tried again."""
    point = f"{workload.name}: {side.value} write {k}"
    if not lab.chosen(result := Result(point=point)):
        return result
    for _ in range(TRIES if k <= reference.counted else 1):
        result = _run(lab, workload, point, (k, side), reference).result
        if result.reached:
            break
    return result


def _run(
    lab: Lab,
    workload: Workload,
    point: str,
    kill: tuple[int, Side] | None,
    reference: Reference | None,
) -> _Run:
    with lab.pool() as pool, _trainer(lab, pool, workload) as trainer:
        if workload.setup:
            workload.setup(pool)
            problems = lab.settle(pool)
            if problems:
                return _abandoned(point, problems)
        if trainer is not None:
            lab.wait(trainer.all_serve, "all engines synced")
            lab.wait(lab.quiet, "the end of what is written of it")
        before = lab.ledger(pool)
        lab.proxy.reset_counters()
        if workload.least_up is not None:
            lab.monitor.hold_up(pool.namespace, pool.name, workload.least_up)
            if trainer is not None:
                lab.monitor.hold_open(pool.namespace, pool.name, workload.least_up)
        stop = lab.proxy.stop_at(*kill) if kill else None
        workload.change(pool)
        reached = _strike(lab, pool, stop) if stop else False
        begun = time.monotonic()
        problems = lab.settle(pool)
        seconds = time.monotonic() - begun
        ledger = lab.ledger(pool).since(before)
        problems += lab.broken(pool)
        if trainer is not None:
            problems += trainer.problems
        if reference:
            problems += lab.differences(pool, ledger, reference.ledger)
        return _Run(
            result=Result(
                point=f"{point} ({stop.request})" if stop and stop.request else point,
                problems=problems,
                seconds=seconds,
                extra_writes=lab.writes() - (reference.writes if reference else 0),
                reached=reached,
            ),
            ledger=ledger,
            counted=lab.proxy.write_count,
            sure=lab.writes(("create", "delete")),
            writes=lab.writes(),
            slips=frozenset(lab.slips(pool) if kill is None else ()),
        )


def _trainer(
    lab: Lab, pool: FaultPool, workload: Workload
) -> contextlib.AbstractContextManager[Trainer | None]:
    if not workload.trained:
        return contextlib.nullcontext()
    return Trainer(lab.plane, pool.namespace, pool.name)


def _strike(lab: Lab, pool: FaultPool, stop: Stop) -> bool:
    """Kill the operator where the world stops; False if it comes to rest before."""
    while not stop.wait(0.05):
        if lab.settled(pool):
            lab.proxy.resume()
            return False
    lab.crash()
    return True


def _abandoned(point: str, problems: list[str]) -> _Run:
    empty = Ledger(creates={}, deletes={})
    result = Result(point=point, problems=["before the fault: ", *problems])
    return _Run(result=result, ledger=empty, counted=0, sure=0, writes=0)
