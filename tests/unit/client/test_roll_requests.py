"""An engine that ends costs ROLL no job: another one of the same policy answers, or nobody does."""

import asyncio
import contextlib

import pytest

from sglang_operator.client import AsyncPool, EngineError, NotReady, Pool
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool, SurgingPool
from tests.unit.client.test_roll import ANSWER, Cluster

GENERATE, ABORT = "/generate", "/abort_request"
UNFINISHED = {"output_token_ids": [[]], "finish_reasons": ["abort"], "output_logprobs": [[]]}


def payload(rid="r", n=1):
    return {"input_ids": [1], "sampling_params": {"n": n}, "rid": rid, "return_logprob": True}


@contextlib.asynccontextmanager
async def trained(roll, size=3):
    """A cluster whose engines have got an update."""
    async with Cluster(roll, size) as cluster:
        await cluster.setup()
        await cluster.model_update("a1")
        await noticed(cluster)
        yield cluster


async def noticed(cluster):
    for each in cluster.strategies:
        await each.pool.fresh()


def prompts(engine):
    return [body["rid"] for path, body in engine.asked if path == GENERATE]


async def under_way(engine):
    while not engine.held:
        await asyncio.sleep(0.01)


@pytest.fixture
def requests(monkeypatch):
    """The module, in a hurry."""
    found = pytest.importorskip("sglang_operator.client.roll_requests")
    monkeypatch.setattr(found, "WITHOUT_SECONDS", 1.0)
    monkeypatch.setattr(found, "AGAIN_SECONDS", 0.3)
    return found


def test_an_engine_that_ends_over_a_request_leaves_it_to_another(roll, reach):
    async def train(world):
        async with trained(roll) as cluster:
            ending = world.engines[1]
            ending.stuck.add(GENERATE)
            asked = [
                asyncio.create_task(cluster.strategies[1].generate_request(payload(f"r{i}")))
                for i in range(4)
            ]
            await under_way(ending)
            await asyncio.to_thread(world.restart, 1, told=False)
            assert await asyncio.gather(*asked) == [ANSWER] * 4
            others = prompts(world.engines[0]) + prompts(world.engines[2])
            assert sorted(others) == [f"r{i}-try2" for i in range(4)]
            assert prompts(world.engines[0]), "one alone would have all of them"
            assert prompts(world.engines[2])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_new_instance_at_the_address_of_an_old_one_is_never_asked(roll, reach):
    async def train(world):
        async with trained(roll) as cluster:
            await asyncio.to_thread(world.restart, 1)
            await noticed(cluster)
            assert await cluster.strategies[1].generate_request(payload()) == ANSWER
            assert not world.engines[1].asked

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_answer_of_an_engine_that_nobody_has_written_to_is_none(roll, reach):
    """The address came to belong to another instance, and the registry does not say so yet."""

    async def train(world):
        async with trained(roll) as cluster:
            await asyncio.to_thread(world.restart, 1, told=False)
            assert world.engines[1].label == "unsynced"
            assert await cluster.strategies[1].generate_request(payload()) == ANSWER
            assert len(prompts(world.engines[1])) == 1
            assert len(prompts(world.engines[0]) + prompts(world.engines[2])) == 1

    with FakePool() as world:
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize("what", ["its node is lost", "it is gone"])
def test_an_engine_that_ends_in_silence_is_not_waited_for(roll, reach, what):
    """Nobody ends the connection; the registry tells."""

    async def train(world):
        async with trained(roll) as cluster:
            ending = world.engines[2]
            ending.stuck.add(GENERATE)
            asked = asyncio.create_task(cluster.strategies[2].generate_request(payload()))
            await under_way(ending)

            def end():
                if what == "it is gone":
                    world.engines.pop()
                else:
                    ending.state = "Lost"
                world.publish()

            await asyncio.to_thread(world.call, end)
            assert await asyncio.wait_for(asked, 20) == ANSWER
            ending.stuck.clear()

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_prompts_stay_with_their_engine_while_that_lives(roll, reach):
    async def train(world):
        async with trained(roll) as cluster:
            await asyncio.to_thread(world.restart, 1)
            await noticed(cluster)
            for _ in range(6):
                await asyncio.gather(
                    *(s.generate_request(payload(f"{s.engine.rank}")) for s in cluster.strategies)
                )
            assert prompts(world.engines[0]).count("0") == 6
            assert prompts(world.engines[2]).count("2") == 6

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_no_engine_of_another_version_or_behind_a_closed_gate_steps_in(roll, reach, requests):
    async def train(world):
        async with trained(roll) as cluster:
            world.engines[0].gate, world.engines[0].gate_version = "Closed", None
            world.engines[2].gate_version = "step-0"
            await asyncio.to_thread(world.restart, 1)
            await noticed(cluster)
            assert await cluster.strategies[1].generate_request(payload()) == UNFINISHED
            assert not any(prompts(engine) for engine in world.engines)

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_in_a_pool_without_gates_only_engines_that_got_all_updates_step_in(roll, reach, requests):
    async def train(world):
        async with trained(roll, 2) as cluster:
            for engine in world.engines:
                engine.gate = None
            await asyncio.to_thread(world.restart, 0)
            world.engines[0].gate = None
            await asyncio.to_thread(world.call, world.publish)
            await noticed(cluster)
            assert await cluster.strategies[0].generate_request(payload()) == ANSWER
            assert prompts(world.engines[1]) == ["r"]
            await asyncio.to_thread(world.restart, 1)
            world.engines[1].gate = None
            await asyncio.to_thread(world.call, world.publish)
            await noticed(cluster)
            assert await cluster.strategies[0].generate_request(payload()) == UNFINISHED
            assert not any(prompts(engine) for engine in world.engines)

    with FakePool(engines=2, gate="Off") as world:
        asyncio.run(train(reach(world)))


def test_roll_is_told_that_nobody_answered_and_asks_again(roll, reach, requests):
    async def train(world):
        async with trained(roll, 1) as cluster:
            one = cluster.strategies[0]
            await asyncio.to_thread(world.restart, 0)
            await noticed(cluster)
            assert await one.generate_request(payload(n=3)) == {
                "output_token_ids": [[], [], []],
                "finish_reasons": ["abort"] * 3,
                "output_logprobs": [[], [], []],
            }
            await cluster.setup()
            await cluster.model_update("a2")
            assert await one.generate_request(payload()) == ANSWER

    with FakePool(engines=1) as world:
        asyncio.run(train(reach(world)))


def test_a_pool_that_lost_its_policy_for_long_is_an_error(roll, reach, requests, monkeypatch):
    """ROLL makes no model update before it has its answers: nothing would change any more."""
    monkeypatch.setattr(requests, "WITHOUT_SECONDS", 0.3)
    monkeypatch.setattr(requests, "GIVE_UP_SECONDS", 1.5)

    async def train(world):
        async with trained(roll, 1) as cluster:
            one = cluster.strategies[0]
            await asyncio.to_thread(world.restart, 0)
            await noticed(cluster)
            assert await one.generate_request(payload()) == UNFINISHED
            with pytest.raises(NotReady, match="engine 0: Up"):
                while True:
                    assert await one.generate_request(payload()) == UNFINISHED
            await cluster.setup()
            await cluster.model_update("a2")
            assert await one.generate_request(payload()) == ANSWER
            await asyncio.to_thread(world.restart, 0)
            await noticed(cluster)
            assert await one.generate_request(payload()) == UNFINISHED  # counted anew

    with FakePool(engines=1) as world:
        asyncio.run(train(reach(world)))


def test_a_pause_of_rolls_ends_requests_that_wait_for_an_engine(roll, reach):
    async def train(world):
        async with trained(roll, 1) as cluster:
            one = cluster.strategies[0]
            await asyncio.to_thread(world.restart, 0)
            await noticed(cluster)
            waiting = asyncio.create_task(one.generate_request(payload("r1")))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await one.abort_requests(["r1"])
            assert await asyncio.wait_for(waiting, 5) == UNFINISHED
            assert not world.engines[0].asked

    with FakePool(engines=1) as world:
        asyncio.run(train(reach(world)))


def test_aborts_go_where_the_requests_are_and_together(roll, reach):
    async def train(world):
        async with trained(roll) as cluster:
            await asyncio.to_thread(world.restart, 1)
            await noticed(cluster)
            for engine in world.engines:
                engine.stuck |= {GENERATE, ABORT}
            names = [f"r{i}" for i in range(10)]
            asked = [
                asyncio.create_task(cluster.strategies[1].generate_request(payload(name)))
                for name in names
            ]
            while world.engines[0].held + world.engines[2].held < 10:
                await asyncio.sleep(0.01)
            ending = asyncio.create_task(cluster.strategies[1].abort_requests(names))
            while world.engines[0].held + world.engines[2].held < 20:  # none waits for another
                await asyncio.sleep(0.01)
            for engine in world.engines:
                engine.stuck.clear()
            await ending
            await asyncio.gather(*asked)
            for engine in (world.engines[0], world.engines[2]):
                ended = [body["rid"] for path, body in engine.asked if path == ABORT and body]
                assert set(prompts(engine)) <= set(ended)
            assert not world.engines[1].asked

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_abort_that_comes_before_its_request_is_sent_again(roll, reach, requests):
    async def train(world):
        async with trained(roll, 1) as cluster:
            one, engine = cluster.strategies[0], world.engines[0]
            engine.stuck.add(GENERATE)
            asked = asyncio.create_task(one.generate_request(payload()))
            await under_way(engine)
            before = engine.paths().count(ABORT)
            await one.abort_requests(["r"])
            while engine.paths().count(ABORT) < before + 2:
                await asyncio.sleep(0.01)
            engine.stuck.clear()
            await asked
            while any(task.get_name() == "aborts again" for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)
            assert all(body["rid"] == "r" for path, body in engine.asked[-2:] if path == ABORT)

    with FakePool(engines=1) as world:
        asyncio.run(train(reach(world)))


def test_what_cannot_be_aborted_any_more_is_no_error(roll, reach):
    async def train(world):
        async with trained(roll, 2) as cluster:
            await asyncio.to_thread(world.restart, 0, told=False)
            world.engines[0].dead = True  # and has not come back
            await cluster.strategies[0].abort_requests(["r1"])
            await cluster.strategies[0].abort_requests()
            await asyncio.to_thread(world.restart, 1)
            await noticed(cluster)
            await cluster.strategies[1].abort_requests(["r1"])
            assert not world.engines[1].asked

    with FakePool(engines=2) as world:
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (422, 1), (500, 3)])
def test_a_request_that_engines_refuse_is_an_error(roll, reach, requests, status, tries):
    async def train(world):
        async with trained(roll) as cluster:
            for engine in world.engines:
                engine.refuse[GENERATE] = (status, "too long")
            with pytest.raises(EngineError, match="too long"):
                await cluster.strategies[0].generate_request(payload())
            assert sum(len(prompts(engine)) for engine in world.engines) == tries

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_engine_that_is_full_leaves_a_request_to_another(roll, reach):
    async def train(world):
        async with trained(roll) as cluster:
            world.engines[0].refuse[GENERATE] = (503, "The request queue is full.")
            assert await cluster.strategies[0].generate_request(payload()) == ANSWER

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_whoever_wants_no_answer_any_more_gets_none(roll, reach):
    async def train(world):
        async with trained(roll, 1) as cluster:
            world.engines[0].stuck.add(GENERATE)
            asked = asyncio.create_task(cluster.strategies[0].generate_request(payload()))
            await under_way(world.engines[0])
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            world.engines[0].stuck.clear()

    with FakePool(engines=1) as world:
        asyncio.run(train(reach(world)))


def test_a_request_that_ends_engines_does_not_end_all_of_them(roll, reach, requests, caplog):
    async def train(world):
        async with trained(roll, 5) as cluster:
            for engine in world.engines:
                engine.answer = deadly(engine)
            assert await cluster.strategies[0].generate_request(payload()) == UNFINISHED
            assert sum(engine.dead for engine in world.engines) == 3
            assert "3 engines ended over the request r" in caplog.text

    with FakePool(engines=5) as world:
        asyncio.run(train(reach(world)))


def deadly(engine):
    def answer(path, payload):
        engine.dead = path == GENERATE
        return 0, {}

    return answer


@pytest.mark.parametrize("restarted", [[1], [0, 2]])
def test_a_job_without_updates_asks_no_engine_behind_a_closed_gate(roll, reach, restarted):
    """ROLL's rollout pipelines beside a training job: an engine that restarted has no weights."""

    async def run(world):
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="trainer") as pool:
            await pool.update_from_disk("/ckpt/1", "step-1")
        for rank in restarted:
            await asyncio.to_thread(world.restart, rank)
        async with Cluster(roll, 3, address="10.0.0.7") as evaluation:
            assert await evaluation.generate() == [ANSWER] * 3
            assert [e.rank for e in world.engines if not prompts(e)] == restarted

    with FakePool() as world:
        asyncio.run(run(reach(world)))


@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
def test_a_job_without_updates_waits_for_a_commit(roll, reach, requests, caplog, gate):
    async def run(world):
        async with Cluster(roll, 3, address="10.0.0.7") as evaluation:
            asked = asyncio.create_task(evaluation.generate())
            while "no engine with committed ones is open" not in caplog.text:
                assert not asked.done()
                await asyncio.sleep(0.01)
            assert "engine 0: Up, gate Closed" in caplog.text
            assert not any(prompts(engine) for engine in world.engines)
            async with AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="t") as pool:
                await pool.update_from_disk("/ckpt/1", "step-1")
            assert await asked == [ANSWER] * 3

    with FakePool(gate=gate) as world:
        asyncio.run(run(reach(world)))


def test_a_job_without_updates_does_not_wait_for_ever(roll, reach, requests, monkeypatch):
    monkeypatch.setattr(requests, "WITHOUT_SECONDS", 0.3)
    monkeypatch.setattr(requests, "GIVE_UP_SECONDS", 1.0)

    async def run(world):
        async with Cluster(roll, 3, address="10.0.0.7") as evaluation:
            with pytest.raises(NotReady, match="engine 0: Up, gate Closed"):
                await evaluation.generate()
            assert not any(prompts(engine) for engine in world.engines)

    with FakePool() as world:
        asyncio.run(run(reach(world)))


def test_a_worker_asks_its_engine_only_once_an_update_has_written_it(roll, reach):
    """Set up again, and not written yet: others have the policy."""

    async def train(world):
        async with trained(roll) as cluster:
            await asyncio.to_thread(world.restart, 1)
            await cluster.setup("g2")
            assert await cluster.strategies[1].generate_request(payload()) == ANSWER
            assert not prompts(world.engines[1])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize("how", ["nowhere", 404, 429, 503])
def test_engines_that_run_and_never_take_a_request_are_not_asked_for_ever(
    roll, reach, requests, monkeypatch, how
):
    """The trainer may be cut off from their network."""
    monkeypatch.setattr(requests, "GIVE_UP_SECONDS", 3.0)

    async def train(world):
        async with trained(roll) as cluster:
            for engine in world.engines:
                if how == "nowhere":
                    engine.url = "http://127.0.0.1:9"
                else:
                    engine.refuse[GENERATE] = (how, "no")
            world.publish()
            await noticed(cluster)
            cluster.strategies[1]._attach(await cluster.strategies[1].pool.fresh())
            asked = cluster.strategies[1].generate_request
            async with asyncio.timeout(20):
                assert await asked(payload("r1")) == UNFINISHED
                with pytest.raises(
                    NotReady, match=r"\(engine \d .*on /generate: .*cannot be reached"
                ):
                    while True:
                        assert await asked(payload("r2")) == UNFINISHED

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_an_engine_that_is_full_and_answers_others_is_waited_for(roll, reach, requests):
    full = True

    async def train(world):
        nonlocal full
        async with trained(roll) as cluster:
            for engine in world.engines:
                engine.answer = full_for_one(engine.answer)
            asked = cluster.strategies[1].generate_request
            waits = asyncio.create_task(asked(payload("waits")))
            for number in range(8):  # longer than a request may be without an engine
                await asyncio.sleep(0.3)
                assert await asked(payload(f"other-{number}")) == ANSWER
            assert not waits.done()
            full = False
            assert await waits == ANSWER

    def full_for_one(answer):
        def answered(path, body):
            waits = path == GENERATE and body["rid"].startswith("waits")
            return (503, "full") if waits and full else answer(path, body)

        return answered

    with FakePool() as world:
        asyncio.run(train(reach(world)))


@contextlib.asynccontextmanager
async def surging(roll, world):
    """A cluster of two, trained; then a rollout has a new engine up beside worker 1's."""
    async with trained(roll, 2) as cluster:
        await asyncio.to_thread(world.begins)
        await noticed(cluster)
        assert [e.gate for e in world.engines] == ["Open", "Open", "Closed"]
        yield cluster


def test_what_an_engine_has_to_answer_it_answers_beside_the_new_one_of_a_rollout(roll, reach):
    """It serves until the next update, which ROLL does not begin before it has its answers."""

    async def train(world):
        async with trained(roll, 2) as cluster:
            old = world.engines[1]
            old.stuck.add(GENERATE)
            asked = asyncio.create_task(cluster.strategies[1].generate_request(payload()))
            await under_way(old)
            await asyncio.to_thread(world.begins)
            await noticed(cluster)
            await asyncio.sleep(0.2)
            old.stuck.clear()
            assert await asked == ANSWER
            assert prompts(old) == ["r"], "and nobody is asked again"

    with SurgingPool() as world:
        asyncio.run(train(reach(world)))


def test_new_requests_go_to_the_engine_that_serves_beside_the_new_one(roll, reach):
    async def train(world):
        async with surging(roll, world) as cluster:
            assert await cluster.strategies[1].generate_request(payload()) == ANSWER
            assert [prompts(engine) for engine in world.engines] == [[], ["r"], []]

    with SurgingPool() as world:
        asyncio.run(train(reach(world)))


def test_a_job_that_has_written_nothing_asks_who_serves_beside_the_new_ones(roll, reach):
    async def rolls_out(world):
        async with Cluster(roll, 2) as cluster:
            await asyncio.to_thread(world.begins)
            await noticed(cluster)
            assert await cluster.strategies[1].generate_request(payload()) == ANSWER
            assert [prompts(engine) for engine in world.engines][2] == []

    with SurgingPool() as world:
        reach(world)
        with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-b") as trainer:
            trainer.update_from_disk("/c/1", "step-1")
        for engine in world.engines:
            engine.asked.clear()
        asyncio.run(rolls_out(world))


def test_an_engine_that_ends_beside_the_new_one_leaves_its_requests_to_another(roll, reach):
    async def train(world):
        async with surging(roll, world) as cluster:
            old = world.engines[1]
            old.stuck.add(GENERATE)
            asked = asyncio.create_task(cluster.strategies[1].generate_request(payload()))
            await under_way(old)

            def ends():
                old.dead, old.state = True, "Backoff"
                world.publish()

            await asyncio.to_thread(world.call, ends)
            assert await asked == ANSWER
            assert prompts(world.engines[0]) == ["r-try2"]

    with SurgingPool() as world:
        asyncio.run(train(reach(world)))
