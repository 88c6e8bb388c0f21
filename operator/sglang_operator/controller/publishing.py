"""The fourth stage of a pass: the pool's children and its status say what is so.

Each is written only if it changed, and not too often.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sglang_operator import actions
from sglang_operator.api import conditions
from sglang_operator.children import kinds
from sglang_operator.children.last_known import LastKnown
from sglang_operator.clocks import moment, steady
from sglang_operator.cluster.executor import Executor
from sglang_operator.controller.deciding import Decision, PoolDecision
from sglang_operator.controller.explaining import Explainer
from sglang_operator.controller.memory import Pass
from sglang_operator.controller.requeue import Reason
from sglang_operator.controller.telling import Teller
from sglang_operator.pool.resolve import Refused
from sglang_operator.status import compute, gangs, rollout_progress, stored
from sglang_operator.status.rollout_progress import Progress, advance


class Publisher:
    """Writes what others read of a pool."""

    def __init__(
        self, executor: Executor, teller: Teller, explainer: Explainer, *, interval: float
    ) -> None:
        self._executor = executor
        self._teller = teller
        self._explainer = explainer
        self._interval = interval

    async def publish(self, this: Pass, decision: PoolDecision, *, creating: bool = False) -> None:
        """Make it known how the pool stands.

        What a trainer waits for does not wait for the interval.  While many first pods are created
        and come up, some children wait for them.
        """
        if not self._is_due(this, decision):
            return
        memory = this.memory
        children = kinds.children(decision.pool, decision.weights, decision.observed)
        wanted = self._wanted(this, decision, children, creating=creating)
        written = await self._write(this, wanted)
        plan = await self._explainer.explained(
            this.key, memory, decision.pool, decision.plan, decision.observed, steady()
        )
        decision = replace(decision, plan=plan)
        told = await self._teller.tell(this, _status(this, decision, children))
        if told and written:
            memory.telling.succeeded()
        goes_on = told and _goes_on(this, decision)
        if wanted or goes_on or not told:
            memory.published_at = time.monotonic()

    async def publish_refused(self, this: Pass, decision: Decision, refused: Refused) -> None:
        """Make it known what is wrong with the pool, and to its trainer how its engines stand."""
        if not self._is_due(this, decision):
            return
        memory = this.memory
        wanted = self._kept(this, decision)
        if wanted:
            await self._write(this, wanted)
        new = compute.compute_refused(
            refused,
            decision.observed,
            ignored=memory.ignored,
            previous=this.record.status,
            now=moment().wall,
            steady=decision.at.steady,
        )
        await self._teller.tell(this, new)
        if wanted:
            memory.published_at = time.monotonic()

    def _is_due(self, this: Pass, decision: Decision) -> bool:
        """Whether it is told now: the interval is over, or a trainer waits for what is new."""
        memory = this.memory
        awaited = decision.weights.awaited(memory.awaited)
        wait = memory.published_at + self._interval - time.monotonic()
        if wait > 0 and awaited == memory.awaited:
            this.requeue.after(Reason.INTERVAL, wait)
            return False
        memory.awaited = awaited
        return True

    def _kept(self, this: Pass, decision: Decision) -> list[actions.ChildAction]:
        """What keeps clients and the trainer right."""
        known = LastKnown(
            owner=decision.owner,
            weights=decision.weights,
            observed=decision.observed,
            now=decision.at.steady,
        )
        bodies = kinds.kept_children(known)
        return _due(this, actions.kept_actions(known.owner, bodies, known.observed))

    def _wanted(
        self,
        this: Pass,
        decision: PoolDecision,
        children: Sequence[Mapping[str, Any]],
        *,
        creating: bool,
    ) -> list[actions.ChildAction]:
        """What is to be done about the children now."""
        waits = this.memory.waits_for_pods(decision.plan.coming, creating=creating)
        if waits > 0:
            this.requeue.after(Reason.PODS_FIRST, waits)
        batch = actions.child_actions(
            decision.pool, children, decision.observed, pods_first=waits > 0
        )
        return _due(this, batch)

    async def _write(self, this: Pass, wanted: Sequence[actions.ChildAction]) -> bool:
        """Write children; whether all could be that pools need."""
        memory = this.memory
        needed = [action for action in wanted if not kinds.is_spare(action.kind)]
        outcome = await self._executor.children(this.key, memory.uid, needed)
        if outcome.failed is None:
            memory.rewrites.wrote(needed)
        memory.note_conflicts(outcome, steady())
        written = memory.learn_of_children(outcome, this.requeue)
        if spare := [action for action in wanted if kinds.is_spare(action.kind)]:
            outcome = await self._executor.children(this.key, memory.uid, spare)
            if outcome.failed is None:
                memory.rewrites.wrote(spare)
            memory.learn_of_spares(outcome, this.requeue)
        return written


def _due(this: Pass, batch: Iterable[actions.ChildAction]) -> list[actions.ChildAction]:
    """Those that are to be carried out now: no other's object is in the way, nobody fights."""
    free = [each for each in batch if (each.kind, each.name) not in this.memory.conflicts]
    spares = this.memory.spares
    if not any(kinds.is_spare(each.kind) for each in free):
        spares.done()
    elif steady() < spares.until:
        this.requeue.at(Reason.CHILDREN_FAILED, spares.until)
        free = [each for each in free if not kinds.is_spare(each.kind)]
    return this.memory.rewrites.due(free, this.requeue)


def _status(
    this: Pass, decision: PoolDecision, children: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    observed = decision.observed
    foreign = actions.foreign(decision.pool, children, observed)
    named = {(kinds.kind_of(body), body["metadata"]["name"]) for body in children}
    return compute.compute(
        decision.pool,
        decision.plan,
        decision.weights,
        ignored=this.memory.ignored,
        troubles=[
            *_of_gangs(decision),
            *this.memory.troubles(foreign, this.key, observed.crowded, observed.leaving),
        ],
        previous=this.record.status,
        now=moment().wall,
        reports=observed.reports,
        nodes=observed.nodes,
        without=observed.absent_kinds,
        unstored=this.memory.unstored(foreign, named, this.key),
        progress=_progress(this, decision),
        window=this.memory.windows.told(decision.pool),
    )


def _of_gangs(decision: PoolDecision) -> Iterator[compute.Trouble]:
    """That no pods are made, for what their gang's scheduler would know them by is not there, or
    that it knows them by something else."""
    if message := gangs.missing(decision.pool, decision.plan, decision.observed):
        yield compute.Trouble(reason=conditions.GANG_NOT_SERVED, message=message, stalled=True)
    if message := gangs.regrouped(decision.pool, decision.plan):
        yield compute.Trouble(reason=conditions.REGROUPED, message=message, stalled=True)


def _progress(this: Pass, decision: PoolDecision) -> Progress | None:
    """How far the rollout is; it is looked at again when it will have taken too long."""
    told = stored.understood(this.record.status).get("rollout", {})
    pool, memory = decision.pool, this.memory
    memory.progress = advance(pool, decision.plan, told, memory.progress, decision.at)
    this.requeue.at(Reason.DEADLINE, rollout_progress.due(pool, memory.progress))
    return memory.progress


def _goes_on(this: Pass, decision: PoolDecision) -> bool:
    """Whether there is more to do now that the status stands."""
    memory, plan = this.memory, decision.plan
    ended = {pod.uid for pod in plan.ended} | {hung.pod.uid for hung in plan.hung}
    if not ended <= memory.recorded:
        memory.recorded |= ended
        this.requeue.now(Reason.RECORDED)
        return True
    if plan.tuning != decision.pool.tuning:
        this.requeue.now(Reason.TUNED)
        return True
    return False
