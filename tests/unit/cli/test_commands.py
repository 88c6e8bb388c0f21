"""wait, logs, rollout: what they say and write, over a cluster of the test's own."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from sglang_operator.cli import logs, main, options, rollout, status, wait
from sglang_operator.cli.cluster import look, operator_leases
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from tests.builders import NOW
from tests.golden import pictures
from tests.unit.cli import fake_kubectl
from tests.unit.cli.fake_kubectl import FakeCluster, cluster
from tests.unit.picture.world import World, guide, trouble

T = "2027-01-15T08:00:0"


def _pool(fake: FakeCluster, name: str = "actor-infer"):
    return look.look(fake, [name], nodes=False).pools[0]


def _wait(world: World, aim: str = "ready", seconds: float = 5, change=None):
    told: list[str] = []

    def sleep(_: float) -> None:
        if change:
            change()

    end = wait.wait(cluster(world), ["actor-infer"], aim, seconds, told.append, sleep)
    return end, told


# --- status


def _shown(*items: Any, now: float = NOW) -> str:
    found = operator_leases.holders(json.dumps({"items": items}).encode(), now)
    return pictures.plain(status.render(guide().scene(holders=found), now, detail=False))


def test_who_acts_for_pools_is_told():
    spec = {"holderIdentity": "op-0_1", "renewTime": f"{T}0.000000Z"}
    lease = {"metadata": {"namespace": "sys"}, "spec": spec}
    renewed = datetime.fromisoformat(spec["renewTime"]).timestamp()
    assert "operator: op-0_1 in sys, renewed 3s ago\n" in _shown(lease, now=renewed + 3)
    assert "op-0_1 in sys, renewed 14s ago" in _shown(lease, now=renewed + 14)
    stopped = (
        "✘ operator: op-0_1 in sys, which held the Lease sglang-operator, stopped 15s ago, and"
    )
    assert stopped in _shown(lease, now=renewed + 15)
    longer = {**lease, "spec": {**spec, "leaseDurationSeconds": 30}}
    assert "renewed 29s ago" in _shown(longer, now=renewed + 29)
    nobody = "✘ operator: nobody holds the Lease sglang-operator"
    assert nobody in _shown({**lease, "spec": {**spec, "holderIdentity": ""}}, now=renewed)
    assert "kubectl sglang doctor" in _shown()


def test_a_lease_that_may_not_be_read_says_nothing_of_the_operator():
    shown = pictures.plain(status.render(guide().scene(), NOW, detail=False))
    assert "operator:" not in shown


# --- wait


def test_a_pool_that_is_ready_is_not_waited_for():
    end, told = _wait(guide())
    assert end.reached
    assert told[0].startswith("rl/actor-infer: READY 12/12 SYNCED 0/12 PoolReady")


def test_a_pool_becomes_ready_while_it_is_waited_for():
    world = World()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")
    ready = World()
    ready.pool()

    def change() -> None:
        world.pools[:] = ready.pools

    end, told = _wait(world, change=change)
    assert end.reached
    assert len(told) == 2


def test_a_stalled_pool_ends_the_wait_with_its_cause():
    world = World()
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
    world = World()
    message = "1 engine cannot start: there is no Secret hub; create it"
    world.pool(ready=False, reason="SecretMissing", message=message)
    end, _ = _wait(world, seconds=0)
    assert "not ready" in end.lines[0]
    monkeypatch.setattr(wait, "MISSING_SECONDS", 0.0)
    end, _ = _wait(world, seconds=60)
    assert not end.reached
    assert "SecretMissing: 1 engine cannot start: there is no Secret hub" in end.lines[0]


def test_a_wait_that_takes_too_long_says_how_far_it_came():
    world = World()
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
    end = wait.wait(cluster(World()), [], "ready", 5, print, lambda _: None)
    assert not end.reached
    assert end.lines[0].startswith("there is no SGLangInference in rl to wait for")
    assert wait.wait(cluster(World()), [], "deleted", 5, print, lambda _: None).reached


def test_a_suspended_pool_ends_the_wait_with_how_to_start_it():
    world = World()
    world.pool(ready=False, reason="Suspended", message="suspend is true")
    conditions = world.pools[0]["status"]["conditions"]
    conditions[1] |= {"type": "Suspended"}
    end, _ = _wait(world)
    assert not end.reached
    assert end.lines[0].startswith("rl/actor-infer: Suspended: suspend is true; kubectl patch sgi")


def test_a_wait_ends_when_no_operator_comes(monkeypatch):
    world = World()
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
    world = World()
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
    world = World()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")
    ready = World()
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
    fake = cluster(World())
    object.__setattr__(fake, "defined", False)
    with pytest.raises(ClusterError, match="does not know SGLangInference; kubectl sglang doctor"):
        look.look(fake, pools)
    with pytest.raises(ClusterError, match="does not know SGLangInference"):
        wait.wait(fake, pools, "deleted", 5, print, lambda _: None)


# --- logs


def test_lines_of_all_engines_stand_in_the_order_of_their_times():
    fake = cluster(guide())
    fake.logs |= {  # type: ignore[attr-defined]
        "actor-infer-g0-1-0": f"{T}1Z one\n{T}4Z four\n  more of four\n".encode(),
        "actor-infer-g2-3-0": f"{T}2Z two\n{T}3Z three\x1b[31m\n".encode(),
    }
    pool = _pool(fake)
    wanted = logs.Wanted(engines=("g0-1", "g2-3"))
    lines = list(logs.merged(fake, pool, logs.select(pool, wanted), wanted))
    assert lines == [
        "g0-1 | one",
        "g2-3 | two",
        "g2-3 | three [31m",
        "g0-1 | four",
        "g0-1 |   more of four",
    ]


def test_an_engine_without_a_log_says_why_and_hides_no_other():
    fake = cluster(guide())
    pool = _pool(fake)
    wanted = logs.Wanted()
    lines = list(logs.merged(fake, pool, logs.select(pool, wanted), wanted))
    assert lines[0] == "g0-1   | (no log: no such host)"
    assert len(lines) == 12


def test_what_failed_comes_with_its_cause_and_its_last_lines():
    fake = cluster(trouble())
    fake.logs["actor-infer-g14-15-0"] = f"{T}1Z out of memory\n".encode()  # type: ignore[attr-defined]
    pool = _pool(fake)
    told = list(logs.last_failures(pool))
    assert told[0].startswith("✘ 2027-01-15T08:00:00Z KVCacheTooSmall on g14-15")
    assert told[-1] == "  → raise mem_fraction_static above 0.002 (now 0.001)"
    wanted = logs.Wanted()
    failed = list(logs.failed(fake, pool, logs.select(pool, wanted), wanted))
    assert failed == ["--- actor-infer-g14-15-0 ended", f"{T}1Z out of memory"]


def test_an_engine_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ClusterError, match="there is no pod of engine g9; there are g0-1, g10-11"):
        logs.select(_pool(cluster(guide())), logs.Wanted(engines=("g9",)))


@pytest.mark.parametrize(("text", "found"), [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200)])
def test_times_are_read(text, found):
    assert options.duration(text) == found


@pytest.mark.parametrize("text", ["", "s", "1d", "-5", "1.5h", "9" * 20])
def test_what_is_no_time_is_told(text):
    with pytest.raises(ValueError, match="expected a time such as 90s"):
        options.duration(text)


# --- rollout


def test_a_rollout_tells_how_far_it_is():
    world = guide()
    for pod in world.pods[:3]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "older"
    pool = _pool(cluster(world))
    assert next(iter(rollout.status(pool))).startswith("9/12 engines run revision")
    assert not rollout.complete(pool)
    history = list(rollout.history(pool))
    assert [line.split()[1] for line in history[:2]] in (["9", "3"], ["3", "9"])
    assert rollout.complete(_pool(cluster(guide())))


def test_a_rollout_whose_first_engine_does_not_start_says_so_and_why():
    world = guide()
    for pod in world.pods[1:]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "older"
    world.starting("actor-infer", "g0-1")
    assert list(rollout.status(_pool(cluster(world))))[1].startswith("the others follow")
    waiting = {"reason": "ErrImagePull", "message": "dial tcp: lookup registry: no such host"}
    container = {"name": "engine", "state": {"waiting": waiting}}
    world.find("actor-infer", "g0-1")["status"]["containerStatuses"] = [container]
    told = list(rollout.status(_pool(cluster(world))))[1]
    assert told.startswith("g0-1 on the new revision does not start, and the others wait for it: ")
    assert "RegistryUnreachable: " in told
    assert "the others follow" not in told


def test_pausing_and_restarting_write_only_what_they_mean():
    fake = cluster(guide())
    pool = _pool(fake)
    rollout.pause(fake, pool, paused=True)
    assert json.loads(fake.ran[-1][-1]) == {"spec": {"rollout": {"paused": True}}}
    rollout.restart(fake, pool, 0.0)
    template = json.loads(fake.ran[-1][-1])["spec"]["podTemplate"]
    assert template == {
        "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "1970-01-01T00:00:00Z"}}
    }
    assert fake.ran[-1][:3] == ("patch", "sgi", "actor-infer")


# --- the command line


def test_commands_need_neither_kopf_nor_the_kubernetes_client():
    code = (
        "import sys\n"
        "from sglang_operator.cli import doctor, logs, main, map, rollout, status, wait\n"
        "from sglang_operator.picture import grid, text, svg, page\n"
        "assert not {'kopf', 'kubernetes', 'aiohttp'} & {*sys.modules}, 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_kubectl_it_is_said(monkeypatch):
    monkeypatch.setenv("KUBECTL", "/nonexistent/kubectl")
    outcome = CliRunner().invoke(main.cli, ["status", "-n", "rl"])
    assert outcome.exit_code == 2
    assert "install it and put it on the PATH" in outcome.output


@pytest.mark.parametrize(
    ("complaint", "why"),
    [
        ('Error from server (Forbidden): pods is forbidden: User "a" cannot list', Why.FORBIDDEN),
        ("Error from server (NotFound): sgi not found", Why.NOT_FOUND),
        ("The connection to the server 1.2.3.4 was refused", Why.UNREACHABLE),
        ("something else", Why.OTHER),
    ],
)
def test_complaints_of_kubectl_are_sorted(tmp_path, monkeypatch, complaint, why):
    program = tmp_path / "kubectl"
    program.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    with pytest.raises(ClusterError) as caught:
        Cluster().run("get", "pods")
    assert caught.value.why is why
    assert complaint in str(caught.value)


def test_completion_speaks_kubectls_protocol(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-sglang", "stat"])
    main.complete()
    assert capsys.readouterr().out == (
        "status\tWhat is wrong with pools, and what to do next.\n:4\n"
    )
