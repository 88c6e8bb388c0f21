"""``kubectl sglang weights``, command by command, as somebody types it."""

import dataclasses
import json
import time

import pytest

from sglang_operator.client import Expired, Pool
from sglang_operator.kube import credentials
from sglang_operator.weights.lease_state import Phase
from sglang_operator.weights.times import shown as shown_time
from tests.unit.cli.runner import run
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool


@pytest.fixture
def world():
    with FakePool(engines=2) as made:
        yield made


@pytest.fixture
def weights(world, tmp_path):
    """Runs a command against the world."""
    config = {
        "current-context": "w",
        "contexts": [
            {"name": "w", "context": {"cluster": "w", "user": "w", "namespace": NAMESPACE}}
        ],
        "clusters": [{"name": "w", "cluster": {"server": world.server}}],
        "users": [{"name": "w", "user": {"token": "t"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))

    def command(name, *arguments, code=0):
        result = run("weights", name, POOL, *arguments, "--kubeconfig", path)
        assert result.exit_code == code, result.output
        return result.output

    return command


def test_a_sync_by_hand(world, weights):
    begun = weights("begin", "step-1")
    assert "2 engines paused:" in begun and world.engines[1].url in begun
    assert all(engine.paused for engine in world.engines)
    assert "step-1 is being written" in weights("status", code=1)
    assert weights("commit", "--checkpoint", "/c/1") == (
        "committed step-1 to 2 engines; their gates open\n"
    )
    assert (world.state.version, world.state.checkpoint) == ("step-1", "/c/1")
    assert not any(engine.paused for engine in world.engines)
    shown = weights("status")
    assert "phase     Committed\n" in shown
    assert "synced    2/2\n" in shown
    assert f"1     g2-3    InService  Open  step-1   {world.engines[1].url}\n" in shown


def test_a_pool_asleep_with_its_weights_is_not_synced_until_it_is_woken(world, weights):
    weights("begin", "step-1")
    weights("commit")
    weights("sleep", "--tags", "kv_cache")
    assert "synced    0/2\n" in weights("status", code=1)
    weights("wake", "--tags", "kv_cache")
    assert "synced    2/2\n" in weights("status")


def test_a_pod_of_which_nobody_knows_whether_its_engine_sleeps_is_named_by_the_status(
    world, weights
):
    weights("sleep", "--tags", "kv_cache")
    lost = world.engines[1].instance
    world.write_lease(dataclasses.replace(world.state, unclear=frozenset({lost})))
    shown = weights("status", code=1)
    assert "unclear   an answer to a release or a resume of memory was lost" in shown
    assert f"kubectl delete pod {POOL}-1\n" in shown


def test_a_lease_that_was_lost_is_told_with_who_holds_it_until_when(world, weights):
    world.delete_lease()
    world.make_lease()
    shown = weights("status", code=1)
    free = shown_time(world.state.renewed + world.state.duration)
    assert f"phase     Idle, held by operator until {free}\n" in shown
    assert "message   the Lease was deleted\n" in shown
    refused = weights("begin", "step-1", "--wait", "0", code=1)
    assert f"nothing new begins before {free}" in refused
    weights("abort", "--force", "--gone")
    assert (world.state.phase, world.state.fence) == (Phase.ABORTED, False), "it is free at once"


def test_status_for_programs(world, weights):
    found = json.loads(weights("status", "-o", "json", code=1))
    assert (found["phase"], found["version"], found["holder"]) == ("Idle", None, None)
    assert [engine["gate"] for engine in found["engines"]] == ["Closed", "Closed"]


def test_a_restart_between_begin_and_commit_is_refused(world, weights):
    weights("begin", "step-1")
    world.restart(0)
    assert "StaleEpoch: the engines are not those of epoch" in weights("commit", code=1)
    assert world.state.phase is Phase.ABORTED


def test_somebody_else_is_at_it(world, weights):
    with (
        Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as pool,
        pytest.raises(Expired, match="Lease is in phase Aborted"),
        pool.sync("step-1"),
    ):
        assert "Held: trainer-a holds the weights" in weights("begin", "step-2", code=1)
        assert "Expired: kubectl-sglang_" in weights("commit", code=1)
        assert "Expired: the transaction" in weights("abort", code=1)
        assert "aborted: every gate" in weights("abort", "--force", "-m", "it hangs")
    assert (world.state.phase, world.state.message) == (Phase.ABORTED, "it hangs")


@pytest.mark.parametrize("more", [("--holder", "trainer-a"), ("--force",)])
def test_a_trainer_that_is_aborted_by_its_name_has_time_to_notice_too(world, weights, more):
    """Whoever types its name is not the process, which may write on."""
    with (
        Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as pool,
        pytest.raises(Expired),
        pool.sync("step-1"),
    ):
        weights("abort", *more)
        assert world.state.fenced
        assert "Held" in weights("begin", "step-2", code=1)


@pytest.mark.parametrize("more", [("--holder", "trainer-a"), ("--force",)])
def test_a_trainer_that_is_known_to_be_gone_keeps_nobody_waiting(world, weights, more):
    world.write_lease(
        dataclasses.replace(
            world.state,
            id="theirs",
            holder="trainer-a",
            phase=Phase.SYNCING,
            duration=600,
            acquired=time.time(),
            renewed=time.time(),
        )
    )
    assert "may not know" not in weights("abort", "--gone", *more)
    assert not world.state.fenced
    assert "2 engines paused:" in weights("begin", "step-2")


def test_an_abort_by_force_leaves_its_trainer_time_to_notice(world, weights):
    with (
        Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as pool,
        pytest.raises(Expired, match="Lease is in phase Aborted"),
        pool.sync("step-1"),
    ):
        assert "trainer-a may not know yet" in weights("abort", "--force")
        for by in ("trainer-a", "trainer-b"):
            refused = weights("begin", "step-2", "--holder", by, code=1)
            assert "Held: kubectl-sglang_" in refused and "nothing new begins before" in refused
        # Who ended it is told the same, and cannot free it by giving up what is not its own.
        assert "nothing new begins before" in weights("begin", "step-2", code=1)
        assert "Expired: the transaction" in weights("abort", code=1)
        assert "trainer-a" not in weights("abort", "--force")
        assert "nothing new begins before" in weights("begin", "step-2", code=1)


def test_who_gives_up_its_own_sync_begins_again_at_once(world, weights):
    for more in ((), ("--force",)):
        weights("begin", "step-1")
        assert "may not know" not in weights("abort", *more)
    assert "2 engines paused:" in weights("begin", "step-2")


def test_sleep_and_wake(world, weights):
    assert "2 engines, released: kv_cache" in weights("sleep", "--tags", "kv_cache")
    assert "nothing to wake" not in weights("status", code=1)
    assert "go on with the weights that they were started with" in weights("wake")
    weights("sleep")
    assert "the gates stay closed until a sync commits" in weights("wake")
    assert (
        "Unsupported: there is nothing to wake"
        in (
            weights("begin", "s"),
            weights("commit"),
            weights("wake", code=1),
        )[-1]
    )


def test_what_cannot_be_reached_is_an_error(weights, world):
    assert "NotReady: there is no registry nowhere/" in weights(
        "begin", "v", "-n", "nowhere", code=1
    )
    result = run("weights", "status", POOL, "--kubeconfig", "/nowhere")
    assert result.exit_code == 2
    assert "ClusterError: no cluster is configured" in result.output


def test_in_a_pod_it_goes_by_the_kubeconfig_that_kubectl_goes_by(tmp_path, monkeypatch):
    account, home = tmp_path / "account", tmp_path / ".kube"
    for folder in (account, home):
        folder.mkdir()
    (account / "token").write_text("of the pod")
    (home / "config").write_text("current-context: elsewhere\n")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", account)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    result = run("weights", "status", POOL)
    assert f"{home}/config: it has no 'elsewhere' among its contexts" in result.output


@pytest.mark.parametrize("command", [("begin", "step-1"), ("sleep",)])
def test_where_engines_cannot_be_reached_nothing_is_taken_from_clients(world, weights, command):
    """Outside the cluster somebody else may answer at a pod's address."""
    world.strangers = True
    said = weights(*command, code=1)
    assert "on /model_info: 404 this is no SGLang: 404 page not found; nothing was begun" in said
    assert "run this where the pods' addresses lead to the pods" in said
    assert world.state.phase is Phase.IDLE
    assert not any(engine.paused for engine in world.engines)


def test_tags_must_be_named(weights):
    assert "name at least one of SGLang's memory tags" in weights("sleep", "--tags", ",", code=2)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("begin", ""), "version is ''"),
        (("begin", "a\tb"), "one line of text"),
        (("begin", "v", "--holder", ""), "holder is ''"),
        (("commit", "--checkpoint", "a\nb"), "checkpoint is"),
        (("abort", "-m", ""), "message is ''"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_taken(world, weights, command, words):
    said = weights(*command, code=2)
    assert "InvalidArgument: " in said and words in said
    assert not world.puts


def test_a_commit_from_where_engines_cannot_be_reached_leaves_the_sync_to_another(world, weights):
    weights("begin", "step-1")
    world.strangers = True
    said = weights("commit", code=1)
    assert "this is no SGLang" in said and "left as it is until its time is over" in said
    assert world.state.phase is Phase.SYNCING
    world.strangers = False
    weights("commit")
    assert world.state.version == "step-1"


@pytest.mark.parametrize("ids", ["0-1", "0", "list(range(0,2))", "0, 1"])
def test_a_part_of_the_pool_sleeps_and_wakes_by_gpu_ids(world, weights, ids):
    weights("begin", "step-1")
    weights("commit")
    asleep = "asleep: 1 engine, released: weights and kv_cache\nthe others serve on\n"
    assert weights("sleep", "--devices", ids) == asleep
    assert [engine.gate for engine in world.engines] == ["Closed", "Open"]
    shown = weights("status", code=1)
    assert "synced    1/2, 1 asleep\n" in shown
    assert "0     g0-1    Up         Closed, asleep  -" in shown
    told = json.loads(weights("status", "-o", "json", code=1))["engines"]
    assert [each.get("asleep", False) for each in told] == [True, False]
    assert weights("wake", "--devices", "0-1") == (
        "awake: 1 engine without the weights of step-1, behind closed gates until they have loaded "
        "its checkpoint or a sync commits\n"
    )
    assert "0     g0-1    Up         Closed, behind  -" in weights("status", code=1)


def test_one_of_two_parts_wakes_and_the_other_is_told_to_sleep_on(world, weights):
    weights("begin", "step-1")
    weights("commit")
    weights("sleep", "--tags", "kv_cache", "--devices", "0-3")
    assert weights("wake", "--devices", "2-3") == "still released: kv_cache, of 1 engine\n"
    assert weights("wake") == "awake: the weights were kept, the gates of step-1 open again\n"


@pytest.mark.parametrize("ids", ["", "x", "0-", "-1", "7-0", "0-99999", "0;1"])
def test_what_names_no_gpu_is_an_error_of_the_command_line(weights, ids):
    assert "expected GPU ids, e.g. 0-7,12" in weights("sleep", "--devices", ids, code=2)


def test_those_that_a_sleep_has_closed_and_not_put_to_sleep_are_told_when_others_wake(
    world, weights
):
    weights("begin", "step-1")
    weights("commit")
    for engine in world.engines:
        engine.refuse["/pause_generation"] = 500, "no"
    weights("sleep", "--devices", "0-3", code=2)
    for engine in world.engines:
        engine.refuse.clear()
    told = "others that were about to sleep stay closed: wake them too\n"
    assert weights("wake", "--devices", "0-1") == told
    assert [engine.gate for engine in world.engines] == ["Open", "Closed"]
    assert "the gates of step-1 open again" in weights("wake")
