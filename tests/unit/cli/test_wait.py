"""``wait``: what ends it, and what it says, over a cluster of the test's own."""

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator.cli import wait
from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import ClusterError
from tests.unit.cli import fake_kubectl
from tests.unit.cli.fake_kubectl import FakeCluster, cluster
from tests.unit.view.drawn_cluster import DrawnCluster, guide


def _wait(world: DrawnCluster, aim: str = "ready", seconds: float = 5, change=None):
    told: list[str] = []

    def sleep(_: float) -> None:
        if change:
            change()

    end = wait.wait(cluster(world), ["actor-infer"], aim, seconds, told.append, sleep)
    return end, told


def test_a_pool_that_is_ready_is_not_waited_for():
    end, told = _wait(guide())
    assert end.reached
    assert told[0].startswith("rl/actor-infer: READY 12/12 SYNCED 0/12 PoolReady")


def test_a_pool_becomes_ready_while_it_is_waited_for():
    world = DrawnCluster()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")
    ready = DrawnCluster()
    ready.pool()

    def change() -> None:
        world.pools[:] = ready.pools

    end, told = _wait(world, change=change)
    assert end.reached
    assert len(told) == 2


def test_a_stalled_pool_ends_the_wait_with_its_cause():
    world = DrawnCluster()
    world.pool(ready=False, reason="PodRejected", message="violates PodSecurity")
    for condition in world.pools[0]["status"]["conditions"]:
        if condition["type"] == "Reconciling":
            condition["type"] = "Stalled"
    end, _ = _wait(world)
    assert not end.reached
    assert end.lines[0].startswith(
        "rl/actor-infer: PodRejected: violates PodSecurity; kubectl edit"
    )


def test_what_only_a_human_can_make_ends_the_wait_once_it_has_been_missing(monkeypatch):
    world = DrawnCluster()
    message = "1 engine cannot start: there is no Secret hub; create it"
    world.pool(ready=False, reason="SecretMissing", message=message)
    end, _ = _wait(world, seconds=0)
    assert "not ready" in end.lines[0]
    monkeypatch.setattr(wait, "MISSING_SECONDS", 0.0)
    end, _ = _wait(world, seconds=60)
    assert not end.reached
    assert "SecretMissing: 1 engine cannot start: there is no Secret hub" in end.lines[0]


def test_a_wait_that_takes_too_long_says_how_far_it_came():
    world = DrawnCluster()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")
    end, _ = _wait(world, seconds=0)
    assert not end.reached
    assert end.lines[0] == "not ready after 0 s"
    assert "Creating: 3/12 engines are up" in end.lines[1]


def test_an_old_verdict_is_not_taken_for_the_present_spec():
    world = guide()
    world.pools[0]["metadata"]["generation"] = 2
    end, _ = _wait(world, seconds=0)
    assert not end.reached


def test_a_pool_that_is_gone_ends_the_wait():
    world = guide()
    end, _ = _wait(world, aim="deleted", change=lambda: world.pools.clear())
    assert end.reached
    end, _ = _wait(world)
    assert end.lines == ("actor-infer: there is no such pool, or it was deleted meanwhile",)


def test_a_wait_for_no_pool_at_all_has_not_reached_anything():
    end = wait.wait(cluster(DrawnCluster()), [], "ready", 5, print, lambda _: None)
    assert not end.reached
    assert end.lines[0].startswith("there is no SGLangInference in rl to wait for")
    assert wait.wait(cluster(DrawnCluster()), [], "deleted", 5, print, lambda _: None).reached


def test_a_suspended_pool_ends_the_wait_with_how_to_start_it():
    world = DrawnCluster()
    world.pool(ready=False, reason="Suspended", message="suspend is true")
    conditions = world.pools[0]["status"]["conditions"]
    conditions[1] |= {"type": "Suspended"}
    end, _ = _wait(world)
    assert not end.reached
    assert end.lines[0].startswith("rl/actor-infer: Suspended: suspend is true; kubectl patch sgi")


def test_a_wait_ends_when_no_operator_comes(monkeypatch):
    world = DrawnCluster()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")
    fake = cluster(world)
    object.__setattr__(fake, "led", False)
    monkeypatch.setattr(wait, "LEADERLESS_SECONDS", 0.0)
    end = wait.wait(fake, ["actor-infer"], "ready", 60, lambda _: None, lambda _: None)
    assert not end.reached
    assert end.lines[0].startswith("operator: nobody holds the Lease")
    assert end.lines[0].endswith("kubectl sglang doctor")


def _passing(monkeypatch) -> Callable[[float], None]:
    """A sleep by which the time of the wait passes, and by nothing else."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(wait, "time", clock)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return sleep


def _unfinished(monkeypatch, renewals) -> FakeCluster:
    """A pool on its way, and a Lease that was last renewed at these times."""
    world = DrawnCluster()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")

    def lease() -> Any:
        renewed = datetime.fromtimestamp(next(renewals), UTC).isoformat()
        spec = {"holderIdentity": "op-0", "renewTime": renewed}
        return {"metadata": {"namespace": "ops"}, "spec": spec}

    monkeypatch.setattr(fake_kubectl, "_lease", lease)
    return cluster(world)


def test_a_wait_ends_by_saying_which_operator_stopped(monkeypatch):
    fake = _unfinished(monkeypatch, itertools.repeat(time.time() - 40))
    monkeypatch.setattr(wait, "LEADERLESS_SECONDS", 0.0)
    end = wait.wait(fake, ["actor-infer"], "ready", 60, lambda _: None, lambda _: None)
    assert end.lines[0].startswith("operator: op-0 in ops, which held the Lease")
    assert "stopped 4" in end.lines[0]


def test_a_wait_ends_whatever_the_clock_of_an_operator_that_stopped_said(monkeypatch):
    fake = _unfinished(monkeypatch, itertools.repeat(time.time() + 4000))
    end = wait.wait(fake, ["actor-infer"], "ready", 60, lambda _: None, _passing(monkeypatch))
    assert end.lines[0].startswith("operator: op-0 in ops, which held the Lease")


def test_a_lease_that_is_renewed_by_another_clock_lets_the_wait_go_on(monkeypatch):
    fake = _unfinished(monkeypatch, itertools.count(time.time() - 4000))
    end = wait.wait(fake, ["actor-infer"], "ready", 60, lambda _: None, _passing(monkeypatch))
    assert "operator" not in end.lines[0]


def test_an_operator_that_comes_in_time_lets_the_wait_go_on():
    world = DrawnCluster()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")
    ready = DrawnCluster()
    ready.pool()
    fake = cluster(world)
    object.__setattr__(fake, "led", False)

    def sleep(_: float) -> None:
        world.pools[:] = ready.pools

    assert wait.wait(fake, ["actor-infer"], "ready", 60, lambda _: None, sleep).reached


def test_a_wait_for_weights_tells_of_the_sync_that_was_aborted():
    world = guide()
    aborted = {"type": "WeightsSynced", "status": "False", "reason": "SyncAborted"}
    aborted |= {"message": "a weight update was aborted: out of memory"}
    world.pools[0]["status"]["conditions"].append(aborted)
    end, told = _wait(world, aim="synced", seconds=0)
    assert not end.reached
    assert told[0].endswith("SyncAborted: a weight update was aborted: out of memory")


@pytest.mark.parametrize("pools", [[], ["actor-infer"]])
def test_without_the_definition_the_examination_is_pointed_to(pools):
    fake = cluster(DrawnCluster())
    object.__setattr__(fake, "defined", False)
    with pytest.raises(ClusterError, match="does not know SGLangInference; kubectl sglang doctor"):
        look.look(fake, pools)
    with pytest.raises(ClusterError, match="does not know SGLangInference"):
        wait.wait(fake, pools, "deleted", 5, print, lambda _: None)
