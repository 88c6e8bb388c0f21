"""Released memory, and what kills an engine that sleeps."""

from typing import Any

from sglang_operator.engine import versions
from tests.contract.contract import contract
from tests.contract.subject import LONG, TOKENS, Subject, waits
from tests.contract.targets import ARGUMENTS
from tests.contract.test_pause import go_on, pause

SWITCH = {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}
KEEPS = tuple(name for name in ARGUMENTS if name != "--enable-memory-saver")


async def release(engine: Subject, tags: list[str] | None = None) -> None:
    """Let go of GPU memory."""
    answer = await engine.post("/release_memory_occupation", {"tags": tags} if tags else {})
    assert answer.status == 200


async def resume(engine: Subject, tags: list[str] | None = None) -> None:
    """Take it back."""
    answer = await engine.post("/resume_memory_occupation", {"tags": tags} if tags else {})
    assert answer.status == 200


@contract(environment=SWITCH)
async def test_a_sleeping_engine_can_be_asked_everything_that_does_not_generate(engine: Subject):
    """explanation/sglang.md: release, resume, and everything works."""
    await release(engine)
    await engine.versioned_info()
    if engine.target.since("0.5.6"):
        assert (await engine.get("/health")).status == 200
    await resume(engine)
    assert (await engine.get("/health_generate")).status == 200
    assert (await engine.generate()).status == 200


@contract(since="0.4.10")
async def test_memory_can_be_taken_back_in_parts(engine: Subject):
    """scheduler_update_weights_mixin.py: tags, from 0.4.10."""
    await release(engine)
    await resume(engine, ["weights"])
    await resume(engine, ["kv_cache"])
    if engine.target.since("0.5.4.post2"):
        await resume(engine, ["cuda_graph"])
    assert (await engine.generate()).status == 200


@contract()
async def test_a_request_kills_a_sleeping_engine(engine: Subject):
    """explanation/sglang.md: connection dropped, whole server dead, 137."""
    await release(engine)
    assert await engine.dropped("POST", "/generate", TOKENS)
    assert await engine.ended() == 137
    assert "Scheduler hit an exception" in engine.log
    assert "cannot be accessed from Triton (cpu tensor?)" in engine.log


@contract(since="0.4.10")
async def test_a_generating_probe_kills_a_sleeping_engine(engine: Subject):
    """engine-logs/health-probe-while-memory-released.txt."""
    await release(engine)
    assert await engine.dropped("GET", "/health")
    assert await engine.ended() == 137


@contract(since="0.5.6", environment=SWITCH)
async def test_the_switch_does_not_save_health_generate(engine: Subject):
    """explanation/sglang.md: /health_generate still really generates."""
    await release(engine)
    assert await engine.dropped("GET", "/health_generate")
    assert await engine.ended() == 137


@contract()
async def test_a_resume_without_a_release_kills(engine: Subject):
    """explanation/sglang.md, Weights: set.remove on the tags that were released."""
    assert await engine.dropped("POST", "/resume_memory_occupation", {})
    assert await engine.ended() == 137
    wanted = "KeyError" if engine.target.since("0.5.2") else "AttributeError"
    assert wanted in engine.log


@contract()
async def test_a_release_while_requests_run_kills(engine: Subject):
    """weight_updater.py: asserted from 0.5.4.post2, unmapped under a running forward before."""
    task = engine.later("POST", "/generate", LONG)
    assert await waits(task, 0.3)
    assert await engine.dropped("POST", "/release_memory_occupation", {})
    assert await engine.ended() == 137
    task.cancel()


@contract()
async def test_a_second_release_kills(engine: Subject):
    """tests/data/real-engine/0.5.14-release-twice.json."""
    await release(engine)
    assert await engine.dropped("POST", "/release_memory_occupation", {})
    assert await engine.ended() == 137
    assert "Cannot pause allocation that is not active." in engine.log


@contract(base=KEEPS)
async def test_without_the_memory_saver_nothing_is_released(engine: Subject):
    """torch_memory_saver_adapter.py: the adapter that does nothing."""
    await release(engine)
    assert (await engine.generate()).status == 200
    await resume(engine)
    assert (await engine.generate()).status == 200


@contract()
async def test_an_engine_says_that_it_has_a_memory_saver(engine: Subject):
    """tests/data/real-engine/0.5.14-information.json: its arguments."""
    assert (await _server_info(engine))["enable_memory_saver"] is True


@contract(base=KEEPS)
async def test_an_engine_says_that_it_has_none_and_a_release_frees_nothing(engine: Subject):
    """What it says of memory is what it took at its start, before and after a release."""
    before = await _server_info(engine)
    assert before["enable_memory_saver"] is False
    await release(engine)
    assert _told(await _server_info(engine)) == _told(before)


@contract()
async def test_what_it_says_of_memory_does_not_tell_a_release_either(engine: Subject):
    """scheduler.py: internal_states[0].memory_usage is computed when the engine starts."""
    before = _told(await _server_info(engine))
    await release(engine)
    assert _told(await _server_info(engine)) == before


async def _server_info(engine: Subject) -> dict[str, Any]:
    answer = await engine.get(versions.features(engine.target.version).server_info_path)
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


def _told(info: dict[str, Any]) -> Any:
    states = info.get("internal_states") or [{}]
    return states[0].get("memory_usage")


@contract(since="0.4.10", environment=SWITCH)
async def test_a_pause_protects_a_sleeping_engine_from_requests(engine: Subject):
    """tests/data/real-engine/0.5.14-sleep-in-a-pause.json: it waits, and is answered."""
    await pause(engine)
    await release(engine)
    task = engine.later("POST", "/generate", TOKENS)
    assert await waits(task)
    await resume(engine)  # the request goes on waiting: the pause holds it, not the memory
    assert await waits(task, 0.2)
    await go_on(engine)
    assert (await task).status == 200
