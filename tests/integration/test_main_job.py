"""The guide's example end to end, as its user sees it, and what it costs when nothing happens."""

import datetime
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from sglang_operator.clocks import steady
from sglang_operator.kube.leader_election import Terms
from sglang_operator.testing import AuditEvent, ControlPlane
from sglang_operator.testing.errors import PlaneError
from sglang_operator.testing.installed import InstalledOperator, manifests
from tests import gitops
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.each_kubernetes

GUIDE = manifests() / "samples" / "roll-guide.yaml"
IDLE_SECONDS = 60

# The age is cut out: it is the one column that is never the same.
WIDE = """\
NAME          READY   SYNCED   REASON      AGE   MODEL                     GPUS   PER-ENGINE   \
PLACEMENT   IMAGE                    MESSAGE
actor-infer   12/12   0/12     PoolReady   -     Qwen/Qwen3-30B-A3B-Base   24     2            \
Count       lmsysorg/sglang:v0.5.7   12/12 engines of 2 GPUs are up; a trainer can attach
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A plane of its own: its API server is killed, and its audit log is to hold only this."""
    with ControlPlane("3x8") as plane:
        yield plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane) -> Iterator[InstalledOperator]:
    with InstalledOperator(plane) as operator:
        yield operator


@pytest.fixture(scope="module")
def guide(plane: ControlPlane, operator: InstalledOperator) -> PoolUnderTest:
    plane.kubectl("apply", "-f", str(GUIDE))
    plane.kubectl("wait", "--for=condition=Ready", "sgi/actor-infer", "--timeout=60s")
    return PoolUnderTest(plane, "default")


def test_each_engine_has_two_gpus_on_one_node(guide, plane):
    pods = guide.pods()
    assert len(pods) == 12
    on_node = Counter(pod["spec"]["nodeName"] for pod in pods)
    assert on_node == {"gpu-node-0": 4, "gpu-node-1": 4, "gpu-node-2": 4}


def test_kubectl_shows_the_pool_in_one_line(guide):
    shown = guide.kubectl("get", "sgi", "-o", "wide")
    assert re.sub(r"(PoolReady   )\S+ +", r"\1-     ", shown) == WIDE


def test_kubectl_diff_finds_no_drift(guide, plane):
    assert plane.kubectl("diff", "-f", str(GUIDE), check=False).returncode == 0


def test_gitops_tools_read_the_live_object_as_current(guide):
    found = guide.object()
    assert gitops.kstatus(found) == "Current"
    assert list(gitops.flux_complaints(found)) == []


def test_the_registry_tells_a_trainer_where_every_engine_is(guide):
    guide.wait(lambda: all(e["url"] for e in guide.registry()["engines"]), "addresses")
    registry = guide.registry()
    assert registry["worldSize"] == 25
    assert [engine["rankOffset"] for engine in registry["engines"]] == [
        1 + 2 * i for i in range(12)
    ]
    by_name = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in guide.pods()}
    assert {engine["pod"]: engine["podIP"] for engine in registry["engines"]} == by_name


def test_clients_reach_no_engine_before_a_trainer_committed_weights(guide, plane):
    slices = plane.api.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")["items"]
    ready = [
        endpoint
        for item in slices
        if item["metadata"]["labels"].get("kubernetes.io/service-name") == "actor-infer"
        for endpoint in item.get("endpoints") or []
        if endpoint["conditions"]["ready"]
    ]
    assert ready == []


def test_the_pool_says_what_it_ignores_and_warns_of(guide):
    status = guide.status
    assert status["ignoredFields"] == ["data_args"]
    assert [warning["reason"] for warning in status["warnings"]] == ["InferBatchSizeIgnored"]


def test_an_idle_pool_costs_no_request_and_kopf_only_ever_reads(guide, plane, operator):
    guide.wait(lambda: guide.is_ready(), "Ready")
    _let_settle(plane, operator)
    since = datetime.datetime.now(datetime.UTC)
    deadline = since + datetime.timedelta(seconds=IDLE_SECONDS)
    plane.wait(
        lambda: datetime.datetime.now(datetime.UTC) >= deadline, IDLE_SECONDS + 5, "an idle minute"
    )
    requests = _requests(plane, operator)
    idle = [event for event in requests if event.timestamp >= since]
    assert [(event.verb, event.uri) for event in idle] == []
    kopf = [event for event in requests if event.user_agent.startswith("kopf")]
    assert {event.verb for event in kopf} <= {"get", "list", "watch"}
    assert kopf, "kopf was there"


def _requests(
    plane: ControlPlane, operator: InstalledOperator, since: datetime.datetime | None = None
) -> list[AuditEvent]:
    """What the operator asked of the API server, the renewals of its own Lease apart."""
    events = plane.audit(user=operator.user, since=since)
    return [event for event in events if event.resource != "leases"]


def _let_settle(plane: ControlPlane, operator: InstalledOperator) -> None:
    """Return when the operator has asked nothing for two seconds."""

    def quiet() -> bool:
        last = max(event.timestamp for event in _requests(plane, operator))
        return datetime.datetime.now(datetime.UTC) - last > datetime.timedelta(seconds=2)

    plane.wait(quiet, 30, "the operator to come to rest")


def test_no_request_of_the_operator_was_forbidden(guide, plane, operator):
    refused = [event for event in plane.audit(user=operator.user) if event.code in (401, 403)]
    assert refused == []


def test_a_restarted_operator_touches_nothing(guide, operator, plane):
    before = guide.uids()
    operator.stop()
    since = datetime.datetime.now(datetime.UTC)
    operator.start()
    _let_settle(plane, operator)
    writes = [
        (event.verb, event.resource, event.name)
        for event in _requests(plane, operator, since)
        if event.verb not in ("get", "list", "watch")
    ]
    assert writes == []
    assert guide.uids() == before


def test_a_killed_operator_leaves_the_engines_running_and_goes_on_where_it_was(guide, operator):
    before = guide.uids()
    operator.kill()
    guide.kubectl("delete", "pod", "actor-infer-g0-1-0")
    operator.start()
    guide.wait(lambda: guide.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod")
    after = guide.wait_ready()
    assert {e: u for e, u in after.items() if e != "g0-1"} == {
        e: u for e, u in before.items() if e != "g0-1"
    }


def test_explain_reads_like_documentation(plane, operator):
    told = plane.kubectl("explain", "sgi.spec.device_mapping").stdout
    words = " ".join(told.split())
    assert "list(range(0,24))" in words
    assert "num_gpus_per_worker" in words
    assert len(words) > 600


def test_an_api_server_that_restarts_costs_no_engine_and_no_operator(guide, operator, plane):
    before, process = guide.uids(), operator.pid
    begun = steady()
    plane.stop_component("kube-apiserver")
    try:
        plane.start_component("kube-apiserver")
    except PlaneError:
        # On a machine under load it may be away for longer than a holder counts on its Lease: the
        # operator's process ends then, and kubelet starts another, which waits for the server.
        # It counts from its last renewal, which was some seconds before.
        if operator.pid is not None or steady() - begun < Terms().deadline / 2:
            raise
        plane.await_end(operator.name, 1)
        plane.wait(operator.is_permitted, 60, "the API server")
        operator.start()
        process = operator.pid
    guide.kubectl("delete", "pod", "actor-infer-g2-3-0")
    guide.wait(lambda: guide.uids().get("g2-3") not in (None, before["g2-3"]), "a new pod", 60)
    after = guide.wait_ready()
    assert {e: u for e, u in after.items() if e != "g2-3"} == {
        e: u for e, u in before.items() if e != "g2-3"
    }
    assert operator.pid == process
