"""What is seen of the operator from outside: metrics, logs, Events, and kubectl sglang."""

import json
import os
import subprocess
import sys
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sglang_operator.api import names
from sglang_operator.controller import families
from sglang_operator.testing import ControlPlane, ports
from sglang_operator.testing.installed import InstalledOperator
from tests.integration.pools import PoolUnderTest
from tests.unit.manifests import test_monitoring as queries

# The operator has an address for its metrics.
pytestmark = pytest.mark.plane("3x8", operator=False)

# Words that must be seen nowhere but in pods: each is planted in another place of a spec.
CANARIES = {"env": "canary-in-system-envs", "template": "canary-in-pod-template"}


@pytest.fixture(scope="module")
def address() -> str:
    return f"127.0.0.1:{ports.free()}"


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, address: str) -> Iterator[InstalledOperator]:
    arguments = [f"--metrics-address={address}", "--log-format=json", "--log-level=debug"]
    with InstalledOperator(plane, arguments=arguments) as operator:
        yield operator


@pytest.fixture(scope="module")
def pool(plane: ControlPlane, operator: InstalledOperator) -> PoolUnderTest:
    """The guide's pool after one engine crashed, with secrets in its spec."""
    pool = PoolUnderTest(plane, plane.namespace("seen"))
    container = {"name": "engine", "env": [{"name": "API_TOKEN", "value": CANARIES["template"]}]}
    pool.apply(
        system_envs={"HF_TOKEN": CANARIES["env"]},
        podTemplate={"spec": {"containers": [container]}},
    )
    before = pool.wait_ready(60)
    pool.break_pod("actor-infer-g0-1-0")
    pool.wait(lambda: pool.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod")
    pool.wait_ready(60)
    pool.wait(lambda: pool.status.get("lastFailures"), "the failure to be told")
    return pool


def _scrape(address: str) -> dict[str, list[Any]]:
    """Samples by the name of the series."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def test_what_dashboards_and_alerts_ask_for_is_in_a_scrape(pool, address):
    scraped = _scrape(address)
    for where, query in queries.QUERIES:
        for name, matchers in queries._selectors(queries._parsed(query)):
            if name.startswith("sglang:"):
                continue  # of the engines themselves
            assert name in scraped, f"{where}: {name}"
            labels = set(scraped[name][0].labels) | queries.TARGET
            assert {matcher.name for matcher in matchers} <= labels, where


def test_every_family_of_the_table_is_in_a_scrape(pool, address):
    scraped = _scrape(address)
    for family in families.families():
        name = f"{family.name}_count" if family.kind == families.HISTOGRAM else family.name
        assert name in scraped, name
        assert {*family.labels} == {*scraped[name][0].labels}


def test_a_crash_is_counted_under_its_cause(pool, address):
    failures = _scrape(address)["sglang_operator_pool_engine_failures_total"]
    assert {sample.labels["cause"]: sample.value for sample in failures} == {"EngineKilled": 1}


def test_series_go_with_their_pool(plane, operator, address):
    second = PoolUnderTest(plane, plane.namespace("gone"))
    second.apply(replicas=0)
    second.wait_ready(60)

    def told() -> bool:
        wanted = _scrape(address).get("sglang_operator_pool_gpus_wanted", [])
        return any(sample.labels["namespace"] == "gone" for sample in wanted)

    plane.wait(told, 20, "the pool's series")
    second.delete()
    plane.wait(lambda: not told(), 20, "the pool's series to go")


def test_every_log_line_is_json_and_names_its_pool(pool, operator):
    lines = [json.loads(line) for line in operator.log.read_text().splitlines()]
    assert all({"ts", "level", "logger", "msg"} <= {*line} for line in lines)
    about = [line for line in lines if line.get("namespace") == "seen"]
    uid = pool.object()["metadata"]["uid"]
    assert about
    assert {(line["name"], line["uid"]) for line in about} == {("actor-infer", uid)}
    assert {line["generation"] for line in about} == {1}


def test_no_secret_is_seen_anywhere_but_in_the_pods(plane, pool, operator, address):
    account = plane.service_account_kubeconfig("sglang-operator", "sglang-operator")
    bearer = yaml.safe_load(account.read_text())["users"][0]["user"]["token"]
    base = f"/api/v1/namespaces/{pool.namespace}"
    shown = {
        "log": operator.log.read_text(),
        "metrics": json.dumps(_scrape(address)),
        "events": json.dumps(plane.api.get(f"{base}/events")),
        "registry": json.dumps(plane.api.get(f"{base}/configmaps")),
        "status": json.dumps(pool.status),
        "kubectl sglang status": _sglang(plane, "status", "-n", "seen", "-o", "yaml").stdout,
        "kubectl sglang map": _sglang(plane, "map", "-n", "seen", "-o", "json").stdout,
    }
    for where, text in shown.items():
        for secret in (*CANARIES.values(), bearer):
            assert secret not in text, where
    assert CANARIES["env"] in json.dumps(pool.pods())  # it was planted


# --- kubectl sglang


def _sglang(plane: ControlPlane, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "KUBECONFIG": str(plane.kubeconfig),
        "KUBECTL": str(plane.tools / "kubectl"),
    }
    return subprocess.run(
        [sys.executable, "-m", "sglang_operator.cli.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_status_says_that_all_is_well(plane, pool):
    shown = _sglang(plane, "status", "actor-infer", "-n", "seen")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("✔ seen/actor-infer: Ready")
    assert "EngineKilled: engines g0-1 ended" in shown.stdout
    lease = plane.api.get(
        "/apis/coordination.k8s.io/v1/namespaces/sglang-operator/leases/sglang-operator"
    )
    holder = lease["spec"]["holderIdentity"]
    assert f"operator: {holder} in sglang-operator, renewed " in shown.stdout


def test_the_map_shows_every_gpu_of_every_node(plane, pool):
    shown = _sglang(plane, "map", "-n", "seen", "-o", "svg")
    assert shown.returncode == 0, shown.stderr
    root = ElementTree.fromstring(shown.stdout)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("A") == texts.count("L") == 2
    assert {f"gpu-node-{n}" for n in range(3)} <= {*texts}


def test_a_rollout_is_held_let_go_and_started_anew(plane, pool):
    before = pool.uids()
    assert _sglang(plane, "rollout", "pause", "actor-infer", "-n", "seen").returncode == 0
    restarted = _sglang(plane, "rollout", "restart", "actor-infer", "-n", "seen")
    assert restarted.returncode == 0, restarted.stderr
    pool.wait(pool.is_current, "the new spec seen")
    held = _sglang(plane, "rollout", "status", "actor-infer", "-n", "seen")
    assert held.returncode == 1
    assert held.stdout.startswith("0/12 engines run revision")
    assert "rollout.paused" in held.stdout
    assert pool.uids() == before
    assert _sglang(plane, "rollout", "resume", "actor-infer", "-n", "seen").returncode == 0
    waited = _sglang(plane, "wait", "actor-infer", "-n", "seen", "--timeout", "90s")
    assert waited.returncode == 0, waited.stderr

    def all_new() -> bool:
        return not {*pool.uids().values()} & {*before.values()} and pool.is_ready()

    pool.wait(all_new, "every engine replaced", 60)
    assert _sglang(plane, "rollout", "status", "actor-infer", "-n", "seen").returncode == 0


def test_a_wait_for_what_cannot_be_ends_with_the_cause(plane, operator):
    wrong = PoolUnderTest(plane, plane.namespace("wrong"))
    config = {"mem_fraction_statik": 0.7}  # what only the operator can judge
    wrong.apply(strategy_args={"strategy_name": "sglang", "strategy_config": config})
    waited = _sglang(plane, "wait", "-n", "wrong", "--timeout", "60s")
    assert waited.returncode == 1
    assert "wrong/actor-infer:" in waited.stderr
    assert "kubectl edit sgi actor-infer -n wrong" in waited.stderr
    shown = _sglang(plane, "status", "-n", "wrong")
    assert shown.returncode == 1
    assert shown.stdout.startswith("✘ wrong/actor-infer")


def test_doctor_finds_this_cluster_fit_and_an_empty_one_not(plane, operator):
    examined = _sglang(plane, "doctor", "-n", "seen", "-o", "json")
    assert examined.returncode == 0, examined.stdout
    grades = {check["name"]: check["grade"] for check in json.loads(examined.stdout)["checks"]}
    assert grades["operator"] == grades["GPUs"] == grades["resource definition"] == "good"


def test_a_forbidden_cluster_is_told_in_words(plane, operator):
    account = plane.service_account_kubeconfig("seen", "default")
    shown = _sglang(plane, "status", "-n", "seen", "--kubeconfig", str(account))
    assert shown.returncode == 2
    assert f"{names.PLURAL}.{names.GROUP} is forbidden" in shown.stderr
