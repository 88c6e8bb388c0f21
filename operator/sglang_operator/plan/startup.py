"""Engines that fail before they are up: started again one at a time, and not for ever.  Pure.

An engine that fails at its start for the same reason again and again only burns GPUs.  While no
engine of the present revision has ever come up, one is tried on behalf of all that failed for
that reason; ``restart.startupBudget`` bounds how often, and then the pool is Stalled until its
spec changes or the failed pods are deleted.  Once one is up the others follow, each with a budget
of its own.

The pods are the memory: each carries how many failures of which kind led to it, and one that
failed stays until its replacement exists.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sglang_operator.api.names import EngineName
from sglang_operator.diagnosis import causes
from sglang_operator.engine.diagnosis import Diagnosis
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import ObservedPod


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureStreak:
    """Failures in a row at the start of one engine, all for one reason."""

    reason: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """Engines that are not started again, because it would only fail once more."""

    cause: Diagnosis
    engines: tuple[EngineName, ...]
    restarts: int  # that were tried in vain


@dataclass(frozen=True, kw_only=True, slots=True)
class StartupState:
    """How far one wanted engine came with its start."""

    up: bool
    pod: ObservedPod | None  # that stands for it, live
    streak: FailureStreak | None  # of its last pod, if that ended at its start


def streak(pod: ObservedPod, told: Diagnosis) -> FailureStreak | None:
    """The failure streak that this ended pod is the last of; None if its engine had been up."""
    if pod.end is None or not causes.at_startup(pod, pod.end, told):
        return None
    before = pod.startup_failures if pod.startup_reason == told.reason else 0
    return FailureStreak(reason=told.reason, count=before + 1)


def streak_before(pod: ObservedPod) -> FailureStreak | None:
    """The failure streak that led to this pod."""
    if not pod.startup_failures:
        return None
    return FailureStreak(reason=pod.startup_reason, count=pod.startup_failures)


def following(pod: ObservedPod, failures: int, streak: FailureStreak | None) -> ObservedPod:
    """This pod, as one that follows these failures."""
    count, reason = (streak.count, streak.reason) if streak is not None else (0, "")
    return replace(pod, failures=failures, startup_failures=count, startup_reason=reason)


def streak_of_group(group: Group, pod: ObservedPod, told: Diagnosis) -> FailureStreak | None:
    """The same of an engine of several pods, of whose ends that of this one tells most.

    Each start counts, whichever member told of its end first: they may have said different things
    of one failure.  What one says that may have died of another explains no more than what is
    known of the failures before.
    """
    if pod.end is None or not _never_answered(group, pod, told):
        return None
    known = pod.startup_reason if causes.may_be_of_others(told) else ""
    return FailureStreak(reason=known or told.reason, count=pod.startup_failures + 1)


def _never_answered(group: Group, pod: ObservedPod, told: Diagnosis) -> bool:
    """Its leader is what answers: a follower does as soon as its own ranks have loaded."""
    leader = group.leader
    if leader is None:
        leader = pod
    if leader.end is not None:
        return causes.at_startup(leader, leader.end, told)
    up = leader.answered or leader.started or leader.containers_ready
    return not up or (pod.end is not None and causes.at_startup(pod, pod.end, told))


def streak_in_place(pod: ObservedPod, told: Diagnosis) -> FailureStreak | None:
    """The failure streak of a container in CrashLoopBackOff."""
    if pod.last_termination is None or pod.containers_ready:
        return None
    if not causes.at_startup(pod, pod.last_termination, told):
        return None
    return FailureStreak(reason=told.reason, count=max(1, pod.restarts))


class CanaryStart:
    """Engines that failed at their start: one is tried on behalf of the others."""

    def __init__(self, engines: Sequence[StartupState], revision: str, budget: int) -> None:
        self._engines = engines
        self._revision = revision
        self._budget = budget
        self._given_up: dict[str, list[tuple[EngineName, Diagnosis]]] = defaultdict(list)
        self._begun: set[str] = set()  # reasons for which an engine is started in this pass

    @cached_property
    def proven(self) -> bool:
        """Whether an engine of exactly the present revision is up."""
        return any(
            engine.up and engine.pod is not None and engine.pod.revision == self._revision
            for engine in self._engines
        )

    @property
    def failing(self) -> bool:
        """Whether engines of the present revision failed at their start, and none came up yet."""
        return not self.proven and any(
            engine.streak is not None
            or (engine.pod is not None and not engine.up and engine.pod.startup_failures > 0)
            for engine in self._engines
        )

    @property
    def under_way(self) -> bool:
        """Whether an engine of exactly the present revision exists, up or not."""
        return any(
            engine.pod is not None and engine.pod.revision == self._revision
            for engine in self._engines
        )

    @cached_property
    def _tried(self) -> frozenset[str]:
        """Kinds of failures after which an engine is on its way up again."""
        return frozenset(
            engine.pod.startup_reason
            for engine in self._engines
            if engine.pod is not None and not engine.up
        )

    @cached_property
    def _restarts(self) -> Counter[str]:
        """How often engines that are not up were started again, by the kind of their failures."""
        total = Counter[str]()
        for engine in self._engines:
            if engine.up:
                continue
            pod, streak = engine.pod, engine.streak
            if pod is not None:
                total[pod.startup_reason] += pod.startup_failures
            if streak is not None and (pod is None or pod.startup_reason != streak.reason):
                total[streak.reason] += streak.count - 1
        return total

    def begin(self, streak: FailureStreak) -> None:
        """An engine is started after these failures."""
        self._begun.add(streak.reason)

    def hold_back(self, engine: EngineName, failed: FailureStreak, cause: Diagnosis) -> bool:
        """Whether this engine is not started again now: given up, or tried by another first."""
        if self.proven:
            tried = failed.count - 1
        elif failed.reason in self._begun or failed.reason in self._tried:
            return True
        else:
            tried = self._restarts[failed.reason]
        if tried < self._budget:
            return False
        self._given_up[failed.reason].append((engine, cause))
        return True

    def stalls(self) -> Iterable[Stall]:
        """The engines that were given up, by cause."""
        for reason, found in sorted(self._given_up.items()):
            yield Stall(
                cause=found[-1][1],
                engines=tuple(engine for engine, _ in found),
                restarts=self._restarts[reason],
            )
