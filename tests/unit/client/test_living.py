"""What must live, lives on after what nobody expected, or says loudly that it ends."""

import asyncio
import json
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator import supervision
from sglang_operator.backoff import Backoff
from sglang_operator.client import (
    AsyncPool,
    ClusterError,
    Expired,
    NotReady,
    Pool,
    StaleEpoch,
    cluster,
    following,
    lease,
    sync,
    watching,
)
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

STORY = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(supervision, "BACKOFF", Backoff(0.05, 0.1))


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        yield made


def wait(check, seconds=STORY):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def breaking(monkeypatch, owner, name, times):
    """The next calls of this raise what nobody expects; how often it was called."""
    real, calls = getattr(owner, name), []

    def call(*arguments, **options):
        calls.append(name)
        if len(calls) <= times:
            raise RecursionError("nobody expected this")
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


# --- the renewal


def test_a_renewal_that_fails_in_an_unexpected_way_is_tried_again(world, pool, monkeypatch, caplog):
    calls = breaking(monkeypatch, steps, "renew", 2)
    monkeypatch.setattr("sglang_operator.weights.lease_state.LEASE_SECONDS", 1)  # renewed as often
    with pool.sync("step-1", duration=600):
        begun = world.state.renewed
        wait(lambda: world.state.renewed > begun)
    assert len(calls) > 2
    assert world.state.version == "step-1"
    assert "lease renewal: unexpected RecursionError: nobody expected this" in caplog.text


def test_one_that_always_fails_ends_the_sync_in_words(world, pool, monkeypatch, caplog):
    breaking(monkeypatch, steps, "renew", 1_000_000)
    told = []
    lost = pool.sync("step-1", duration=1, on_lost=lambda reason: told.append(reason))
    with (
        pytest.raises(Expired, match="unexpected RecursionError: nobody expected"),
        lost as syncing,
    ):
        wait(lambda: told)
        syncing.check()
    assert world.state.phase is Phase.ABORTED
    assert caplog.text.count("lease renewal: unexpected RecursionError") == 1, "told once"


def test_a_sleeper_whose_lease_is_lost_says_so(world, pool, caplog, monkeypatch):
    monkeypatch.setattr("sglang_operator.weights.lease_state.LEASE_SECONDS", 1)
    pool.sleep(("kv_cache",), settle=0)
    world.delete_lease()
    wait(lambda: "the Lease of the sleep is lost: the Lease was deleted" in caplog.text)


# --- the watch


@pytest.mark.parametrize("event", [{"type": "MODIFIED"}, [1], {"object": {}}, "text"], ids=str)
def test_an_event_that_cannot_be_read_does_not_end_the_watch(world, pool, event):
    told = threading.Event()
    with pytest.raises(StaleEpoch), pool.sync("s", on_lost=lambda _: told.set()) as syncing:
        wait(lambda: world._watchers)
        world.call(lambda: [queue.put_nowait(event) for queue in world._watchers])
        world.restart(0)
        assert told.wait(STORY)
        syncing.check()


def test_a_decoder_that_fails_is_told_and_the_watch_taken_up_again(
    world, pool, monkeypatch, caplog
):
    pool.registry()
    calls = breaking(monkeypatch, cluster, "parse", 3)
    with pytest.raises(NotReady, match=r"the registry cannot be followed: unexpected RecursionErr"):
        world.call(world.publish)
        wait(lambda: calls)
        pool.wait_synced("step-9", 0.02)
    wait(lambda: len(calls) > 3)
    assert "registry watch: unexpected RecursionError" in caplog.text
    pool.update_from_disk("/c/1", "step-1")
    assert pool.wait_synced("step-1", STORY)


def test_a_registry_that_cannot_be_read_is_told(world, pool, caplog):
    pool.registry()
    real = world._config_map
    world.call(lambda: setattr(world, "_config_map", lambda: {**real(), "data": {}}))
    world.call(world.publish)
    wait(
        lambda: (
            "the registry cannot be followed: the registry None" in caplog.text
            or "the registry cannot be followed: the registry rl" in caplog.text
        )
    )
    with pytest.raises(NotReady, match=r"the registry cannot be followed.* cannot be read"):
        pool.wait_synced("step-1", 0.2)


# --- the look-out for restarts


def test_a_look_out_that_fails_once_still_sees_the_restart(world, pool, monkeypatch):
    breaking(monkeypatch, sync, "changes", 1)
    told = threading.Event()
    with pytest.raises(StaleEpoch, match="restarted"), pool.sync("s", on_lost=lambda _: told.set()):
        world.restart(0)
        assert told.wait(STORY)


def test_one_that_sees_nothing_any_more_ends_the_sync_in_words(world, pool, monkeypatch):
    monkeypatch.setattr(sync, "BLIND_SECONDS", 0.2)
    monkeypatch.setattr(sync, "BLIND_POLL_SECONDS", 0.05)
    breaking(monkeypatch, sync, "changes", 1_000_000)
    told = []
    lost = pool.sync("step-1", on_lost=lambda reason: told.append(reason))
    with pytest.raises(StaleEpoch, match=r"could not be seen .* \(RecursionError: nobody"), lost:
        wait(lambda: told)
    assert world.state.phase is Phase.ABORTED


# --- what the trainer gave


@pytest.mark.parametrize("ends", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_the_trainer_does_when_a_sync_is_lost_ends_nothing_of_ours(world, pool, ends):
    told = threading.Event()

    def on_lost(_):
        told.set()
        raise ends("the trainer's own")

    with pytest.raises(StaleEpoch), pool.sync("step-1", on_lost=on_lost):
        world.restart(0)
        assert told.wait(STORY)
    pool.update_from_disk("/c/2", "step-2")
    assert world.state.version == "step-2"


def test_a_trainer_that_waits_when_a_sync_is_lost_holds_up_nothing_of_ours(world, pool):
    go_on = threading.Event()
    told = threading.Event()

    def on_lost(_):
        told.set()
        go_on.wait(STORY * 2)

    with pytest.raises(StaleEpoch), pool.sync("step-1", on_lost=on_lost):
        world.restart(0)
        assert told.wait(STORY)
    pool.update_from_disk("/c/2", "step-2")
    go_on.set()
    assert world.state.version == "step-2"


def test_a_pool_whose_thread_has_ended_says_so(world):
    pool = Pool(POOL, NAMESPACE, identity=world.identity)
    pool.registry()
    loop, thread = pool._loop._loop, pool._loop._thread
    assert loop is not None and thread is not None
    pool._loop.run(pool._pool.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(STORY)
    with pytest.raises(RuntimeError, match="thread has ended; make another Pool"):
        pool.registry()
    loop.close()


# --- those that follow a sync of another process


def test_a_look_at_the_leaders_lease_that_fails_is_made_again(monkeypatch, caplog):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.001)
    looks = []

    async def transaction():
        looks.append(1)
        raise RecursionError("nobody expected this")

    async def story():
        unwatched = SimpleNamespace(watch=SimpleNamespace(alive=False))
        pool: Any = SimpleNamespace(transaction=transaction, lease=unwatched)
        look = asyncio.create_task(following.Follower(pool, Transaction())._look())
        async with asyncio.timeout(STORY):
            while len(looks) < 3:
                await asyncio.sleep(0.001)
        look.cancel()

    asyncio.run(story())
    assert "the leader's Lease: unexpected RecursionError" in caplog.text


# --- credentials


def plugin(tmp_path, world, script):
    config = {
        "current-context": "w",
        "contexts": [{"name": "w", "context": {"cluster": "w", "user": "w"}}],
        "clusters": [{"name": "w", "cluster": {"server": world.server}}],
        "users": [{"name": "w", "user": {"exec": {"command": "sh", "args": ["-c", script]}}}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    return path


TOKEN = """echo '{"status": {"token": "t"}}'"""


def test_a_credential_plugin_never_blocks_the_loop(tmp_path, world):
    """It ends once the loop has gone on meanwhile."""
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"

    async def story():
        awaited = f"touch {begun}; until [ -e {go_on} ]; do sleep 0.02; done; {TOKEN}"
        async with AsyncPool(POOL, NAMESPACE, kubeconfig=plugin(tmp_path, world, awaited)) as made:
            reading = asyncio.create_task(made.fresh())
            async with asyncio.timeout(STORY):
                while not begun.exists():
                    await asyncio.sleep(0.01)
            assert not reading.done()
            go_on.touch()
            assert (await reading).engines

    asyncio.run(story())


def test_a_credential_plugin_that_hangs_ends_with_what_it_started(tmp_path, world, monkeypatch):
    """A child of its own would hold its output open."""
    monkeypatch.setattr("sglang_operator.kube.credentials.EXEC_SECONDS", 0.3)
    path = plugin(tmp_path, world, "sleep 600; true")
    begun = time.monotonic()
    with (
        Pool(POOL, NAMESPACE, kubeconfig=path) as made,
        pytest.raises(ClusterError, match=r"credential plugin sh .* timed out"),
    ):
        made.registry()
    assert time.monotonic() - begun < STORY


def test_what_is_owed_to_the_lease_is_tried_on_after_what_nobody_expected(monkeypatch, caplog):
    monkeypatch.setattr(lease, "MAX_RETRY_SECONDS", 0.02)

    async def story() -> int:
        file, tries = lease.WeightsLease(SimpleNamespace()), []  # type: ignore[arg-type]

        async def step(*_: Any, **__: Any) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise ClusterError("the API server is away")
            if len(tries) < 4:
                raise RecursionError("nobody expected this")
            file._owed.clear()

        monkeypatch.setattr(file, "step", step)
        with pytest.raises(ClusterError):
            await file.record(None, lambda state, sight: state, patience=0.01)
        async with asyncio.timeout(STORY):
            while file._owed:
                await asyncio.sleep(0.01)
        return len(tries)

    assert asyncio.run(story()) == 4
    assert "owed to the Lease: unexpected RecursionError" in caplog.text


def test_no_task_of_the_client_is_begun_without_a_supervisor():
    """Whoever adds one adds it here, and a test above."""
    begun = set()
    for module in Path(watching.__file__).parent.glob("*.py"):
        begun |= set(re.findall(r"create_task\(\s*([\w.]+)\(", module.read_text()))
    assert begun == {
        "self._run",
        "self._stale",
        "self._keep_paying",
        "self._pool.calls.post_any",  # awaited where it is begun
        "supervision.kept",
    }
