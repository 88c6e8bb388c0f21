"""The third stage of a pass: pods and gates are written, and what came of it is remembered."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeGuard

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.api.spec import Gang
from sglang_operator.children import engine_pod, gang_groups
from sglang_operator.clocks import left, steady
from sglang_operator.cluster import identity
from sglang_operator.cluster.dry_runs import DryRuns
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.outcome import Confirmation, Outcome
from sglang_operator.controller import trying
from sglang_operator.controller.deciding import Decision, PoolDecision
from sglang_operator.controller.memory import CONFIRMED_SECONDS, Memory, Pass
from sglang_operator.controller.observing import View
from sglang_operator.controller.requeue import Reason
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.observed.model import ObservedPod
from sglang_operator.placement.seats import Seat
from sglang_operator.plan.plan import CreateEngine, Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import nodes

# A pass performs pod actions for so long at most; what is left is planned again.
ACTING_SECONDS = 20.0
# Groups of pods that are made at a time; the executor's window bounds them too.
AT_ONCE = 16

_Place = tuple[names.EngineName, int, int]  # the engine, its attempt, and the pod's node rank

log = logging.getLogger(__name__)


class StaleViewError(Exception):
    """A pass found nothing as it had been seen."""


class Acting:
    """Whether a pass that writes pods goes on: told by who looks at the pool meanwhile.

    Unless its pool changes, what it began with is begun: a server that takes long to confirm the
    pool would else always be overtaken, by the clock or by something new, and nothing was written.
    """

    def __init__(self, plan: Plan) -> None:
        self._asked = _asked(plan)
        self._removals = {removal.pod.uid: removal.pod for removal in plan.removals}
        self._made = self._creates = _creates(plan)
        self._seating = plan.seating
        self.stopped = False
        self._has_more = False
        self._until: float | None = None  # monotonic; None: nothing was begun

    def stop(self) -> None:
        """The pool asks for something else, or it cannot be seen."""
        self.stopped = True

    def look(self, fresh: Plan) -> None:
        """This is what is to be done by now: what is more than was known is planned anew."""
        self._removals = {removal.pod.uid: removal.pod for removal in fresh.removals}
        self._creates, self._seating = _creates(fresh), fresh.seating
        if any(_create(name) in self._asked for name in fresh.turned):
            self.stop()  # their GPUs are the trainer's by now
        self._has_more = self._has_more or not _asked(fresh) <= self._asked

    def goes_on(self) -> bool:
        """Whether the next write is to be begun."""
        if self.stopped:
            return False
        if self._until is None:
            self._until = time.monotonic() + ACTING_SECONDS
            return True
        return not self._has_more and time.monotonic() < self._until

    def wanted(self, create: actions.CreatePod) -> bool:
        """Whether the pod is to be made by now, and where it was to be.

        One that comes after a delete is not planned any more once that is taken: its seat tells.
        """
        place = (create.engine, names.attempt_of(create.name), names.node_rank_of(create.name) or 0)
        planned = self._made.get(place)
        if create.after is None or place in self._creates:
            return place in self._creates and self._creates[place] == planned
        seats = self._seating.seats.get(create.engine, ()) if self._seating is not None else ()
        return planned is None or planned in seats

    def current(self, delete: actions.DeletePod) -> actions.DeletePod | None:
        """The delete of the pod as it is seen by now; None if it is to stay by now."""
        if _removal(delete.uid) not in self._asked:
            return delete  # of what was only just made
        pod = self._removals.get(delete.uid)
        return None if pod is None else replace(delete, resource_version=pod.resource_version)


def _asked(plan: Plan) -> set[str]:
    """The engines that are to be created and the pods that are to go."""
    creates = {_create(create.engine.name) for create in plan.creates}
    return creates | {_removal(removal.pod.uid) for removal in plan.removals}


def _create(engine: names.EngineName) -> str:
    return f"create {engine}"


def _creates(plan: Plan) -> dict[_Place, Seat | None]:
    """The pods that are to be made, and where."""
    return {
        (create.engine.name, create.attempt, rank): create.seats[rank] if create.seats else None
        for create in plan.creates
        for rank in create.node_ranks
    }


def _removal(uid: names.Uid) -> str:
    return f"remove {uid}"


class Actor:
    """Carries out what passes decide about pods and gates."""

    def __init__(self, view: View, executor: Executor, trials: DryRuns) -> None:
        self._view = view
        self._executor = executor
        self._trials = trials

    async def clear_doubts(self, this: Pass) -> Exception | None:
        """Learn what became of creates that had no answer, and take back what came out of one that
        no pool would know; why not, if that cannot be done.
        """
        memory, failed = this.memory, None
        for name, create in list(memory.unsure.items()):
            try:
                found = await self._executor.look_for(this.key, name)
            except (ApiError, ApiUnreachableError) as error:
                return error
            del memory.unsure[name]
            if found is not None and (spoilt := identity.spoilt(create.body, found, memory.uid)):
                memory.spoilt[spoilt.uid] = spoilt
        for uid, delete in list(memory.spoilt.items()):
            try:
                if delete.reason == identity.HIDDEN and self._view.pods.has(uid, memory.uid):
                    del memory.spoilt[uid]  # somebody put its labels right: it is an engine
                    continue
                await self._executor.take_back(this.key, delete)
            except (ApiError, ApiUnreachableError) as error:
                failed = failed or error
            else:
                del memory.spoilt[uid]
        return failed

    # --- gates

    async def gates(self, this: Pass, decision: Decision) -> bool:
        """Move gates, or take the operator's own step in the Lease; whether anything moved."""
        memory, plan = this.memory, decision.weights
        batch = actions.gate_actions(decision.owner, plan)
        if plan.due is not None:
            this.requeue.at(Reason.LEASE, steady() + left(decision.at, plan.due))
        if not batch:
            memory.gating.succeeded()
        batch = memory.rewrites.due(batch, this.requeue)
        if not batch:
            return False
        sent = steady()
        outcome = await self._executor.gates(this.key, decision.owner.uid, batch)
        memory.heed(outcome.failed)
        if outcome.stepped:
            memory.stepped_at = sent  # others count from when they see it, which is later
        memory.note_conflicts(outcome, steady())
        if outcome.done:
            memory.gating.succeeded()
            memory.rewrites.wrote(batch)
        else:
            error = outcome.failed or StaleViewError("what was seen is old")
            wait = memory.gating.failed(error)
            this.requeue.after(Reason.GATES_FAILED, wait)
            log.warning("%s: gates: %s; next try in %.1f s", this.key, error, wait)
        return outcome.moved > 0

    # --- pods

    async def pods(self, this: Pass, decision: PoolDecision, acting: Acting) -> Outcome:
        """Create and delete until done, or told by ``acting`` that the plan is old."""
        memory, pool, plan = this.memory, decision.pool, decision.plan
        if not plan.creates and not plan.removals:
            return Outcome()
        if not memory.roll_called and not self._view.caught_up(this.key.namespace):
            known = await self._call_roll(this)
            if known is not None:
                return known
        if trying.is_due(memory.trial, pool, plan):
            memory.trial = await trying.attempt(self._trials, this.key, memory.trial, pool, plan)
            if memory.trial.refusal or memory.trial.doubted:
                return Outcome(done=False)  # planned anew, with that known
        before, without = await self._groups(this, decision)
        if memory.template is None:
            memory.template = engine_pod.template(pool)
        near = _where_it_was(this, pool, plan)
        batch = _possible(actions.pod_actions(pool, plan, memory.template, near), memory)
        without |= gang_groups.without(pool, memory.conflicts.keys(), plan)
        batch = [a for a in batch if not (_is_create(a) and a.engine in without)]
        for action in batch:
            kind = type(action).__name__
            log.debug("%s: %s %s: %s", this.key, kind, action.name, action.reason)
        # Pods that go may be the first that is heard of the end of their pool.
        asked = memory.confirmed_at > max(
            self._view.pods.lost_at(this.key), steady() - CONFIRMED_SECONDS
        )
        outcome = await self._executor.pods(
            this.key,
            memory.uid,
            batch,
            asked=this.record,
            confirm=None if asked and not plan.removals else lambda: self._confirm(this),
            go_on=acting.goes_on,
            current=acting.current,
            wanted=acting.wanted,
            proven=steady() < memory.proven_until,
        )
        outcome.beside(before)
        return outcome

    async def _groups(
        self, this: Pass, decision: PoolDecision
    ) -> tuple[Outcome, set[names.EngineName]]:
        """Make what a gang's scheduler knows the pods by; the engines that have none for now.

        What needs none goes on: removals, and pods whose group is there.
        """
        memory, outcome = this.memory, Outcome()
        wanted = actions.group_actions(decision.pool, decision.plan, decision.observed)
        without = {engine for engines in wanted for engine in engines}
        steps = iter(wanted.items())

        async def work() -> None:
            """Until one is refused: as many as there are workers say enough of the others."""
            for engines, batch in steps:
                if any((each.kind, each.name) in memory.conflicts for each in batch):
                    continue
                made = await self._executor.children(this.key, memory.uid, batch)
                memory.note_conflicts(made, steady())
                if isinstance(made.failed, ApiError):
                    outcome.refuse(*made.failing, made.failed)
                    return
                if made.failed is not None:
                    outcome.failed, outcome.done = made.failed, False
                    return
                without.difference_update(engines)

        await asyncio.gather(*(work() for _ in range(min(AT_ONCE, len(wanted)))))
        return outcome, without

    async def remove(self, this: Pass, pods: Sequence[ObservedPod]) -> None:
        """Delete what is on GPUs of a trainer that is gone, under a spec that is refused."""
        memory, batch = this.memory, actions.left_behind(pods)
        outcome = await self._executor.pods(
            this.key,
            memory.uid,
            batch,
            asked=this.record,
            confirm=lambda: self._confirm(this),
            go_on=lambda: True,
        )
        if outcome.gone:
            self._view.pools.gone(this.key, memory.uid)
        elif (error := outcome.failed or outcome.refused_delete) is not None:
            wait = memory.acting.failed(error)
            log.warning("%s: %s; next try in %.1f s", this.key, error, wait)
            this.requeue.after(Reason.PODS_FAILED, wait)
        else:
            memory.acting.succeeded()

    async def _call_roll(self, this: Pass) -> Outcome | None:
        """Learn what an operator before this one has made of the pool; None if nothing is new."""
        try:
            is_news = await self._executor.roll_call.take(this.key)
        except (ApiError, ApiUnreachableError, ValueError) as error:
            return Outcome(done=False, failed=error)
        this.memory.roll_called = True
        return Outcome(done=False) if is_news else None  # planned anew, with that known

    async def _confirm(self, this: Pass) -> Confirmation:
        answer = await self._executor.confirm_pool(this.key, this.memory.uid, this.record)
        unchanged = answer is Confirmation.UNCHANGED
        this.memory.confirmed_at = steady() if unchanged else float("-inf")
        return answer

    def learn(self, this: Pass, decision: PoolDecision, outcome: Outcome) -> None:
        """Take in what came of pods.

        What could not be done is tried again, ever later if nothing moves.
        """
        memory, plan, now = this.memory, decision.plan, decision.at.steady
        complete = not plan.creates and all(engine.created for engine in plan.engines)
        memory.learn(outcome, len(decision.observed.pods), now, complete=complete)
        error = outcome.failed or outcome.refused_delete
        if error is not None:
            delay = memory.acting.failed(error)
            log.warning("%s: %s; next try in %.1f s", this.key, error, delay)
            this.requeue.after(Reason.PODS_FAILED, delay)
            return
        memory.acting.succeeded()
        moved = outcome.created or outcome.deleted or outcome.stale
        if outcome.done or memory.blocked_until > now:
            memory.again.succeeded()
        elif moved:
            memory.again.succeeded()
            this.requeue.now(Reason.PODS_LEFT)
        else:
            old = StaleViewError("what was seen is old")
            this.requeue.after(Reason.STALE_VIEW, memory.again.failed(old))


def _where_it_was(this: Pass, pool: Pool, plan: Plan) -> Callable[[CreateEngine, int], str]:
    """The node on which an engine's pod was last: what it needs is warm there.

    Not after a failure of any kind, which may be the node's: also one of an older revision, of
    which the pod that is made knows nothing.  A queue admits pods of one engine by what they
    have in common, so that none has a place of its own.
    """
    free = pool.spec.scheduling.gang is Gang.NONE
    last = nodes.last(pool, this.record.status) if plan.creates and free else {}
    failed = nodes.failed(plan) if last else {}

    def near(create: CreateEngine, node_rank: int) -> str:
        if create.failures or create.streak is not None or create.engine.name in failed:
            return ""
        return last.get(nodes.number(pool, create.engine.rank, node_rank), "")

    return near


def _is_create(action: actions.PodAction) -> TypeGuard[actions.CreatePod]:
    return isinstance(action, actions.CreatePod)


def _possible(batch: Sequence[actions.PodAction], memory: Memory) -> list[actions.PodAction]:
    """The actions whose names are free, and which have no answer to wait for."""
    unsure = {create.engine for create in memory.unsure.values()}
    return [
        action
        for action in batch
        if ("Pod", action.name) not in memory.conflicts
        and not (_is_create(action) and (memory.spoilt or action.engine in unsure))
    ]
