"""ROLL's workers write into one sync: into their own job's only, and nobody commits for another."""

import asyncio
import contextlib
import dataclasses
import time

import pytest

from sglang_operator.client import (
    AsyncPool,
    ClusterError,
    EngineError,
    Expired,
    Held,
    NotReady,
    StaleEpoch,
    Unsupported,
    pausing,
)
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_roll import Cluster

WRITE = "/update_weights_from_distributed"


def bucket(name):
    return [name], ["torch.bfloat16"], [(2,)], "g"


async def ended(calls):
    """What became of each: an answer or an error."""
    return await asyncio.gather(*calls, return_exceptions=True)


async def noticed(cluster):
    """Every worker's watch has told it of what the operator did last."""
    for each in cluster.strategies:
        await each.pool.fresh()


def writes(world):
    return [[body["names"] for path, body in e.asked if path == WRITE] for e in world.engines]


def served(world, version):
    """The engines from which clients get this version."""
    return [e.rank for e in world.engines if e.gate == "Open" and e.gate_version == version]


SERVED_SECONDS = 30.0


async def all_serve(world, version, ranks):
    """The operator opens the gates of these engines, a moment after the commit."""
    async with asyncio.timeout(SERVED_SECONDS):
        while served(world, version) != ranks:
            await asyncio.sleep(0.01)


@pytest.fixture
def impatient(monkeypatch, roll):
    """Within it nobody waits for a minute: for what is not going to happen there."""
    following = pytest.importorskip("sglang_operator.client.following")
    shared = pytest.importorskip("sglang_operator.client.shared")

    @contextlib.contextmanager
    def within():
        with monkeypatch.context() as patched:
            patched.setattr(following, "FOLLOW_SECONDS", 0.5)
            patched.setattr(shared, "VOUCH_SECONDS", 0.5)
            patched.setattr(roll, "HELD_SECONDS", 0.0)
            yield

    return within


def test_no_worker_writes_into_the_sync_of_another_trainer(roll, reach, impatient):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            other = AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="b")
            async with other, other.sync("b-1") as sync:
                await sync.update_weights_from_disk("/b/1")
                calls = (s.broadcast_parameter(*bucket("a2")) for s in cluster.strategies)
                with impatient():
                    found = await ended(calls)
            assert [type(each) for each in found] == [Held, NotReady, NotReady]
            assert "held by b" in str(found[1])

    with FakePool() as world:
        asyncio.run(train(reach(world)))
        assert writes(world) == [[["a1"]]] * 3
        assert {(e.weights, e.gate_version) for e in world.engines} == {("/b/1", "b-1")}


def test_no_worker_writes_into_the_sync_of_another_job_of_roll(roll, reach, impatient):
    async def train(world):
        async with Cluster(roll, 3) as one, Cluster(roll, 3, address="10.0.0.2") as two:
            await one.strategies[0].broadcast_parameter(*bucket("a1"))
            with impatient():
                found = await ended(s.broadcast_parameter(*bucket("b1")) for s in two.strategies)
            assert [type(each) for each in found] == [Held, NotReady, NotReady]
            for each in one.strategies[1:]:
                await each.broadcast_parameter(*bucket("a1"))
            await one.all("process_weights_after_loading")

    with FakePool() as world:
        asyncio.run(train(reach(world)))
        assert writes(world) == [[["a1"]]] * 3
        asyncio.run(all_serve(world, "step-1", [0, 1, 2]))


def test_a_trainer_started_again_waits_for_the_lease_of_the_one_that_was_killed(roll, reach):
    """On real engines a trainer that was back within 25 s was refused as Held."""

    async def train(world):
        gone = Transaction(
            phase=Phase.SYNCING,
            begun=time.time(),
            id="gone",
            holder="gone",
            renewed=time.time(),
            duration=2,
        )
        world.write_lease(gone)
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")

    with FakePool() as world:
        asyncio.run(train(reach(world)))
        asyncio.run(all_serve(world, "step-1", [0, 1, 2]))


@pytest.mark.parametrize("told", [False, True])
def test_no_commit_over_an_engine_that_refused_its_bucket(roll, reach, told):
    """Whether or not ROLL tells the follower too that the update is over."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            world.engines[2].refuse[WRITE] = (400, "shape mismatch")
            found = await ended(s.broadcast_parameter(*bucket("a2")) for s in cluster.strategies)
            assert isinstance(found[2], EngineError)
            which = cluster.strategies if told else cluster.strategies[:1]
            found = await ended(s.process_weights_after_loading() for s in which)
            assert isinstance(found[0], NotReady)
            assert "engine 2" in str(found[0])
            assert "shape mismatch" in str(found[0])
            assert world.state.phase is Phase.ABORTED
            assert "shape mismatch" in world.state.message
            assert not served(world, "step-2")
            assert all(engine.paused for engine in world.engines)

            world.engines[2].refuse.clear()
            await noticed(cluster)
            await cluster.model_update("a2", "a3")  # the same job may begin again at once
            assert {e.weights for e in world.engines} == {"a3"}
            await all_serve(world, "step-2", [0, 1, 2])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


async def refused_once(cluster, world):
    """Engine 1 takes a bucket only when it is sent again."""
    world.engines[1].refuse[WRITE] = (503, "busy")
    await ended(s.broadcast_parameter(*bucket("a1")) for s in cluster.strategies)
    world.engines[1].refuse.clear()


def test_a_bucket_that_is_sent_again_is_made_good(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await refused_once(cluster, world)
            await cluster.model_update("a1")
            await all_serve(world, "step-1", [0, 1, 2])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_objection_that_is_taken_back_in_a_moment_is_waited_for(roll, reach):
    """Its worker comes to its end a little later than the leader."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await refused_once(cluster, world)
            await cluster.all("broadcast_parameter", *bucket("a1"))

            async def at_last():
                await asyncio.sleep(0.5)
                await cluster.strategies[1].process_weights_after_loading()

            others = (cluster.strategies[rank] for rank in (0, 2))
            await asyncio.gather(at_last(), *(s.process_weights_after_loading() for s in others))
            await all_serve(world, "step-1", [0, 1, 2])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_no_commit_while_a_workers_bucket_is_under_way(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            world.engines[2].stuck.add(WRITE)
            sent = [
                asyncio.create_task(s.broadcast_parameter(*bucket("a2")))
                for s in cluster.strategies
            ]
            while not world.engines[2].held:
                await asyncio.sleep(0.01)
            await asyncio.gather(*sent[:2])  # a leader that has not begun has nothing to commit
            committing = asyncio.create_task(cluster.all("process_weights_after_loading"))
            await asyncio.sleep(0.5)
            assert world.state.phase is Phase.SYNCING
            assert world.engines[0].paused
            world.engines[2].stuck.clear()
            await asyncio.gather(committing, *sent)
            assert {e.weights for e in world.engines} == {"a2"}
            await all_serve(world, "step-2", [0, 1, 2])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_no_commit_over_an_engine_whose_worker_got_no_bucket(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            for each in cluster.strategies[:2]:
                await each.broadcast_parameter(*bucket("a1"))
            found = await ended(s.process_weights_after_loading() for s in cluster.strategies)
            assert isinstance(found[0], NotReady)
            assert "engine 2" in str(found[0])
            assert "got no update" in str(found[0])
            assert world.state.phase is Phase.ABORTED
            assert not served(world, "step-1")

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_no_commit_over_an_engine_whose_worker_says_nothing(roll, reach, impatient):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a1"))
            nobody = pytest.raises(
                NotReady, match=r"nobody vouches for 2 engines .* engine 1 .* 2 "
            )
            with nobody, impatient():
                await cluster.strategies[0].process_weights_after_loading()
            assert world.state.phase is Phase.ABORTED
            # Whoever comes too late vouches for nothing.
            found = await ended(s.process_weights_after_loading() for s in cluster.strategies[1:])
            assert [type(each) for each in found] == [Expired, Expired]
            assert world.state.phase is Phase.ABORTED

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_objection_that_comes_late_keeps_engines_paused(roll, reach):
    """The renewal before engines go on is a look as well, whatever the watch has told by then."""

    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a1"))
            await cluster.strategies[1].process_weights_after_loading()
            sync = cluster.strategies[0]._sync

            async def meanwhile():
                objects = dataclasses.replace(world.state, message="a late objection")
                await asyncio.to_thread(world.write_lease, objects)

            sync.end_weight_update = meanwhile
            before = world.engines[0].paths().count("/continue_generation")
            with pytest.raises(NotReady, match="a late objection"):
                await cluster.strategies[0].process_weights_after_loading()
            assert world.engines[0].paths().count("/continue_generation") == before
            assert world.state.phase is Phase.ABORTED

    with FakePool(engines=2) as world:
        asyncio.run(train(reach(world)))


def test_what_a_worker_wrote_before_an_abort_vouches_for_nothing_after_it(roll, reach):
    """The leader fails and begins again; a follower that got its last bucket before is missing."""

    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a1"))
            world.engines[0].refuse[WRITE] = (500, "out of memory")
            with pytest.raises(EngineError):
                await cluster.strategies[0].broadcast_parameter(*bucket("b1"))
            world.engines[0].refuse.clear()
            for name in ("a1", "b1"):
                await cluster.strategies[0].broadcast_parameter(*bucket(name))
            found = await ended(s.process_weights_after_loading() for s in cluster.strategies)
            assert [type(each) for each in found] == [NotReady, Expired]
            assert "engine 1" in str(found[0])
            assert world.state.phase is Phase.ABORTED

    with FakePool(engines=2) as world:
        asyncio.run(train(reach(world)))


def test_after_an_abort_other_trainers_wait_until_the_workers_have_noticed(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a1"))
            world.engines[0].refuse[WRITE] = (500, "out of memory")
            with pytest.raises(EngineError):
                await cluster.strategies[0].broadcast_parameter(*bucket("b1"))
            assert world.state.phase is Phase.ABORTED
            async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="b") as other:
                with pytest.raises(Held, match="may not know yet"):
                    await other.sync("b-1").begin()
            world.engines[0].refuse.clear()
            await noticed(cluster)
            await cluster.model_update("a1", "b1")
            await all_serve(world, "step-1", [0, 1, 2])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_what_a_worker_says_does_not_pass_for_the_leaders_renewal(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a1"))
            lease = cluster.strategies[2].pool.lease
            await lease.read()
            await asyncio.sleep(0.2)
            age = lease.age()
            await cluster.strategies[1].process_weights_after_loading()
            assert (await lease.read()).wrote
            assert lease.age() > age

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_engine_that_came_while_roll_trains_is_never_covered(roll, reach, caplog):
    """ROLL's workers are as many as before: it stays closed, and the others go on."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            await asyncio.to_thread(world.grow)
            assert await cluster.strategies[0].update_obstacle() == ""
            await cluster.model_update("a2")
            await noticed(cluster)
            assert world.engines[3].gate == "Closed"
            assert not world.engines[3].asked
            await all_serve(world, "step-2", [0, 1, 2])
            world.engines[3].state = "Starting"
            await asyncio.to_thread(world.call, world.publish)
            await cluster.setup()
            await cluster.model_update("a3")
            await all_serve(world, "step-3", [0, 1, 2])
            assert caplog.text.count("engine 3 (g6-7) has no inference worker") == 1

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_engine_without_a_worker_wakes_with_the_others_and_sleeps_again(
    roll, reach, monkeypatch
):
    """The Lease says of nobody that it sleeps then, and the next sleep flushes all of them."""
    monkeypatch.setattr("sglang_operator.client.sleeping.SETTLE_SECONDS", 0.0)

    async def train(world):
        async with Cluster(roll, 2, colocated=True) as two:
            await two.setup()
            await two.model_update("a1")
            await asyncio.to_thread(world.grow)
            for step in (2, 3):
                await two.all("offload_states")
                assert len(world.state.asleep) == 3
                await two.model_update(f"a{step}")
                assert world.state.phase is Phase.COMMITTED
                assert not world.state.asleep
                assert [engine.released for engine in world.engines] == [set()] * 3
                await all_serve(world, f"step-{step}", [0, 1])
                assert world.engines[2].paused  # until somebody writes into it
            assert not any(engine.dead for engine in world.engines)

    with FakePool(engines=2) as world:
        for engine in world.engines:
            engine.strict = True
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize("gate", ["Versioned", "Off"])
def test_a_job_for_a_part_of_the_engines_needs_a_gate_that_a_commit_opens(roll, reach, gate):
    """What the job before it has torn would be answered from: nothing keeps requests away."""

    async def train(world):
        async with Cluster(roll, 3) as three:
            await three.setup()
            await three.model_update("a1")
            before = world.state
            await asyncio.to_thread(world.grow)
            with pytest.raises(Unsupported, match=rf"engine 3 \(g6-7\); the pool's gate is {gate}"):
                await three.strategies[0].update_obstacle()
            found = await ended(s.broadcast_parameter(*bucket("a2")) for s in three.strategies)
            assert {type(each) for each in found} == {Unsupported}
            assert world.state == before
        with pytest.raises(Unsupported, match="as many workers as the pool has engines"):
            async with Cluster(roll, 3, address="10.0.0.9"):
                pass
        assert world.state == before

    with FakePool(gate=gate) as world:
        asyncio.run(train(reach(world)))


def test_an_engine_that_comes_during_an_update_is_never_covered(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a1"))
            await asyncio.to_thread(world.grow)
            await cluster.all("process_weights_after_loading")
            await all_serve(world, "step-1", [0, 1, 2])
            assert world.engines[3].gate == "Closed"

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_groups_that_were_set_up_for_different_engines_are_not_used_together(roll, reach):
    """ROLL sets up one group for each stage of its pipeline parallelism."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup("pp0")
            await asyncio.to_thread(world.restart, 1)
            await cluster.setup("pp1")
            old = (*bucket("a1")[:3], "pp0")
            found = await ended(s.broadcast_parameter(*old) for s in cluster.strategies)
            assert {type(each) for each in found} == {StaleEpoch}
            assert "pp0" in str(found[1])
            assert writes(world) == [[], [], []]

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_worker_that_was_set_up_later_than_the_leader_writes_nothing(roll, reach):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await asyncio.to_thread(world.restart, 1)
            await cluster.setup(only=(0, 2))
            found = await ended(s.broadcast_parameter(*bucket("a1")) for s in cluster.strategies)
            assert isinstance(found[1], StaleEpoch)
            await ended(s.process_weights_after_loading() for s in cluster.strategies)
            assert world.state.phase is Phase.ABORTED

    with FakePool() as world:
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize("size", [3, 12])
@pytest.mark.parametrize("late", ["nobody", "worker 0", "a bucket"])
@pytest.mark.parametrize("mended", [True, False])
def test_what_a_worker_asks_of_the_api_server_in_an_update(roll, reach, size, late, mended):
    """Counted are the reads and writes of Lease and registry of each process, from the look before
    the update (where ROLL's updates are ``mended``) to the commit, without those that others were
    quicker than.  However many buckets there are, and however long others take: a worker reads the
    Lease before, by which it knows later that a sync is a new one, and writes it to vouch.  Worker
    0 reads the registry once, and writes the Lease three times.  None of these can stand for
    another: it begins before engines are paused, renews before they go on, and commits after that.
    """

    async def train(world):
        async with Cluster(roll, size) as cluster:
            await cluster.setup()
            await cluster.model_update("a0")
            await becomes(lambda: all(each.pool.lease.watch.alive for each in cluster.strategies))
            asked = [count(each) for each in cluster.strategies]
            world.slow = 2.0 if late == "worker 0" else 0.0  # engines, to say what they are
            last = world.engines[-1]
            if late == "a bucket":
                last.stuck.add(WRITE)
                asyncio.get_running_loop().call_later(2.0, last.stuck.clear)
            if mended:
                assert await cluster.strategies[0].update_obstacle() == ""
            await cluster.model_update(*(f"a{i}" for i in range(1, 6)))
            await all_serve(world, "step-2", list(range(size)))
            assert max(map(len, asked[1:])) <= 2, asked
            assert asked[0] == ["GET", "PUT", "PUT", "PUT"]

    with FakePool(engines=size) as world:
        asyncio.run(train(reach(world)))


def test_a_role_that_does_not_let_trainers_watch_the_lease_is_enough(roll, reach):
    """As those of before: then they ask."""

    async def train(world):
        world.lets_watch_lease = False
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            world.slow = 1.0
            await cluster.model_update("a1", "b1")
            assert not any(each.pool.lease.watch.alive for each in cluster.strategies)

    with FakePool() as world:
        asyncio.run(train(reach(world)))
        asyncio.run(all_serve(world, "step-1", [0, 1, 2]))


def test_a_watch_that_dies_in_silence_is_not_waited_for(roll, reach, monkeypatch):
    lease = pytest.importorskip("sglang_operator.client.lease")
    monkeypatch.setattr(lease, "WATCHED_SECONDS", 0.5)

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            await becomes(lambda: len(world.lease_watchers) == 3)
            world.lease_watchers.clear()  # connections stay, and nothing comes
            world.slow = 1.0
            await asyncio.wait_for(cluster.model_update("a2", "b2"), 20)

    with FakePool() as world:
        asyncio.run(train(reach(world)))
        asyncio.run(all_serve(world, "step-2", [0, 1, 2]))


async def becomes(check):
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.01)


def count(strategy):
    """Its requests, but for those that others were quicker than: they are made again."""
    cluster, asked = strategy.pool.lease._cluster, []
    real = cluster._request
    again: list[object] = []

    async def request(method, *rest):
        if method == "GET" and again:
            again.clear()
            return await real(method, *rest)
        asked.append(method)
        try:
            return await real(method, *rest)
        except ClusterError as error:
            if error.status == 409:
                again.append(asked.pop())
            raise

    cluster._request = request
    return asked


@pytest.mark.parametrize("size", [2, 5])
def test_who_did_not_see_its_leader_begin_renews_the_lease_before_it_writes(roll, reach, size):
    """Once for all: the leader may have died at once, and others wait for its time to end."""

    async def train(world):
        async with Cluster(roll, size) as cluster:
            await cluster.setup()
            own = cluster.strategies[0].pool.holder
            dead = steps.Trainer(holder=own, transaction="t-dead")
            epoch, now = await cluster.strategies[0].pool.epoch(), time.time() - 28
            begun = steps.begin(
                world.state, dead, epoch=epoch, version="a1", now=now, seen=0, shared=True
            )
            world.write_lease(begun)
            for each in cluster.strategies:
                each.pool.lease._asked -= 28  # its last look, before that
            followers, before = cluster.strategies[1:], len(world.puts)
            await asyncio.gather(*(s.broadcast_parameter(*bucket("a1")) for s in followers))
            assert [state.id for state in world.puts[before:]] == ["t-dead"]
            assert world.puts[-1].renewed > time.time() - 10
            assert all(s.pool.lease.age() < 10 for s in followers)

    with FakePool(engines=size) as world:
        asyncio.run(train(reach(world)))
        assert writes(world) == [[], *[[["a1"]]] * (size - 1)]


def test_who_looks_late_does_not_renew_what_is_another_jobs_by_then(roll, reach, impatient):
    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            late = cluster.strategies[1]
            dead = steps.Trainer(holder=late.pool.holder, transaction="t-dead")
            epoch, now = await late.pool.epoch(), time.time() - 28
            begun = steps.begin(
                world.state, dead, epoch=epoch, version="a1", now=now, seen=0, shared=True
            )
            world.write_lease(begun)
            late.pool.lease._asked -= 28
            plain, other = world.put_lease, steps.Trainer(holder="b", transaction="t-b")

            async def slower(request):
                world.put_lease = plain
                taken = steps.begin(
                    world.state, other, epoch=epoch, version="b1", now=time.time(), seen=0
                )
                world.lease = lease_state.written(world.lease, taken)
                world._bump_lease()
                return await plain(request)

            world.put_lease = slower
            with pytest.raises(Expired, match="held by b"), impatient():
                await late.broadcast_parameter(*bucket("a1"))
            assert world.state.id == "t-b"

    with FakePool(engines=2) as world:
        asyncio.run(train(reach(world)))
        assert writes(world) == [[], []]


def test_a_follower_never_takes_a_lease_that_only_looks_like_its_leaders(roll, reach, impatient):
    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            own = cluster.strategies[0].pool.holder
            for state in (
                dataclasses.replace(world.state, holder="b", shared=True),
                dataclasses.replace(world.state, holder=own, shared=False),
                dataclasses.replace(world.state, holder=own, shared=True, epoch="of others"),
            ):
                begun = dataclasses.replace(state, phase=Phase.SYNCING, id=f"t{state.epoch}")
                await asyncio.to_thread(world.write_lease, begun)
                with pytest.raises((NotReady, StaleEpoch)), impatient():
                    await cluster.strategies[1].broadcast_parameter(*bucket("a1"))
            assert writes(world) == [[], []]

    with FakePool(engines=2) as world:
        asyncio.run(train(reach(world)))


def test_a_busy_engine_is_let_run_by_the_worker_that_writes_it_and_not_by_the_leader(
    roll, reach, monkeypatch
):
    """It may run for a moment, of the old weights: but not once somebody writes it."""
    monkeypatch.setattr(pausing, "QUICK_SECONDS", 0.1)
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 0.3)

    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            await cluster.model_update("a1")
            first, second = cluster.strategies
            engine = world.engines[1]
            engine.busy = 50  # until its scheduler runs, so to speak
            asked = len(engine.asked)
            await first.broadcast_parameter(*bucket("a2"))
            assert "/continue_generation" not in engine.paths()[asked:]
            with pytest.raises(EngineError):
                await second.broadcast_parameter(*bucket("a2"))
            paths = engine.paths()[asked:]
            assert paths.index("/pause_generation") < paths.index("/continue_generation")
            assert not any(path.startswith("/update_weights") for path in paths)
            assert engine.weights == "a1"

    with FakePool(engines=2, version="0.5.14") as world:
        asyncio.run(train(reach(world)))


def test_worker_0_pauses_no_engine_that_another_worker_may_write_into_already(roll, reach):
    """Where its pause comes late, SGLang has it wait for the bucket, which waits for worker 0."""

    async def train(world):
        async with Cluster(roll, 2) as cluster:
            await cluster.setup()
            first, second = cluster.strategies
            await first.broadcast_parameter(*bucket("a1"))
            assert "/pause_generation" in world.engines[0].paths()
            assert "/pause_generation" not in world.engines[1].paths()
            await second.broadcast_parameter(*bucket("a1"))
            assert "/pause_generation" in world.engines[1].paths()
            await cluster.all("process_weights_after_loading")
            await all_serve(world, "step-1", [0, 1])

    with FakePool(engines=2) as world:
        asyncio.run(train(reach(world)))


def test_a_pool_that_is_closed_is_followed_no_more(roll, reach, monkeypatch, caplog):
    """What looks at the Lease in the background would open the pool again."""
    monkeypatch.setattr("sglang_operator.client.following.LOOK_SECONDS", 0.001)

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a1"))
            pools = [each.pool for each in cluster.strategies]
        looking = [task.get_name() for task in asyncio.all_tasks()]
        assert "the leader's Lease" not in looking
        assert [pool._cluster for pool in pools] == [None] * 3

    with FakePool() as world:
        asyncio.run(train(reach(world)))
    assert not caplog.text
