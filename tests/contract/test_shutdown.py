"""SIGTERM."""

import asyncio
import signal

from tests.contract.contract import contract
from tests.contract.subject import LONG, Answer, Subject, waits
from tests.contract.test_pause import pause


async def taken(engine: Subject, task: asyncio.Task[Answer]) -> bool:
    """Whether the engine has this request and works on it: what was asked later is answered."""
    waiting = await waits(task, 0.3 if engine.target.real else 0.1)
    await engine.versioned_info()
    return waiting and not task.done()


@contract()
async def test_an_idle_engine_ends_on_sigterm(engine: Subject):
    """sigterm_watchdog: SIGKILL of its own tree; an orderly exit from 0.5.20 on."""
    engine.signal(signal.SIGTERM)
    assert await engine.ended(40) == (0 if engine.target.since("0.5.20") else 137)
    assert "SIGTERM received." in engine.log
    assert "racefully exiting... " in engine.log


@contract(environment={"FAKE_SGLANG_LOAD_SECONDS": "30"}, ready=False)
async def test_an_engine_that_loads_has_no_handler_for_sigterm(engine: Subject):
    """explanation/sglang.md, Shutdown: 143, and nothing at all as PID 1."""
    await engine.until(lambda: "server_args=" in engine.log, 60)
    engine.signal(signal.SIGTERM)
    assert await engine.ended(10) == 143


@contract()
async def test_the_drain_has_no_end_while_a_request_runs(engine: Subject):
    """explanation/sglang.md: /health 503 at once, and it never exits by itself."""
    task = engine.later("POST", "/generate", {**LONG, "rid": "stuck"})
    assert await taken(engine, task)
    engine.signal(signal.SIGTERM)
    await engine.until(lambda: "SIGTERM received." in engine.log)
    if engine.target.since("0.4.10"):
        assert (await engine.get("/health")).status == 503
    await engine.until(lambda: "emaining number of requests 1" in engine.log, 20)
    assert await waits(task, 0.5)
    await engine.post("/abort_request", {"rid": "stuck"})
    assert (await task).json["meta_info"]["finish_reason"]["type"] == "abort"
    await engine.ended(40)


@contract(since="0.4.10")
async def test_requests_that_wait_for_a_pause_stop_the_drain_from_0_5_14(engine: Subject):
    """tokenizer_manager.py: only from then on are they counted before they are sent on."""
    await pause(engine)
    task = engine.later("POST", "/generate", LONG)
    assert await taken(engine, task)
    engine.signal(signal.SIGTERM)
    if not engine.target.since("0.5.14"):
        assert await engine.ended(40) == 137
    else:
        await engine.until(lambda: "emaining number of requests 1" in engine.log, 20)
        await asyncio.sleep(0.5)
        assert engine.process is not None
        assert engine.process.poll() is None
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


@contract(since="0.4.10", environment={"SGL_FORCE_SHUTDOWN": "true"})
async def test_the_drain_can_be_switched_off(engine: Subject):
    """sigterm_watchdog: SGL_FORCE_SHUTDOWN."""
    task = engine.later("POST", "/generate", LONG)
    assert await taken(engine, task)
    engine.signal(signal.SIGTERM)
    await engine.ended(40)
    await asyncio.wait({task})
    assert task.exception() is not None
