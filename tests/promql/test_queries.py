"""Every query of the dashboards and alerts, asked of Prometheus' own engine.

The scrapes are of an operator and of engines that ran on a real node: a pool that lives through
syncs, sleep, requests and a crash, one with a bad key, and one without room.
"""

import dataclasses
import json
import math
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from sglang_operator.api import conditions
from sglang_operator.testing import ControlPlane, ports
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.pytest_plugin import require_real_node
from sglang_operator.testing.realnode import kitimages
from tests.builders import with_config
from tests.integration.pools import PoolUnderTest, engine_env
from tests.integration.test_real_pool import CONTROL_PORT, break_engine
from tests.promql import queries
from tests.promql.scrapes import Answer, Scrape, ask

READY_SECONDS = 90.0
VERSION = "0.5.23"  # has every metric that is asked for
IMAGE = f"kit.invalid/sglang:v{VERSION}"
TRAINER = """
import sys
from sglang_operator.client import Pool
name, namespace, kubeconfig, version = sys.argv[1:]
with Pool(name, namespace=namespace, kubeconfig=kubeconfig) as pool:
    with pool.sync(version) as sync:
        sync.update_weights_from_disk("/checkpoints/1")
    pool.sleep()
    pool.wake()
    with pool.sync(version + "-awake") as sync:
        sync.update_weights_from_disk("/checkpoints/1")
"""
PANELS = queries.panels()
ALERTS = dict(queries.alerts())
OPERATOR = {
    "job": "sglang-operator/sglang-operator",
    "namespace": "sglang-operator",
    "pod": "sglang-operator-0",
    "container": "operator",
    "endpoint": "metrics",
    "instance": "10.0.0.1:8081",
}


class Watched:
    """An operator and its pools, and what was scraped of them so far."""

    def __init__(self, plane: ControlPlane, address: str) -> None:
        self.plane, self.address = plane, address
        self.pool = PoolUnderTest(plane, plane.namespace(queries.NAMESPACE), queries.POOL)
        self.scrapes: list[Scrape] = []

    def scrape(self) -> None:
        """Everything that a PodMonitor of ours would find at this moment."""
        text = self._get(f"http://{self.address}/metrics")
        self._keep(OPERATOR, text, honor=True)
        for engine in self.engines():
            host = engine["url"].removeprefix("http://")
            labels = {
                "job": f"{self.pool.namespace}/sglang-engines",
                "namespace": self.pool.namespace,
                "pod": engine["pod"],
                "container": "engine",
                "endpoint": "http",
                "instance": host,
                "pool": self.pool.name,
                "engine": engine["engine"],
            }
            self._keep(labels, self._get(f"{engine['url']}/metrics"), honor=False)

    def _keep(self, labels: dict[str, str], text: str, *, honor: bool) -> None:
        self.scrapes.append(Scrape(at=time.time(), labels=labels, honor_labels=honor, text=text))

    def engines(self) -> list[dict[str, str]]:
        return [engine for engine in self.pool.registry()["engines"] if engine["url"]]

    def generate(self) -> None:
        """One request to each engine."""
        body = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 16}}
        for engine in self.engines():
            self._get(f"{engine['url']}/generate", body)

    def train(self, version: str) -> None:
        """Sync, sleep, wake and sync, by a trainer of its own."""
        arguments = [self.pool.name, self.pool.namespace, str(self.plane.kubeconfig), version]
        with self.plane.inside():
            subprocess.run([sys.executable, "-c", TRAINER, *arguments], check=True, timeout=90)

    def _get(self, url: str, body: object = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with self.plane.inside(), urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    require_real_node()
    address = f"127.0.0.1:{ports.free()}"
    with ControlPlane("1x8", kind="real") as plane:
        plane.load_image(kitimages.engine(VERSION))
        arguments = [f"--metrics-address={address}"]
        with InstalledOperator(plane, arguments=arguments, ask_engines=True):
            yield live(Watched(plane, address))


def live(watched: Watched) -> Watched:
    """The pools' lives, with a scrape after each thing."""
    plane, pool = watched.plane, watched.pool
    spec = with_config(enable_metrics=True, enable_memory_saver=True)
    fake = engine_env(CONTROL_PORT=CONTROL_PORT)
    more = {"image": IMAGE, "device_mapping": "list(range(0,4))", "podTemplate": fake}
    pool.apply(**{**spec, **more})
    pool.wait_ready(READY_SECONDS)
    pool.wait(lambda: len(watched.engines()) == 2, "addresses in the registry")
    watched.generate()
    watched.scrape()
    for name, changes in (
        ("wrong", with_config(mem_fraction_statik=0.7)),
        ("large", {"num_gpus_per_worker": 8, "device_mapping": "list(range(0,8))"}),
    ):
        PoolUnderTest(plane, pool.namespace, name).apply(**changes)
    PoolUnderTest(plane, pool.namespace, "wrong").wait_for(conditions.STALLED, "ArgumentUnknown")
    for step in (1, 2):
        watched.train(f"step-{step}")
        pool.wait(lambda: pool.status["syncedSummary"] == "2/2", "SYNCED 2/2")
        watched.generate()
        watched.scrape()
    crashed = pool.registry()["engines"][0]
    break_engine(pool, crashed, fault="crash")
    pool.wait(lambda: restarted(pool, crashed), "another engine in its place", READY_SECONDS)
    watched.generate()
    watched.scrape()
    return watched


def restarted(pool: PoolUnderTest, crashed: dict[str, str]) -> bool:
    """Whether another instance of this engine is up, and the registry says so."""
    first = pool.registry()["engines"][0]
    return first["instance"] not in (None, crashed["instance"]) and first["state"] == "Up"


@pytest.fixture(scope="module")
def answers(watched: Watched) -> dict[str, Answer]:
    asked = {f"{n} {where}": queries.filled(q) for n, (where, q) in enumerate(PANELS)}
    return ask(watched.scrapes, {**asked, **ALERTS})


@pytest.mark.parametrize("number", range(len(PANELS)), ids=[where for where, _ in PANELS])
def test_a_panel_shows_something(answers, number):
    where, query = PANELS[number]
    answer = answers[f"{number} {where}"]
    assert answer.error == ""
    assert answer.warnings == ()
    assert answer.series, query
    assert not any(math.isnan(value) for _, value in answer.series), query


# What the scenario is: a pool with a bad key, one without room, and one that was restarted and
# waits for its trainer.
FIRING = {
    "SGLangPoolStalled": [{"pool": "wrong"}],
    "SGLangPoolNotReady": [{"pool": "large"}, {"pool": "wrong"}],
    "SGLangPoolWaitsForGPUs": [{"pool": "large"}],
    "SGLangPoolGateClosed": [{"pool": "actor-infer"}],
}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_where_it_should_and_nowhere_else(answers, alert):
    answer = answers[alert]
    assert answer.error == ""
    assert answer.warnings == ()
    assert sorted(labels["pool"] for labels, _ in answer.series if "pool" in labels) == [
        each["pool"] for each in FIRING.get(alert, [])
    ]
    assert bool(answer.series) == (alert in FIRING)


# The others: the same scrapes with one thing changed in the last of a target.
CHANGED = {
    "SGLangOperatorAbsent": ("leader_election_master_status", lambda value: 0),
    "SGLangOperatorDefect": ("controller_runtime_reconcile_panics_total", lambda value: value + 1),
    "SGLangOperatorWatchSilent": ("sglang_operator_watch_age_seconds", lambda value: 181),
    "SGLangOperatorRefused": ("rest_client_requests_total", lambda value: value + 1000),
    "SGLangOperatorSlow": (
        r'workqueue_queue_duration_seconds_bucket{[^}]*le="\+Inf"[^}]*}',
        lambda value: value + 1000,
    ),
    "SGLangPoolEnginesFailing": (
        "sglang_operator_pool_engine_failures_total",
        lambda value: value + 3,
    ),
    "SGLangPoolVersionSkew": ("sglang_operator_pool_weight_skew", lambda value: 1),
    "SGLangEngineCacheFull": ("sglang:token_usage", lambda value: 0.99),
}


@pytest.mark.parametrize("alert", CHANGED)
def test_an_alert_fires_once_things_are_so(watched, alert):
    name, value = CHANGED[alert]
    about_engines = name.startswith("sglang:")
    scrapes = watched.scrapes
    last = max(i for i, s in enumerate(scrapes) if (s.labels is not OPERATOR) == about_engines)
    again = dataclasses.replace(scrapes[last], at=scrapes[-1].at + 30)
    unchanged = ask([*scrapes, again], {alert: ALERTS[alert]})[alert]
    different = [*scrapes, again.altered(name, value)]
    if alert == "SGLangOperatorRefused":  # what is answered well is refused
        different = [dataclasses.replace(s, text=refused(s.text)) for s in different]
    changed = ask(different, {alert: ALERTS[alert]})[alert]
    assert changed.error == unchanged.error == ""
    assert changed.series, ALERTS[alert]
    assert not unchanged.series


def refused(text: str) -> str:
    return text.replace('code="200"', 'code="403"')


def test_every_alert_is_seen_to_fire():
    assert {*FIRING, *CHANGED} == {*ALERTS}


# What any controller of controller-runtime tells, in names that ours has too.
SHARED = """\
leader_election_master_status{name="sglang-operator"} 1
rest_client_requests_total{code="403",method="GET",host="api"} %d
controller_runtime_reconcile_panics_total{controller="sglanginference"} %d
workqueue_queue_duration_seconds_bucket{name="sglanginference",le="1"} 0
workqueue_queue_duration_seconds_bucket{name="sglanginference",le="60"} %d
workqueue_queue_duration_seconds_bucket{name="sglanginference",le="+Inf"} %d
"""
OWN = 'sglang_operator_build_info{version="0.1.0"} 1\n'
ABOUT_THE_OPERATOR = {
    name: ALERTS[name]
    for name in ("SGLangOperatorDefect", "SGLangOperatorRefused", "SGLangOperatorSlow")
}


def _scraped(job: str, text: str) -> list[Scrape]:
    """A target every half minute, its counters growing fast."""
    labels = {"job": job, "instance": f"{job}:8081", "namespace": job, "pod": job}
    return [
        Scrape(at=1.8e9 + 30 * n, labels=labels, honor_labels=True, text=text % ((n * 1000,) * 4))
        for n in range(20)
    ]


def test_what_another_controller_tells_is_not_taken_for_ours():
    absent = {"SGLangOperatorAbsent": ALERTS["SGLangOperatorAbsent"]}
    of_another = ask(_scraped("another", SHARED), {**ABOUT_THE_OPERATOR, **absent})
    assert {name for name, answer in of_another.items() if answer.series} == {*absent}
    ours = ask(_scraped("ours", OWN + SHARED), {**ABOUT_THE_OPERATOR, **absent})
    assert {name for name, answer in ours.items() if answer.series} == {*ABOUT_THE_OPERATOR}
