"""The second stage of a pass: what is seen of a pool → what is to be done about it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sglang_operator.api import names, spec
from sglang_operator.clocks import moment
from sglang_operator.controller.asking import Asker
from sglang_operator.controller.memory import Memory, Pass
from sglang_operator.controller.observing import Observer
from sglang_operator.gates import decide as gates
from sglang_operator.gates import holders
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed import groups
from sglang_operator.observed.model import Observed
from sglang_operator.observed.moment import Moment
from sglang_operator.plan import plan as plans
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Owner, Pool, Refused
from sglang_operator.status import stored


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be done about the weights of a pool, and from what that follows."""

    owner: Owner
    at: Moment
    observed: Observed
    weights: GatePlan


@dataclass(frozen=True, kw_only=True)
class PoolDecision(Decision):
    """What is to be done about a pool whose spec can be carried out."""

    pool: Pool
    plan: Plan


class Decider:
    """Decides for passes, and has engines asked what the next ones want to know."""

    def __init__(self, observer: Observer, asker: Asker) -> None:
        self._observer = observer
        self._asker = asker

    def decide(
        self, this: Pass, pool: Pool, stays: frozenset[names.Uid] = frozenset()
    ) -> PoolDecision:
        """The next step of this pool.

        ``stays``: pods that were to go, and whose delete was not taken.  What is told follows from
        what was done: their engines run on.
        """
        at, memory, begun = moment(), this.memory, time.perf_counter()
        observed = self._observer.observe(this.key, memory, at)
        observed = memory.windows.seen(pool, observed, this.record.status, at)
        if stays:
            observed = replace(observed, stays=stays)
        memory.note_revisions(pool, groups.runs(observed.pods), observed.reports)
        plan = plans.plan(pool, observed, at.steady)
        policy = spec.Weights(gate=pool.gate, recovery=pool.spec.weights.recovery)
        weights = gates.decide(
            pool.owner,
            policy,
            plan.engines,
            observed,
            at.wall,
            self._asker.holder,
            plan.unlisted,
            plan.heirs,
        )
        if pool.takes_turns:
            seats = plan.seating.seats if plan.seating is not None else holders.NO_SEATS
            weights = _with_holders(weights, observed, memory, seats)
        weights = replace(weights, taken=_taken(observed))
        memory.windows.learn(plan)
        memory.said, memory.handed_on = weights.said, plan.handed_on
        if plan.seating is not None:
            memory.pins = plan.seating.pins
            weights = replace(weights, cards=plan.seating.cards(pool.owner.namespace))
        memory.planning_seconds = time.perf_counter() - begun
        memory.meter.planned(pool, plan, at.steady)
        memory.meter.weighed(weights, at.steady)
        self._asker.ask(this.key, memory, pool, plan, weights, observed)
        return PoolDecision(
            owner=pool.owner, at=at, observed=observed, weights=weights, pool=pool, plan=plan
        )

    def decide_refused(self, this: Pass, refused: Refused) -> Decision:
        """The next step of a pool whose spec is refused: its engines run on, and their trainer."""
        at, begun = moment(), time.perf_counter()
        observed = self._observer.observe(this.key, this.memory, at)
        policy = spec.Weights(gate=stored.gate_of(this.record.status))
        weights = gates.decide(refused.owner, policy, (), observed, at.wall, self._asker.holder)
        weights = _with_holders(weights, observed, this.memory, holders.NO_SEATS)
        weights = replace(weights, taken=_taken(observed))
        this.memory.said = weights.said
        this.memory.planning_seconds = time.perf_counter() - begun
        self._asker.permit(this.key, this.memory, weights)
        return Decision(owner=refused.owner, at=at, observed=observed, weights=weights)


def _taken(observed: Observed) -> Mapping[names.EngineName, str]:
    """Engines whose GPUs others have, and which pool; "" for pods of no pool that there is."""
    return {**dict.fromkeys(sorted(observed.left_on), ""), **observed.rivals}


def _with_holders(
    weights: GatePlan, observed: Observed, memory: Memory, seats: holders.Seats
) -> GatePlan:
    """With who may hold the memory that a trainer is to have.

    While it is not known what came of a create, or who else is there, nothing is said to be free.
    """
    known = not (memory.in_doubt or memory.beyond)
    own, others, beside = observed.all_pods, observed.departing, weights.unlisted
    return replace(
        weights,
        occupied=holders.occupied(own, others, seats, beside) if known else None,
        holders=holders.untold(
            observed, (*weights.engines, *weights.unlisted), weights.transaction, seats
        ),
    )
