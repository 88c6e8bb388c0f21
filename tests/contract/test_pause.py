"""Pauses, what probes see of them, and what they leave in the cache."""

import asyncio

from tests.contract import scenarios
from tests.contract.contract import contract
from tests.contract.subject import LONG, Answer, Subject, waits

SWITCH = {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}


async def pause(engine: Subject, mode: str = "abort") -> None:
    """From 0.5.6 on a pause has a mode and needs a body."""
    answer = await engine.post("/pause_generation", {"mode": mode})
    assert answer.status == 200
    assert answer.json == {"message": "Generation paused successfully.", "status": "ok"}


async def go_on(engine: Subject) -> None:
    """The end of a pause."""
    answer = await engine.post("/continue_generation", {})
    assert answer.status == 200
    assert answer.json == {"message": "Generation continued successfully.", "status": "ok"}


@contract(shared=True, since="0.4.10")
async def test_a_request_to_a_paused_engine_waits_for_its_end(engine: Subject):
    """explanation/sglang.md: answered after /continue_generation."""
    await pause(engine)
    task = engine.later("POST", "/generate", {"input_ids": [1], "sampling_params": {}})
    assert await waits(task)
    assert (await engine.versioned_info())["is_generation"]  # it answers everything else
    await go_on(engine)
    assert (await task).status == 200


@contract(shared=True, since="0.4.10")
async def test_a_pause_aborts_what_runs(engine: Subject):
    """tokenizer_manager.py: mode abort, the default."""
    task = engine.later("POST", "/generate", LONG)
    assert await waits(task, 0.3)
    await pause(engine)
    assert (await task).json["meta_info"]["finish_reason"]["type"] == "abort"
    await go_on(engine)


@contract(shared=True, since="0.5.6")
async def test_what_runs_can_be_held_in_place(engine: Subject):
    """scheduler.py: mode in_place; it goes on afterwards."""
    task = engine.later("POST", "/generate", {**LONG, "rid": "held"})
    assert await waits(task, 0.3)
    await pause(engine, "in_place")
    assert await waits(task)
    await go_on(engine)
    assert await waits(task, 0.1)
    await engine.post("/abort_request", {"rid": "held"})
    found = (await task).json
    assert found["meta_info"]["finish_reason"]["type"] == "abort"
    assert found["meta_info"]["completion_tokens"] > 0


@contract(shared=True, since="0.5.6")
async def test_a_pause_without_a_body_or_with_another_mode_is_refused(engine: Subject):
    """http_server.py: the body is a parameter from 0.5.6 on."""
    assert (await engine.post("/pause_generation", None)).status == 400
    assert (await engine.post("/continue_generation", None)).status == 400
    assert (await engine.generate()).status == 200  # neither did anything


@contract(shared=True, since="0.4.10", until="0.5.6")
async def test_a_pause_needed_no_body_before_0_5_6(engine: Subject):
    """Wheels of 0.4.10.post2 to 0.5.5.post3."""
    assert (await engine.post("/pause_generation", None)).status == 200
    assert (await engine.post("/continue_generation", None)).status == 200


@contract(since="0.5.6", environment=SWITCH)
async def test_probes_that_do_not_generate_take_a_pause_for_health(engine: Subject):
    """explanation/sglang.md; /ready: is_ready in tokenizer_manager.py, from 0.5.20."""
    await pause(engine)
    assert (await engine.get("/health")).status == 200
    if engine.target.since("0.5.20"):
        assert (await engine.get("/ready")).status == 503
    await go_on(engine)
    if engine.target.since("0.5.20"):
        assert (await engine.get("/ready")).status == 200


@contract(since="0.4.10", environment={"SGLANG_HEALTH_CHECK_TIMEOUT": "2"})
async def test_a_generating_probe_fails_during_a_pause(engine: Subject):
    """http_server.py: the probe's request waits behind the pause until the time is up."""
    await pause(engine)
    answer = await engine.get("/health")
    assert answer.status == 503
    assert answer.seconds >= 1.9
    await go_on(engine)
    assert (await engine.generate()).status == 200


PROMPT = {"input_ids": [11, 12, 13, 14, 15, 16, 17, 18], "sampling_params": {"max_new_tokens": 4}}


async def retract(engine: Subject) -> "asyncio.Task[Answer]":
    """A request that runs, then waits off the GPU."""
    task = engine.later("POST", "/generate", LONG)
    assert await waits(task, 0.3)
    await pause(engine, "retract")
    return task


@contract(shared=True, since="0.5.6")
async def test_what_was_retracted_can_be_ended_at_once_and_the_cache_emptied(engine: Subject):
    """Measured on 0.5.14: 2 ms, then a flush that goes through; clients get what there was."""
    task = await retract(engine)
    await engine.post("/abort_request", {"rid": "", "abort_all": True})
    assert (await task).json["meta_info"]["finish_reason"]["type"] == "abort"
    assert (await engine.post("/flush_cache", {})).status == 200
    await go_on(engine)
    assert (await engine.generate()).status == 200


@contract(shared=True, since="0.5.6", until="0.5.10")
async def test_a_flush_did_not_mind_retracted_requests_before_0_5_10(engine: Subject):
    """scheduler.py: _is_no_request looks at what runs."""
    task = await retract(engine)
    assert (await engine.post("/flush_cache", {})).status == 200
    await end(engine, task)


@contract(shared=True, since="0.5.10", until="0.5.21")
async def test_a_flush_is_refused_for_retracted_requests_until_0_5_20(engine: Subject):
    """scheduler.py: is_fully_idle counts what waits; measured on 0.5.14."""
    task = await retract(engine)
    assert (await engine.post("/flush_cache", {})).status == 400
    await end(engine, task)


@contract(shared=True, since="0.5.21")
async def test_a_flush_in_a_pause_does_not_mind_retracted_requests_again(engine: Subject):
    """scheduler.py of 0.5.21: ignore_waiting."""
    task = await retract(engine)
    assert (await engine.post("/flush_cache", {})).status == 200
    await end(engine, task)


@contract(shared=True, since="0.5.6")
async def test_what_is_held_in_place_ends_after_the_pause_and_keeps_the_cache(engine: Subject):
    """Measured on 0.5.14."""
    task = engine.later("POST", "/generate", LONG)
    assert await waits(task, 0.3)
    await pause(engine, "in_place")
    await engine.post("/abort_request", {"rid": "", "abort_all": True})
    assert await waits(task, 0.3)
    assert (await engine.post("/flush_cache", {})).status == 400
    await go_on(engine)
    assert (await task).json["meta_info"]["finish_reason"]["type"] == "abort"


async def end(engine: Subject, task: "asyncio.Task[Answer]") -> None:
    """Let everything go on, and end the long request."""
    await go_on(engine)
    await engine.post("/abort_request", {"rid": "", "abort_all": True})
    assert (await task).json["meta_info"]["finish_reason"]["type"] == "abort"


@contract(since="0.5.6", until="0.5.21")
async def test_a_prefix_cache_outlives_the_weights_that_filled_it(engine: Subject):
    """Measured on 0.5.14: 95 of 96 tokens from the old policy's cache, until it is flushed."""
    first = (await engine.generate(PROMPT)).json["meta_info"]["cached_tokens"]
    body = {**scenarios.tensors("lm_head.weight", 0.5), "flush_cache": False}
    assert (await engine.post("/update_weights_from_tensor", body)).status == 200
    again = (await engine.generate(PROMPT)).json["meta_info"]["cached_tokens"]
    assert (first, again > 0) == (0, True)
    assert (await engine.post("/flush_cache", {})).status == 200
    assert (await engine.generate(PROMPT)).json["meta_info"]["cached_tokens"] == 0
