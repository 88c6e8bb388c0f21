"""When a pass wants the next one without any event, and why.

One collector goes through a whole pass: whoever wants to look again adds its reason and its time,
and nobody hands seconds on.
"""

from enum import StrEnum

from sglang_operator.clocks import steady


class Reason(StrEnum):
    """Why a pool is looked at again."""

    SPEC_READ = "the spec was read again"
    NO_ROOM = "the pool has no room beside others any more"
    ENDS_UNREAD = "ends of engines are left to be read"
    PLAN = "the plan said when"
    LOOKUP = "a cause is looked up"
    GATES_MOVED = "gates moved"
    GATES_FAILED = "gates could not be written"
    CLAIMS = "a node rank is claimed in turn"
    DEADLINE = "a rollout may take too long"
    LEASE = "what the weights Lease says runs out"
    PUT_BACK = "somebody puts back what is written"
    PODS_FAILED = "pods could not be written"
    STALE_VIEW = "nothing was as it had been seen"
    PODS_LEFT = "pods are left to be written"
    PLAN_OLD = "pods took so long that the plan is old"
    NAME_TAKEN = "a name may be free again"
    PODS_REFUSED = "refused pods may be taken now"
    REVISION_REFUSED = "a refused revision may be taken now"
    NAMESPACE = "the namespace is on its way out"
    INTERVAL = "it was published a moment ago"
    CHILDREN_FAILED = "children could not be written"
    PODS_FIRST = "some children wait for pods"
    STATUS_FAILED = "the status could not be written"
    RECORDED = "failures stand in the status: their pods may go"
    TUNED = "what was tuned stands in the status"


class Requeue:
    """The wishes of one pass, of which the earliest counts."""

    def __init__(self) -> None:
        self._waits: dict[Reason, float] = {}
        self._times: dict[Reason, float] = {}  # by the steady clock

    def now(self, reason: Reason) -> None:
        """As soon as the pass has ended."""
        self.after(reason, 0.0)

    def after(self, reason: Reason, seconds: float) -> None:
        """So many seconds after the end of the pass."""
        self._waits[reason] = min(seconds, self._waits.get(reason, seconds))

    def at(self, reason: Reason, when: float | None) -> None:
        """At this time by the steady clock; None is no wish."""
        if when is not None:
            self._times[reason] = min(when, self._times.get(reason, when))

    def reasons(self) -> dict[Reason, float]:
        """The seconds from now on by reason, the earliest first."""
        now = steady()
        found = {reason: max(0.0, when - now) for reason, when in self._times.items()}
        for reason, seconds in self._waits.items():
            found[reason] = min(seconds, found.get(reason, seconds))
        return dict(sorted(found.items(), key=lambda wish: wish[1]))

    def delay(self) -> float | None:
        """Seconds until the next pass; None if none is wanted."""
        return min(self.reasons().values(), default=None)

    def __str__(self) -> str:
        return ", ".join(f"{reason} ({wait:.2f} s)" for reason, wait in self.reasons().items())
