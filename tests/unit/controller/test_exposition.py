"""The text that Prometheus reads: the table of families, and the loop behind it."""

import re
from typing import Any

import pytest
from prometheus_client.core import Metric

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import families
from sglang_operator.controller.exposition import MetricsReader
from sglang_operator.controller.loop import ControlLoop
from sglang_operator.controller.meters import PoolMeter
from sglang_operator.controller.settings import Settings
from sglang_operator.gates.decide import GatePlan
from sglang_operator.kube.credentials import Credentials
from sglang_operator.observed.wire import CustomResource, Meta
from sglang_operator.weights.lease_state import Transaction
from tests.builders import NOW, OWNER, a_pool, all_pods, an_ended_pod, planned

KEY = PoolKey(OWNER.namespace, OWNER.name)


class Passes:
    """A reconciler that knows one pool."""

    def __init__(self, meters: dict[PoolKey, PoolMeter]) -> None:
        self.window_size = 16
        self.events_told = {"posted": 3}
        self._meters = meters

    def meters(self):
        return iter(self._meters.items())


def a_room(*, leading: bool = True, conditions: list[dict[str, Any]] | None = None) -> ControlLoop:
    nobody = Credentials(
        server="http://10.0.0.1:443", namespace="rl", tls=None, authorization=lambda: None
    )
    room = ControlLoop(nobody, Settings())
    pool = a_pool()
    meter = PoolMeter()
    pods = [*all_pods(pool)[:11], an_ended_pod(pool, pool.engines[11])]
    meter.planned(pool, planned(pool, pods), NOW)
    meter.weighed(GatePlan(engines=meter.engines, transaction=Transaction()), NOW)
    room.reconciler = Passes({KEY: meter})  # type: ignore[assignment]
    room.dispatching = leading
    status = {
        "conditions": conditions or [],
        "resolved": {"engineVersion": "0.5.7", "gate": "Committed"},
        "placement": "Count",
    }
    meta = Meta(name=KEY.name, namespace=KEY.namespace, uid="u", resource_version="5")
    room.pools.put(CustomResource(metadata=meta, status=status))
    room.client.requests["WATCH", 200] = 2
    room.client.requests["GET", 200] = 3
    room.client.requests["POST", 0] = 1
    return room


def _read(room: ControlLoop) -> dict[str, Metric]:
    return {metric.name: metric for metric in MetricsReader(room, lambda: 1).collect()}


def _samples(metric: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in metric.samples}


def test_every_metric_is_in_the_table_and_every_row_of_the_table_is_told():
    read = {
        f"{name}_total" if metric.type == "counter" else name: metric
        for name, metric in _read(a_room()).items()
    }
    table = {family.name: family for family in families.families()}
    told_elsewhere = {families.LEADER.name}  # only with an election
    assert {*read} == {*table} - told_elsewhere
    for name, metric in read.items():
        assert metric.type == table[name].kind
        assert metric.documentation == table[name].help


@pytest.mark.parametrize("family", families.families(), ids=lambda family: family.name)
def test_names_follow_prometheus(family):
    assert re.fullmatch(r"[a-z_]+", family.name)
    assert family.name.endswith("_total") == (family.kind == families.COUNTER)
    assert family.help.endswith(".")


def test_a_pool_is_told_by_state_gpus_and_causes():
    read = _read(a_room())
    engines = _samples(read["sglang_operator_pool_engines"])
    assert engines[*KEY, "Up"] == 11
    assert sum(engines.values()) == 12
    assert _samples(read["sglang_operator_pool_gpus_wanted"]) == {(*KEY,): 24}
    assert _samples(read["sglang_operator_pool_gpus_bound"]) == {(*KEY,): 22}
    failures = _samples(read["sglang_operator_pool_engine_failures"])
    assert failures == {(*KEY, "EngineKilled"): 1}


def test_a_watch_counts_as_a_get_and_no_answer_as_an_error():
    requests = _samples(_read(a_room())["rest_client_requests"])
    assert requests == {
        ("200", "GET", "10.0.0.1:443"): 5,
        ("<error>", "POST", "10.0.0.1:443"): 1,
    }


def test_a_standby_tells_of_no_pools():
    read = _read(a_room(leading=False))
    assert not any(m.samples for name, m in read.items() if "_pool_" in name)
    assert read["rest_client_requests"].samples


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("PoolReady", "PoolReady"),
        ("x" * 65, "Other"),
        ('evil"} 1\nx', "Other"),
        ("", "Other"),
    ],
)
def test_reasons_are_bounded(reason, label):
    told = [{"type": "Ready", "status": "True", "reason": reason}]
    conditions = _samples(_read(a_room(conditions=told))["sglang_operator_pool_condition"])
    assert conditions == {(*KEY, "Ready", "True", label): 1}


def test_planned_and_reported_tokens_are_two_series_of_one_metric():
    room = a_room()
    record = room.pools.get(KEY)
    assert record is not None
    held = {"planned": {"tokens": 700_000}, "reported": {"tokens": 699_117}}
    meta = Meta(name=KEY.name, namespace=KEY.namespace, uid="u", resource_version="6")
    room.pools.put(CustomResource(metadata=meta, status={**record.status, "memory": held}))
    tokens = _samples(_read(room)["sglang_operator_pool_cache_tokens"])
    pool = (KEY.namespace, KEY.name)
    assert tokens == {(*pool, "planned"): 700_000, (*pool, "reported"): 699_117}
