"""What the loop counts as it goes: plain numbers, so that counting costs next to nothing.

``exposition`` reads them when somebody scrapes; nothing here knows of Prometheus.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sglang_operator.gates import standing
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import failures
from sglang_operator.weights.lease_state import Phase, Transaction

# Upper bounds in seconds, those of controller-runtime, so that its dashboards read ours.
PASS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SYNC_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
QUEUE_BUCKETS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
# A pool has few causes of failure; whoever makes up more shares one series.
MAX_CAUSES = 32
OTHER_CAUSE = "Other"


class Histogram:
    """Counts of values (seconds) by upper bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """Upper bound as text and how many values are not above it, as Prometheus has it."""
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            yield ("+Inf" if bound == float("inf") else f"{bound:g}"), float(total)


class PassMeter:
    """The passes of all pools."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.panics = 0
        self.active = 0
        self.seconds = Histogram(PASS_BUCKETS)

    def ended(self, seconds: float, *, again: bool) -> None:
        """A pass came to its end; ``again``: it asked to be run again without an event."""
        self.results["requeue_after" if again else "success"] += 1
        self.seconds.observe(seconds)

    def crashed(self, seconds: float) -> None:
        self.results["error"] += 1
        self.panics += 1
        self.seconds.observe(seconds)


@dataclass
class PoolMeter:
    """One pool since this process first planned it.  Times are by the steady clock."""

    engines: tuple[EngineStatus, ...] = ()
    gpus: int = 0  # of one engine, as the spec has it
    resource: str = ""  # by which they are counted
    failures: Counter[str] = field(default_factory=Counter)  # by diagnosed cause
    weights: GatePlan | None = None
    syncs: Counter[str] = field(default_factory=Counter)  # committed, aborted
    sync_seconds: Histogram = field(default_factory=lambda: Histogram(SYNC_BUCKETS))
    _asleep_seconds: float = 0.0
    _weights_at: float = 0.0
    _counted: frozenset[tuple[str, int]] = frozenset()
    _closed: int = 0  # engines that are up behind a closed gate
    _closed_seconds: float = 0.0
    _since: float = 0.0

    def planned(self, pool: Pool, plan: Plan, now: float) -> None:
        """Take in one plan."""
        self._closed_seconds = self.gate_closed_seconds(now)
        self._since = now
        self._closed = sum(engine.state is EngineState.UP for engine in plan.engines)
        self.engines = plan.engines
        self.gpus, self.resource = pool.gpus, pool.resource
        self._count_failures(pool, plan)

    def gate_closed_seconds(self, now: float) -> float:
        """Engine-seconds spent up, but kept from requests because the gate was closed."""
        return self._closed_seconds + self._closed * max(0.0, now - self._since)

    def weighed(self, plan: GatePlan, now: float) -> None:
        """Take in how the weights stand.  What ended before this process began does not count."""
        before, after = self.weights, plan.transaction
        self._asleep_seconds = self.asleep_seconds(now)
        self._weights_at, self.weights = now, plan
        if before is None:
            return
        was = before.transaction
        if after.phase is Phase.COMMITTED and after.committed > was.committed:
            self.syncs["committed"] += 1
            if after.begun:
                self.sync_seconds.observe(max(0.0, after.committed - after.begun))
        if after.phase is Phase.ABORTED and was.phase is not Phase.ABORTED:
            self.syncs["aborted"] += 1

    def asleep_seconds(self, now: float) -> float:
        """Seconds in which a trainer had released the memory of the engines.

        Of a part of them each second counts as much as that part is of the pool.
        """
        said = self.weights.transaction if self.weights is not None else Transaction()
        share = float(said.phase is Phase.SLEEPING and bool(said.released))
        if share and self.weights is not None and said.serving:
            share = self.asleep() / max(1, len(self.weights.engines))
        return self._asleep_seconds + share * max(0.0, now - self._weights_at)

    def asleep(self) -> int:
        """Engines whose memory a trainer has."""
        if self.weights is None:
            return 0
        return len(standing.asleep(self.weights.engines, self.weights.transaction))

    def states(self) -> Counter[EngineState]:
        """How many engines stand where."""
        return Counter(engine.state for engine in self.engines)

    @property
    def gpus_wanted(self) -> int:
        return len(self.engines) * self.gpus

    @property
    def gpus_bound(self) -> int:
        """GPUs of engines that have a node."""
        return sum(sum(engine.held(self.resource, self.gpus).values()) for engine in self.engines)

    def _count_failures(self, pool: Pool, plan: Plan) -> None:
        """Each end of each engine once; only new ones are diagnosed."""
        ended = {(pod.uid, pod.restarts): pod for pod in plan.ended}
        lost = {(lost.pod.uid, -1): lost for lost in plan.lost}
        again = {(pod.uid, pod.restarts): pod for pod, _ in plan.restarts}
        disrupted = {(pod.uid, -2): pod for pod in plan.disrupted}
        if not (ended or lost or again or disrupted):
            self._counted = frozenset()
            return
        fresh = Plan(
            ended=tuple(pod for key, pod in ended.items() if key not in self._counted),
            lost=tuple(pod for key, pod in lost.items() if key not in self._counted),
            taken_over=tuple(pod for key, pod in again.items() if key not in self._counted),
            disrupted=tuple(pod for key, pod in disrupted.items() if key not in self._counted),
        )
        self._counted = frozenset({*ended, *lost, *again, *disrupted})
        for failure in failures.seen(pool, fresh):
            known = failure.reason in self.failures or len(self.failures) < MAX_CAUSES
            self.failures[failure.reason if known else OTHER_CAUSE] += 1
