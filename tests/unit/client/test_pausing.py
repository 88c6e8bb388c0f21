"""Pauses as the fake engine, which keeps a prefix cache as the real one, lives through them."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from sglang_operator.client import Pool, Unsupported, pausing
from sglang_operator.testing import ports
from sglang_operator.testing.engine import weights
from sglang_operator.testing.engine.process import FakeEngine
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.testing.engine.test_parts import ask

HOLDER = "trainer-a"
PROMPT = {"input_ids": list(range(20, 60)), "sampling_params": {"max_new_tokens": 4}}
LONG = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 3000, "ignore_eos": True}}


class Told(NamedTuple):
    """A fake engine, and the pool that it is."""

    url: str
    version: str
    control: str
    world: FakePool
    pool: Pool


@pytest.fixture(params=["0.5.6.post2", "0.5.9", "0.5.14", "0.5.23"])
def engine(request):
    control = ports.free()
    settings = {"version": request.param, "load_seconds": 0, "control_port": control}
    with (
        FakeEngine(["--load-format=dummy"], **settings) as real,
        FakePool(engines=1, version=request.param) as world,
    ):
        real.wait_ready()
        world.engines[0].url = real.url
        world.publish()
        with Pool(POOL, NAMESPACE, identity=world.identity, holder=HOLDER) as pool:
            yield Told(real.url, request.param, f"http://127.0.0.1:{control}", world, pool)


def load(engine: Told, stop: threading.Event, answers: list[Any]) -> None:
    while not stop.is_set():
        answers.append(ask(f"{engine.url}/generate", LONG, timeout=60))


def sync(pool: Pool, version: str, **options: Any) -> None:
    with pool.sync(version, **options) as step:
        bucket = weights.bucket(None, version)
        step.update_weights_from_tensor({"serialized_named_tensors": [bucket]})


def test_no_answer_comes_from_the_cache_of_the_weights_before(engine):
    pool = engine.pool
    sync(pool, "step-1")
    assert ask(f"{engine.url}/generate", PROMPT)["fake_weights"]["stamp"] == "step-1"
    assert ask(f"{engine.url}/generate", PROMPT)["meta_info"]["cached_tokens"] > 0
    for pause in ("abort", None):
        sync(pool, f"step-{pause}", pause=pause)
        told = ask(f"{engine.url}/generate", PROMPT)["fake_weights"]
        assert (told["state"], told["stamp"]) == ("whole", f"step-{pause}")


def test_without_a_flush_there_would_be_such_answers(engine):
    """The control: what the test above looks for is there to be found."""
    pool = engine.pool
    sync(pool, "step-1")
    ask(f"{engine.url}/generate", PROMPT)
    bucket = {"serialized_named_tensors": [weights.bucket(None, "step-2")], "flush_cache": False}
    if "0.5.23" in engine.version:
        ask(f"{engine.url}/begin_weight_update", {})
    ask(f"{engine.url}/update_weights_from_tensor", bucket)
    assert ask(f"{engine.url}/generate", PROMPT)["fake_weights"]["state"] == "stale"


@pytest.mark.parametrize("how", ["tensor", "disk"])
def test_a_sync_under_load_ends_what_runs_and_leaves_no_cache(engine, how):
    world, pool = engine.world, engine.pool
    answers: list[Any] = []
    stop = threading.Event()
    clients = [threading.Thread(target=load, args=(engine, stop, answers)) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for number in range(3):
            ask(f"{engine.url}/generate", PROMPT)
            version = f"step-{number}"
            if how == "tensor":
                sync(pool, version)
            else:
                pool.update_from_disk(f"/c/{version}", version)
            told = ask(f"{engine.url}/generate", PROMPT, timeout=30)
            assert told["fake_weights"]["state"] == "whole"
            assert told["meta_info"]["cached_tokens"] == 0
            assert told["meta_info"]["weight_version"] == version
    finally:
        stop.set()
        ask(f"{engine.url}/abort_request", {"rid": "", "abort_all": True})
        for client in clients:
            client.join(30)
            assert not client.is_alive()
    assert {answer["meta_info"]["finish_reason"]["type"] for answer in answers} == {"abort"}
    assert world.engines[0].gate == "Open"


def test_a_sync_after_a_wake_that_failed_ends_requests_that_were_answered_whole(engine):
    """The Lease names the sleepers still, and who of them has woken: requests run there."""
    world, pool = engine.world, engine.pool
    sync(pool, "step-0")
    answers: list[Any] = []
    stop = threading.Event()
    clients = [threading.Thread(target=load, args=(engine, stop, answers)) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for number in range(1, 4):
            while ask(f"{engine.control}/state")["requests"] < len(clients):
                time.sleep(0.01)
            run = world.engines[0].instance
            woken = {"asleep": (run,), "woken": frozenset({f"{run}/kv_cache"})}
            state = replace(world.state, phase=Phase.SLEEPING, released=("kv_cache",), **woken)
            world.write_lease(replace(state, holder=HOLDER))
            with pool.sync(f"step-{number}") as step:
                for part in range(3):
                    bucket = weights.bucket(weights.names(2)[part::3], f"step-{number}")
                    step.update_weights_from_tensor({"serialized_named_tensors": [bucket]})
    finally:
        stop.set()
        ask(f"{engine.url}/abort_request", {"rid": "", "abort_all": True})
        for client in clients:
            client.join(30)
    told = [(answer["fake_weights"]["state"], bool(answer["output_ids"])) for answer in answers]
    assert len(told) >= 3 * len(clients)
    assert set(told) <= {("whole", True), ("none", False)}


def test_kept_requests_go_on_with_the_new_weights(engine):
    pool = engine.pool
    if engine.version == "0.5.14":
        with pytest.raises(Unsupported, match="while requests wait"):
            sync(pool, "step-1", pause="retract")
        return
    answers: list[Any] = []
    client = threading.Thread(
        target=lambda: answers.append(ask(f"{engine.url}/generate", LONG, timeout=60))
    )
    client.start()
    while not ask(f"{engine.control}/state")["requests"]:
        time.sleep(0.01)
    sync(pool, "step-1", pause="retract")
    ask(f"{engine.url}/abort_request", {"rid": "", "abort_all": True})
    client.join(30)
    assert answers[0]["fake_weights"]["stamp"] == "step-1"


FORM = {"json_schema": '{"type": "object"}'}


def rollouts(engine: Told, stop: threading.Event, number: int, form: dict[str, Any]) -> None:
    prompt = list(range(20 + number, 80))
    sampling = {"max_new_tokens": 3, "n": 4, **form}
    while not stop.is_set():
        with contextlib.suppress(OSError):  # of an engine that dies, the test tells
            ask(
                f"{engine.url}/generate",
                {"input_ids": prompt, "sampling_params": sampling},
                timeout=60,
            )


@contextlib.contextmanager
def under_rollouts(engine: Told, form: dict[str, Any]) -> Iterator[None]:
    """Requests for several samples, which follow their prompts into an engine that is paused."""
    stop = threading.Event()
    clients = [
        threading.Thread(target=rollouts, args=(engine, stop, i, form), daemon=True)
        for i in range(12)
    ]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stop.set()


@pytest.mark.parametrize(("how", "form"), [("tensor", FORM), ("disk", {})], ids=["tensor", "disk"])
def test_samples_that_come_late_are_in_the_way_of_no_sync(engine, how, form, monkeypatch):
    monkeypatch.setattr(pausing, "IDLE_SECONDS", 4.0)
    sync(engine.pool, "step-0")
    with under_rollouts(engine, form):
        for number in range(1, 5):
            version = f"step-{number}"
            if how == "tensor":
                sync(engine.pool, version)
            else:
                engine.pool.update_from_disk(f"/c/{version}", version)
            time.sleep(0.05)  # for rollouts to be under way again
    assert engine.world.state.version == "step-4"
