"""The past of a pool by which a rollout waits for the end of a trainer's step.

When the last commit came about is known of those alone that this process saw come: one that stands
there already may be long ago, and stamps of other machines' clocks tell no time here.  Since when
the rollout is under way stands in the status as well (``rollout.window``), so that its deadline is
the same for the operator that comes next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sglang_operator.api.spec import RolloutWindow
from sglang_operator.observed.model import Observed
from sglang_operator.observed.moment import Moment, Steps
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import failures, stored
from sglang_operator.weights import times
from sglang_operator.weights.lease_state import Phase, read


@dataclass
class Windows:
    """What is remembered of one pool."""

    _commit: tuple[float, str] | None = None  # the last that stood in the Lease
    _has_looked: bool = False
    _committed: float | None = None  # when it was seen to come about (steady)
    _rolling: tuple[str, Moment] | None = None  # the revision, and since when
    _is_read: bool = False  # whether the status has told what it knows

    def seen(
        self, pool: Pool, observed: Observed, status: Mapping[str, Any], at: Moment
    ) -> Observed:
        """What was observed, with what is known of the trainer's steps where that counts."""
        if pool.spec.rollout.window is RolloutWindow.ANYTIME:
            # Whoever asks for steps later begins anew: commits of before are not looked at.
            self._commit, self._committed, self._rolling = None, None, None
            self._has_looked, self._is_read = False, True
            return observed
        self._note_commit(pool, observed, at)
        if not self._is_read:
            self._rolling, self._is_read = _told(status, at), True
        if self._rolling is None or self._rolling[0] != pool.base_revision:
            self._rolling = pool.base_revision, at
        steps = Steps(committed=self._committed, rolling=self._rolling[1])
        return replace(observed, steps=steps)

    def learn(self, plan: Plan) -> None:
        """A rollout that is over has no deadline: the next one has its own."""
        if not plan.rolling:
            self._rolling = None

    def told(self, pool: Pool) -> dict[str, Any] | None:
        """As it stands in the status; None while nothing waits for steps."""
        if self._rolling is None:
            return None
        revision, since = self._rolling
        wait = pool.spec.rollout.window_deadline_seconds
        return {
            "revision": revision,
            "since": failures.rfc3339(since.wall),
            "until": failures.rfc3339(since.wall + wait),
        }

    def _note_commit(self, pool: Pool, observed: Observed, at: Moment) -> None:
        lease, has_looked = observed.weights_lease(pool.owner.name), self._has_looked
        self._has_looked = True
        if lease is None or not lease.whole or lease.owner != pool.owner.uid:
            return
        said = read(lease.body)
        commit = said.committed, said.version
        # A sync that was withdrawn, or a part that slept, leaves the commit of before.
        if said.phase is Phase.COMMITTED and commit != self._commit:
            self._commit, self._committed = commit, at.steady if has_looked else None


def _told(status: Mapping[str, Any], at: Moment) -> tuple[str, Moment] | None:
    """By the status, as another operator may have left it."""
    found = stored.understood(status).get("rollout", {}).get("window")
    if not isinstance(found, dict) or not (wall := times.seconds(found.get("since"))):
        return None
    steady = at.steady - max(0.0, at.wall - wall)
    return str(found.get("revision", "")), Moment(wall=wall, steady=steady)
