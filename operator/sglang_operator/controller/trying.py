"""A new revision is tried on the API server before the first running engine goes for it.

Once for each revision: a pod of it that exists was taken.  One that would be refused is tried again
now and then, because a policy can be mended where the spec cannot.
"""

from dataclasses import dataclass

from sglang_operator.api import conditions, texts
from sglang_operator.backoff import Backoff
from sglang_operator.children import engine_pod, gang_groups, kinds, origin
from sglang_operator.clocks import steady
from sglang_operator.cluster.dry_runs import UNKNOWN, DryRuns
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status.compute import Trouble

# Between two tries of a revision that would be refused.
RETRY = Backoff(5.0, 300.0)


@dataclass
class Trial:
    """What the API server said of one revision."""

    revision: str = ""
    refusal: str = ""  # empty: it would be taken
    stalled: bool = False  # only a human can help
    until: float = 0.0  # a refusal is good for so long, by the steady clock
    count: int = 0
    kind: str = ""  # of what is refused
    unknown: bool = False  # nothing was said of it: the API server may take it, or no pod at all

    @property
    def doubted(self) -> str:
        """The revision for which one engine may go, to see whether it is taken."""
        return self.revision if self.unknown else ""

    def refused(self, now: float) -> str:
        """The revision for which no engine may go at present; "" if there is none."""
        return self.revision if self.refusal and now < self.until else ""

    def trouble(self, pool: Pool | None) -> Trouble | None:
        """What is to be told of it."""
        if pool is None or not self.refusal or self.revision != pool.revision:
            return None
        when = texts.TRY_AGAIN.format(seconds=int(RETRY.most))
        message = texts.REVISION_REFUSED.format(
            kind=kinds.several(self.kind), revision=self.revision, message=self.refusal, when=when
        )
        return Trouble(reason=conditions.POD_REJECTED, message=message, stalled=self.stalled)


def is_due(trial: Trial, pool: Pool, plan: Plan) -> bool:
    """Whether a running engine is about to go for a revision that nothing is known of."""
    known = trial.revision == pool.revision and not trial.refusal
    return plan.untried and not known and any(removal.replaced for removal in plan.removals)


async def attempt(trials: DryRuns, key: PoolKey, trial: Trial, pool: Pool, plan: Plan) -> Trial:
    """Try the revision, and before it what its pods have to be of; what is known of it now."""
    first = plan.engines[0]
    seats = plan.seating.seats.get(first.name, ()) if plan.seating is not None else ()
    seat = seats[0] if seats else None
    template = engine_pod.template(pool)
    # Under a name that no pod has: of one that exists it is not answered what would be made of it.
    here = (*plan.pods, *(removal.pod for removal in plan.removals))
    attempt = max((pod.attempt for pod in here), default=-1) + 1
    body = engine_pod.pod(pool, template, first.engine, attempt, seat=seat)
    if (group := gang_groups.of_try(pool, first.engine, attempt)) is not None:
        kind = kinds.kind_of(group)
        error = await trials.group(key, kind, group)
        if error is not None and error is not UNKNOWN:
            return _refused(trial, pool, kind, error)
    standing = next((r.pod.name for r in plan.removals if r.replaced), "")
    error = await trials.pod(key, body, standing)
    if error is None or error is UNKNOWN:
        return Trial(revision=pool.revision, unknown=error is UNKNOWN)
    return _refused(trial, pool, kinds.POD, error)


def _refused(trial: Trial, pool: Pool, kind: str, error: ApiError | ApiUnreachableError) -> Trial:
    said = error.told if isinstance(error, ApiError) else str(error)
    count = trial.count if trial.revision == pool.revision else 0
    return Trial(
        revision=pool.revision,
        refusal=origin.message(pool, said) if kind == kinds.POD else said,
        kind=kind,
        stalled=isinstance(error, ApiError) and error.rejected,
        until=steady() + RETRY.pause(count),
        count=count + 1,
    )
