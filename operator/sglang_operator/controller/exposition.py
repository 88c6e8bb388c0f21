"""The loop's state as Prometheus text, read when somebody asks.

Nothing is kept for Prometheus between two scrapes, so a deleted pool has no series any more.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from sglang_operator import __version__, supervision
from sglang_operator.clocks import steady
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import families
from sglang_operator.controller.families import Family
from sglang_operator.controller.logs import CONTROLLER
from sglang_operator.controller.loop import ControlLoop
from sglang_operator.controller.meters import Histogram, PoolMeter
from sglang_operator.controller.server import Handler
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.status import stored

Labels = tuple[str, ...]
MAX_REASON = 64
_QUEUE = (CONTROLLER, CONTROLLER)


class Metrics:
    """``/metrics``.  The state is read in the loop, the text is made beside it."""

    def __init__(self, control_loop: ControlLoop, shell_starts: Callable[[], int]) -> None:
        self._reader = MetricsReader(control_loop, shell_starts)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)

    @property
    def routes(self) -> dict[str, Handler]:
        return {"/metrics": self._metrics}

    async def _metrics(self, _: web.Request) -> web.Response:
        found = list(self._reader.collect())
        body = await asyncio.to_thread(self._text, found)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _text(self, found: list[Metric]) -> bytes:
        registry = CollectorRegistry()
        registry.register(_Fixed(found))
        return generate_latest(registry) + generate_latest(self._process)


class _Fixed(Collector):
    """Metrics that were read already."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        return iter(self._found)


@dataclass(frozen=True)
class MetricsReader:
    """Reads one loop."""

    control_loop: ControlLoop
    shell_starts: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        """Every family of the table, with what it is now."""
        yield from self._passes()
        yield from self._queue()
        yield from self._server()
        yield from self._pools()
        yield from self._weights()

    def _passes(self) -> Iterator[Metric]:
        meter, controller = self.control_loop.passes, (CONTROLLER,)
        results = {(CONTROLLER, result): 0.0 for result in ("success", "requeue_after", "error")}
        results |= {(CONTROLLER, name): float(n) for name, n in meter.results.items()}
        yield _metric(families.RECONCILES, results)
        yield _metric(families.RECONCILE_ERRORS, {controller: meter.panics})
        yield _metric(families.RECONCILE_PANICS, {controller: meter.panics})
        yield _histogram(families.RECONCILE_SECONDS, controller, meter.seconds)
        yield _metric(families.MAX_CONCURRENT, {controller: self.control_loop.settings.passes})
        yield _metric(families.ACTIVE_WORKERS, {controller: meter.active})

    def _queue(self) -> Iterator[Metric]:
        queue = self.control_loop.queue
        working = queue.working_seconds()
        yield _metric(families.QUEUE_DEPTH, {_QUEUE: queue.due()})
        yield _metric(families.QUEUE_ADDS, {_QUEUE: queue.adds})
        yield _metric(
            families.QUEUE_RETRIES, {_QUEUE: self.control_loop.passes.results["requeue_after"]}
        )
        yield _histogram(families.QUEUE_WAIT, _QUEUE, queue.waited)
        yield _histogram(families.QUEUE_WORK, _QUEUE, queue.worked)
        yield _metric(families.QUEUE_UNFINISHED, {_QUEUE: sum(working)})
        yield _metric(families.QUEUE_LONGEST, {_QUEUE: max(working, default=0.0)})

    def _server(self) -> Iterator[Metric]:
        control_loop = self.control_loop
        host = urlsplit(control_loop.client.server).netloc
        requests: dict[Labels, float] = {}
        for (method, status), count in control_loop.client.requests.items():
            key = (str(status or "<error>"), "GET" if method == "WATCH" else method, host)
            requests[key] = requests.get(key, 0.0) + count
        yield _metric(families.REQUESTS, requests)
        if control_loop.elector is not None:
            held = {(control_loop.elector.name,): float(control_loop.elector.holds())}
            yield _metric(families.LEADER, held)
        streams = [stream for stream in control_loop.informers if stream.lists]
        # Who is refused is told so, and is not silent.
        ages = {(s.resource.name,): s.age() for s in streams if s.refused is None}
        yield _metric(families.STREAM_AGE, ages)
        yield _metric(families.STREAM_LISTS, {(s.resource.name,): s.lists for s in streams})
        refused = {(s.resource.name,): float(s.refused is not None) for s in control_loop.informers}
        yield _metric(families.STREAM_REFUSED, refused)
        unread = {(s.resource.name,): float(len(s.unread)) for s in streams}
        yield _metric(families.STREAM_UNREAD, unread)
        failures = {(name,): float(n) for name, n in supervision.FAILURES.items()}
        yield _metric(families.UNEXPECTED, failures)
        if control_loop.reconciler is not None:
            yield _metric(families.WRITE_WINDOW, {(): control_loop.reconciler.window_size})
            told = control_loop.reconciler.events_told
            yield _metric(families.EVENTS, {(result,): n for result, n in told.items()})
        yield _metric(families.TASKS, {(): _tasks()})
        yield _metric(families.SHELL_STARTS, {(): self.shell_starts()})
        yield _metric(families.WATCHES_ANEW, {(): control_loop.witness.anew})
        yield _metric(families.BUILD, {(__version__,): 1})

    def _meters(self) -> Iterable[tuple[PoolKey, PoolMeter]]:
        """A standby tells of no pools, else each would count twice."""
        reconciler = self.control_loop.reconciler if self.control_loop.dispatching else None
        return reconciler.meters() if reconciler else ()

    def _pools(self) -> Iterator[Metric]:
        """How the engines of each pool stand."""
        engines: dict[Labels, float] = {}
        wanted: dict[Labels, float] = {}
        bound: dict[Labels, float] = {}
        causes: dict[Labels, float] = {}
        closed: dict[Labels, float] = {}
        info: dict[Labels, float] = {}
        told: dict[Labels, float] = {}
        tokens: dict[Labels, float] = {}
        now = steady()
        for key, meter in self._meters():
            pool = (key.namespace, key.name)
            states = meter.states()
            engines |= {(*pool, state.value): states[state] for state in EngineState}
            wanted[pool] = meter.gpus_wanted
            bound[pool] = meter.gpus_bound
            causes |= {(*pool, _word(cause)): n for cause, n in meter.failures.items()}
            closed[pool] = meter.gate_closed_seconds(now)
            status = self._status(key)
            told |= dict.fromkeys(_conditions(pool, status), 1.0)
            tokens |= dict(_cache_tokens(pool, status))
            if resolved := status.get("resolved"):
                version = str(resolved.get("engineVersion", ""))
                gate = str(resolved.get("gate", ""))
                info[(*pool, version, gate, str(status.get("placement", "")))] = 1.0
        yield _metric(families.POOL_INFO, info)
        yield _metric(families.POOL_CONDITION, told)
        yield _metric(families.POOL_ENGINES, engines)
        yield _metric(families.POOL_GPUS_WANTED, wanted)
        yield _metric(families.POOL_GPUS_BOUND, bound)
        yield _metric(families.POOL_FAILURES, causes)
        yield _metric(families.POOL_GATE_CLOSED, closed)
        yield _metric(families.POOL_CACHE_TOKENS, tokens)

    def _weights(self) -> Iterator[Metric]:
        """How the weights of each pool stand."""
        syncs: dict[Labels, float] = {}
        seconds: dict[Labels, Histogram] = {}
        phases: dict[Labels, float] = {}
        skew: dict[Labels, float] = {}
        asleep: dict[Labels, float] = {}
        sleepers: dict[Labels, float] = {}
        now = steady()
        for key, meter in self._meters():
            if meter.weights is None:
                continue
            pool = (key.namespace, key.name)
            syncs |= {(*pool, result): meter.syncs[result] for result in ("committed", "aborted")}
            seconds[pool] = meter.sync_seconds
            phases[(*pool, meter.weights.transaction.phase.value)] = 1.0
            skew[pool] = meter.weights.skew
            asleep[pool] = meter.asleep_seconds(now)
            sleepers[pool] = meter.asleep()
        yield _histograms(families.POOL_SYNC_SECONDS, seconds)
        yield _metric(families.POOL_SYNCS, syncs)
        yield _metric(families.POOL_PHASE, phases)
        yield _metric(families.POOL_SKEW, skew)
        yield _metric(families.POOL_ASLEEP, asleep)
        yield _metric(families.POOL_SLEEPERS, sleepers)

    def _status(self, key: PoolKey) -> dict[str, Any]:
        record = self.control_loop.pools.get(key)
        return stored.understood(record.status) if record else {}


def _conditions(pool: Labels, status: Mapping[str, Any]) -> Iterator[Labels]:
    for condition in status.get("conditions", ()):
        told = (str(condition.get(key, "")) for key in ("type", "status", "reason"))
        yield (*pool, *map(_word, told))


def _cache_tokens(pool: Labels, status: Mapping[str, Any]) -> Iterator[tuple[Labels, float]]:
    memory = status.get("memory", {})
    for source in ("planned", "reported"):
        tokens = memory.get(source, {}).get("tokens")
        if tokens is not None:
            yield (*pool, source), float(tokens)


def _tasks() -> int:
    """The tasks of the loop in which this is asked; none outside of one."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0


def _word(reason: str) -> str:
    """A reason as a label's value: some come from kubelet, so they are bounded."""
    return (
        reason if reason.isascii() and reason.isalnum() and len(reason) <= MAX_REASON else "Other"
    )


def _metric(family: Family, values: Mapping[Any, float]) -> Metric:
    """One family; ``values`` by the values of its labels."""
    kind = GaugeMetricFamily if family.kind == families.GAUGE else CounterMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        metric.add_metric(labels, float(value))
    return metric


def _histogram(family: Family, labels: Labels, histogram: Histogram) -> Metric:
    return _histograms(family, {labels: histogram})


def _histograms(family: Family, values: Mapping[Labels, Histogram]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, histogram in values.items():
        metric.add_metric(labels, buckets=list(histogram.cumulative()), sum_value=histogram.sum)
    return metric
