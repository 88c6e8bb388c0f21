"""Two operators on one cluster: one writes, the other is warm and takes over."""

import datetime
import os
import signal
import time
from collections.abc import Iterator

import pytest

from sglang_operator.testing import AuditEvent, ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests import busy
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("3x8", operator=False)

READING = ("get", "list", "watch")


@pytest.fixture
def pair(plane: ControlPlane) -> Iterator[tuple[InstalledOperator, InstalledOperator]]:
    """The holder of the Lease, and its standby."""
    first = InstalledOperator(plane, name="operator-a")
    second = InstalledOperator(plane, name="operator-b")
    first.install()
    first.start()
    plane.wait(lambda: "holding the Lease" in first.log.read_text(), 20, "a holder")
    second.start()
    yield first, second
    for operator in (first, second):
        if operator.pid:
            operator.kill()
    plane.api.delete(
        "/apis/coordination.k8s.io/v1/namespaces/sglang-operator/leases/sglang-operator",
        missing_ok=True,
    )
    for operator in (first, second):
        operator.log.unlink(missing_ok=True)


@pytest.fixture
def pool(plane: ControlPlane) -> Iterator[PoolUnderTest]:
    namespace = plane.namespace(f"pair-{time.monotonic_ns()}")
    pool = PoolUnderTest(plane, namespace)
    yield pool
    plane.kubectl("delete", "namespace", namespace, "--wait=false")
    plane.kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force")


def holder(plane: ControlPlane) -> str:
    path = "/apis/coordination.k8s.io/v1/namespaces/sglang-operator/leases/sglang-operator"
    return str(plane.api.get(path)["spec"].get("holderIdentity", ""))


def writes(plane: ControlPlane, since: datetime.datetime) -> list[AuditEvent]:
    """What operators wrote, Lease apart."""
    user = "system:serviceaccount:sglang-operator:sglang-operator"
    events = plane.audit(user=user, since=since)
    return [e for e in events if e.verb not in READING and e.resource != "leases"]


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def test_with_two_operators_each_pod_is_created_once(plane, pair, pool):
    since = now()
    pool.apply()
    pool.wait_ready()
    created = [e for e in writes(plane, since) if e.verb == "create" and e.resource == "pods"]
    assert len(created) == 12
    assert {event.code for event in created} == {201}


def test_a_holder_that_is_told_to_end_hands_over_at_once(plane, pair, pool):
    first, _ = pair
    pool.apply(replicas=2)
    before = pool.wait_ready()
    was = holder(plane)
    first.stop()
    at_once = min(busy.late(5), 9.0)  # its term would last for ten seconds and more
    plane.wait(lambda: holder(plane) not in ("", was), at_once, "the standby to hold the Lease")
    pool.kubectl("delete", "pod", "actor-infer-g0-1-0", "--wait=false")
    pool.wait(
        lambda: pool.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod", busy.late(5)
    )
    assert pool.wait_ready()["g2-3"] == before["g2-3"]


def test_a_killed_holder_is_followed_when_its_term_is_over(plane, pair, pool):
    first, _ = pair
    pool.apply(replicas=2)
    before = pool.wait_ready()
    first.kill()
    pool.kubectl("delete", "pod", "actor-infer-g0-1-0", "--wait=false")
    pool.wait(lambda: pool.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod", 25)
    assert pool.wait_ready()["g2-3"] == before["g2-3"]


def test_a_holder_that_was_stopped_and_goes_on_writes_nothing_late(plane, pair, pool):
    first, second = pair
    pool.apply(replicas=2)
    before = pool.wait_ready()
    pid = first.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        plane.wait(lambda: "holding the Lease" in second.log.read_text(), 30, "the standby")
        pool.kubectl("delete", "pod", "actor-infer-g0-1-0", "--wait=false")
        pool.wait(lambda: pool.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod")
        pool.wait_ready()
        # On a machine under load it tells of the new engine seconds later.
        quiet = datetime.timedelta(seconds=4)
        plane.wait(lambda: not writes(plane, now() - quiet), 60, "the standby to be done")
        since = now()
    finally:
        os.kill(pid, signal.SIGCONT)
    # It finds its fence down, says so, and ends.
    plane.await_end(first.name, 30)
    assert "Lease" in first.log.read_text().splitlines()[-2] + first.log.read_text()[-500:]
    assert writes(plane, since) == []
    assert len(pool.pods()) == 2


def test_a_deleted_lease_is_made_again_and_nobody_ends(plane, pair, pool):
    first, second = pair
    path = "/apis/coordination.k8s.io/v1/namespaces/sglang-operator/leases/sglang-operator"
    was = holder(plane)
    plane.api.delete(path)
    plane.wait(lambda: plane.api.exists(path) and holder(plane), 20, "a new Lease")
    assert holder(plane) == was
    pool.apply(replicas=1)
    pool.wait_ready()
    assert first.pid is not None
    assert second.pid is not None
