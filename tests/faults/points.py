"""One point of a scenario: a settled pool, a fault, a change, and the verdict."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from sglang_operator.testing.faults import Ledger
from tests.faults.lab import CONVERGE_SECONDS, FaultPool, Lab, Result

Act = Callable[[Lab, FaultPool], "list[str] | None"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What a user does while something is broken."""

    name: str
    setup: Callable[[FaultPool], None] | None
    act: Callable[[FaultPool], None]


CREATE = Change(name="create 12", setup=None, act=lambda pool: pool.create())
SHRINK = Change(
    name="shrink",
    setup=lambda pool: pool.create(device_mapping="list(range(0,12))"),
    act=lambda pool: pool.patch(device_mapping="list(range(0,8))"),
)
MOVE = Change(
    name="move",
    setup=lambda pool: pool.create(device_mapping="list(range(0,8))"),
    act=lambda pool: pool.patch(device_mapping="list(range(4,12))"),
)
ARGUMENT = Change(
    name="argument",
    setup=lambda pool: pool.create(replicas=3, rollout={"maxUnavailable": 3}),
    act=lambda pool: pool.patch(strategy_args={"strategy_config": {"mem_fraction_static": 0.8}}),
)


def _recreate(pool: FaultPool) -> None:
    pool.delete()
    pool.create(replicas=4)


RECREATE = Change(name="re-create", setup=lambda pool: pool.create(replicas=4), act=_recreate)

_references: dict[tuple[int, str], tuple[Ledger, int]] = {}


def with_fault(
    lab: Lab,
    point: str,
    change: Change,
    fault: Callable[[Lab, FaultPool], Callable[[], None] | None],
    *,
    seconds: float = CONVERGE_SECONDS,
    hold: float = 0.0,
    ledger: bool = True,
    spare: int = 0,
) -> Result:
    """The change under a fault, compared with the change without one.

    ``fault`` breaks something and returns what mends it, called ``hold`` seconds after the
    change; the time to converge counts from there.  So many pods (``spare``) may be made in vain.
    """
    result = Result(point=point)
    if not lab.chosen(result):
        return result
    reference, writes = _reference(lab, change)

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        before = lab.ledger(pool)
        mend = fault(lab, pool)
        change.act(pool)
        if hold:
            time.sleep(hold)
        if mend:
            mend()
        begun = time.monotonic()
        problems = lab.settle(pool, seconds)
        result.seconds = time.monotonic() - begun
        if ledger:
            found = lab.ledger(pool).since(before)
            vain = sum(found.creates.values()) - sum(reference.creates.values())
            if not 0 < vain <= spare:
                problems += lab.differences(pool, found, reference)
        result.extra_writes = lab.writes() - writes
        return problems

    return judged(lab, result, change.setup, act)


def _reference(lab: Lab, change: Change) -> tuple[Ledger, int]:
    key = (id(lab), change.name)
    if key not in _references:
        with lab.pool() as pool:
            _set_up(lab, pool, change.setup)
            before = lab.ledger(pool)
            lab.proxy.reset_counters()
            change.act(pool)
            problems = lab.settle(pool)
            assert not problems, problems
            _references[key] = lab.ledger(pool).since(before), lab.writes()
    return _references[key]


def _set_up(lab: Lab, pool: FaultPool, setup: Callable[[FaultPool], None] | None) -> None:
    if setup is not None:
        setup(pool)
        problems = lab.settle(pool)
        assert not problems, problems
    lab.wait(lab.quiet, "the operator to be quiet")


def judged(lab: Lab, result: Result, setup: Callable[[FaultPool], None] | None, act: Act) -> Result:
    """Run one act on a settled pool; the promises hold and the process is the same after it."""
    if not lab.chosen(result):
        return result
    with lab.pool() as pool:
        try:
            _set_up(lab, pool, setup)
            lab.proxy.reset_counters()
            process, errors = lab.operator.pid, len(lab.operator.errors())
            begun = time.monotonic()
            problems = act(lab, pool) or []
            result.seconds = result.seconds or time.monotonic() - begun
            if lab.operator.pid != process:
                problems.append(f"the process was {process} and is {lab.operator.pid}")
            problems += [f"log: {line}" for line in lab.operator.errors()[errors:]]
        except Exception as error:  # a point that cannot be run is a point that failed
            problems = [f"{type(error).__name__}: {error}"]
        result.problems += problems + lab.broken(pool)
    return result
