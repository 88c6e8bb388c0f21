"""Engines listen where their pods are reached, whatever family the cluster's addresses have."""

import dataclasses
from typing import Any

import msgspec
import pytest

from sglang_operator.__main__ import _parser, settings_from
from sglang_operator.children import engine_pod, services
from sglang_operator.controller import judging
from sglang_operator.observed.wire import CustomResource, Meta
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import reported
from tests import private_network
from tests.builders import OWNER, a_pool, all_pods, guide_spec, weighed


def judged(pod_address: str, **changes: Any) -> Pool:
    """The guide's pool by an operator whose pod has this address."""
    settings = settings_from(_parser().parse_args([f"--pod-address={pod_address}"]))
    record = CustomResource(
        metadata=Meta(name="actor-infer", namespace="rl", uid="u"),
        written=msgspec.Raw(msgspec.json.encode(guide_spec(**changes))),
    )
    pool = judging.judge(OWNER, record, None, settings.engine_host)
    assert isinstance(pool, Pool)
    return pool


def host(pool: Pool) -> str:
    (container,) = engine_pod.template(pool)["spec"]["containers"]
    (flag,) = (item for item in container["args"] if item.startswith("--host="))
    return str(flag.removeprefix("--host="))


@pytest.mark.parametrize(
    ("address", "listens"), [("", "0.0.0.0"), ("10.0.0.7", "0.0.0.0"), ("fd00:10::7", "::")]
)
def test_engines_listen_on_the_family_of_the_operators_own_address(address, listens):
    assert host(judged(address)) == listens


def test_the_family_restarts_no_engine():
    """It is the cluster's and not the spec's: no part of a revision, so none of an upgrade."""
    assert judged("fd00::7").revision == judged("10.0.0.7").revision == a_pool().revision


def test_the_operators_address_comes_from_its_pod(monkeypatch):
    monkeypatch.setenv("POD_IP", "fd00::7")
    assert settings_from(_parser().parse_args([])).engine_host == "::"


def test_a_service_takes_the_family_that_the_cluster_has_first():
    """As the pods' first address has it; nothing is said, so nothing of an old one changes."""
    pool = dataclasses.replace(a_pool(), host="::")
    for made in (
        services.client_service(pool.owner, 30000),
        services.engines_service(pool.owner, 30000),
    ):
        assert not made["spec"].keys() & {"ipFamilies", "ipFamilyPolicy"}


ASKED = """
import urllib.request
from sglang_operator.testing.engine.process import FakeEngine

quick = dict(load_seconds=0.0, warm_up_seconds=0.0, drain_poll_seconds=0.05)
with FakeEngine(["--host={host}", "--load-format=dummy"], **quick) as engine:
    engine.wait_ready()
    port = engine.url.rpartition(":")[2]
    print(urllib.request.urlopen(f"http://{client}:{{port}}/ping", timeout=10).status)
"""


@pytest.mark.skipif(bool(private_network.lacking()), reason=private_network.lacking() or "-")
@pytest.mark.parametrize(("address", "client"), [("fd00::7", "[::1]"), ("10.0.0.7", "127.0.0.1")])
def test_an_engine_answers_on_its_pods_family(address, client):
    asked = ASKED.format(host=host(judged(address)), client=client)
    assert private_network.run(asked) == "200\n"


# --- trainers that compare an engine's host with the address that they were given


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00:10::7"])
def test_engines_may_listen_on_the_address_of_their_pod_alone(address):
    pool = judged(address, network={"listenOnPodIP": True})
    (container,) = engine_pod.template(pool)["spec"]["containers"]
    assert host(pool) == "$(SGLANG_OPERATOR_POD_IP)"
    (variable,) = (each for each in container["env"] if each["name"] == "SGLANG_OPERATOR_POD_IP")
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_that_is_asked_for_and_restarts_them():
    asked = a_pool(network={"listenOnPodIP": True})
    assert asked.revision != a_pool().revision
    assert a_pool(network={"listenOnPodIP": False}).revision == a_pool().revision
    assert "SGLANG_OPERATOR_POD_IP" not in str(engine_pod.template(a_pool()))


def test_its_family_is_never_odd():
    pool = judged("10.0.0.7", network={"listenOnPodIP": True})
    plan = weighed(pool, [dataclasses.replace(pod, ip="fd00::7") for pod in all_pods(pool)])
    assert not list(reported.warnings(pool, {}, plan.engines))
    other = judged("10.0.0.7")
    assert list(reported.warnings(other, {}, plan.engines))
