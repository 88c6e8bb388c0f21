"""Answers that come late, and a server that is slow at everything: F8, F9."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sglang_operator.testing.faults import Agent, Match
from sglang_operator.testing.faults.rules import Answer, Delay, Drop, Exchange, Gate, Reply
from sglang_operator.testing.faults.streams import EXPIRED
from sglang_operator.testing.faults.traffic import WRITES
from tests.faults.lab import FaultPool, Lab, Result
from tests.faults.points import CREATE, judged, with_fault
from tests.faults.surroundings import FAILED, four
from tests.faults.watches import STREAMS

FIRST_POD = "pool-g0-1-0"
OUR_WRITES = Match(agent=Agent.OPERATOR, verbs=WRITES)
OUR_STATUS = Match(
    agent=Agent.OPERATOR, verbs=["patch"], resource="sglanginferences", subresource="status"
)
MANY = 90


def late_replies(lab: Lab) -> Iterator[Result]:
    """F8: the answer to a write comes when the world has gone on."""
    for name, act in (
        ("answer to a create after its pod is up", _late_create(lambda lab, pool: None)),
        ("answer to a create after its pod is gone", _late_create(_gone)),
        ("status for a pool that was made again", _late_status),
        ("failure while the status is refused", _untold_failure),
        ("create without an answer and without an event", _unheard_create),
    ):
        yield judged(lab, Result(point=name), None, act)


def slow_server(lab: Lab) -> Iterator[Result]:
    """F9: every write takes its time; the world changes while a pass waits for it."""

    def slow(lab: Lab, pool: FaultPool) -> Callable[[], None]:
        rule = lab.proxy.add(OUR_WRITES, Delay(before=0.5, after=0.5))
        return lambda: lab.proxy.remove(rule)

    yield with_fault(lab, "every write takes 1 s, create 12", CREATE, slow, hold=12)

    def late(lab: Lab, pool: FaultPool) -> None:
        lab.proxy.add(OUR_STATUS, Delay(after=3.0), times=1)

    # All that the pods have to tell comes while a pass waits for this answer.
    yield with_fault(lab, "status answered 3 s late, create 12", CREATE, late)
    yield judged(lab, Result(point="pool deleted amid slow creates"), None, _deleted_slowly)


# --- late answers


def _late_create(
    meanwhile: Callable[[Lab, FaultPool], None],
) -> Callable[[Lab, FaultPool], list[str]]:
    """The answer to one create is held until its pod is up, and what follows has happened."""

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        late = _AfterCommit()
        match = Match(agent=Agent.OPERATOR, verbs=["create"], resource="pods", name=FIRST_POD)
        lab.proxy.add(match, late, times=1)
        four(pool)
        lab.wait(lambda: _up(pool, FIRST_POD), "the pod to be up")
        meanwhile(lab, pool)
        late.open()
        return lab.settle(pool)

    return act


class _AfterCommit(Gate):
    """Carries the request out, and holds the answer."""

    async def __call__(self, exchange: Exchange, /) -> Answer:
        answer = await exchange.forward()
        await self.opened()
        return answer


def _up(pool: FaultPool, name: str) -> bool:
    pod = pool.pods().get(name)
    listed = pod["status"].get("conditions", []) if pod else []
    return any(c["type"] == "ContainersReady" and c["status"] == "True" for c in listed)


def _gone(lab: Lab, pool: FaultPool) -> None:
    pool.plane.api.delete(pool.pod_path(FIRST_POD) + "?gracePeriodSeconds=0")
    time.sleep(0.5)  # so that the watch has told of it, which nothing else shows


def _late_status(lab: Lab, pool: FaultPool) -> list[str]:
    """A status of the old pool's second generation never stands on the new pool's first."""
    four(pool)
    problems = lab.settle(pool)
    held = Gate()
    rule = lab.proxy.add(OUR_STATUS, held)
    pool.patch(replicas=3)
    lab.wait(lambda: held.waiting, "a status on its way")
    pool.delete()
    four(pool)
    lab.proxy.remove(rule)
    held.open()
    return problems + lab.settle(pool)


def _untold_failure(lab: Lab, pool: FaultPool) -> list[str]:
    """An engine fails while the status cannot be written: its pod stays until its end is told."""
    four(pool)
    problems = lab.settle(pool)
    rule = lab.proxy.add(OUR_STATUS, Reply(503))
    FAILED(pool, FIRST_POD)
    lab.wait(lambda: "pool-g0-1-1" in pool.pods(), "a replacement")
    time.sleep(2)
    if FIRST_POD not in pool.pods():
        problems.append("the failed pod was deleted before its failure was told")
    lab.proxy.remove(rule)
    problems += lab.settle(pool)
    told = [entry["pod"] for entry in pool.object()["status"].get("lastFailures", [])]
    return problems if FIRST_POD in told else [*problems, "the failure is not told"]


def _unheard_create(lab: Lab, pool: FaultPool) -> list[str]:
    """A replacement is made, and neither its answer nor its event comes; then the old pod goes.

    Found by the soak: nothing was left by which the next attempt could have got another number.
    """
    four(pool)
    problems = lab.settle(pool)
    path, second = pool.pod_path(FIRST_POD), "pool-g0-1-1"
    stream = lab.proxy.live(STREAMS["pods"])[-1]
    stream.filter = lambda line: () if f'"{second}"'.encode() in line else (line,)
    match = Match(agent=Agent.OPERATOR, verbs=["create"], resource="pods", name=second)
    lab.proxy.add(match, Drop(after_commit=True))
    pool.plane.api.merge(path, {"metadata": {"finalizers": ["tests.example/hold"]}})
    pool.plane.api.delete(path)
    lab.wait(lambda: second in pool.pods(), "a replacement")
    pool.plane.api.merge(path, {"metadata": {"finalizers": None}})
    lab.wait(lambda: FIRST_POD not in pool.pods(), "the old pod to go")
    time.sleep(2)
    lab.proxy.clear()
    stream.inject(EXPIRED)
    return problems + lab.settle(pool)


# --- a slow server


def _deleted_slowly(lab: Lab, pool: FaultPool) -> list[str]:
    """Creates end when the pool is deleted, although its batch is not done."""
    match = Match(agent=Agent.OPERATOR, verbs=["create"], resource="pods")
    lab.proxy.add(match, Delay(before=0.3))
    pool.create(num_gpus_per_worker=1, device_mapping=f"list(range(0,{MANY}))")
    lab.wait(lambda: lab.proxy.counts["create pods"] >= 3, "the first creates")
    pool.delete()
    time.sleep(0.5)
    before = lab.proxy.counts["create pods"]
    time.sleep(2)
    more = lab.proxy.counts["create pods"] - before
    lab.proxy.clear()
    lab.wait(lambda: not pool.all_pods(), "the pods to be collected")
    return [f"{more} pods were asked for after the pool was gone"] if more > 1 else []
