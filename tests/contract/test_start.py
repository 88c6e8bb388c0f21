"""From the command line to the first answer."""

import asyncio

import aiohttp
import pytest

from sglang_operator.engine import diagnosis
from tests.contract.contract import contract
from tests.contract.subject import Subject


@contract(arguments=["--no-such-flag", "1"], ready=False)
async def test_an_unknown_flag_ends_with_2_and_is_named_last(engine: Subject):
    """engine-logs/unknown-flag.txt; the program's name from 0.5.14 on: server_args.py."""
    assert await engine.ended(60) == 2
    program = "sglang serve" if engine.target.since("0.5.14") else "launch_server.py"
    assert engine.last_line == f"{program}: error: unrecognized arguments: --no-such-flag 1"


@contract(arguments=["--mem-fraction-static", "abc"], ready=False)
async def test_a_value_that_is_no_number_ends_with_2_and_is_named_last(engine: Subject):
    """engine-logs/bad-value.txt."""
    assert await engine.ended(60) == 2
    assert engine.last_line.endswith(
        "error: argument --mem-fraction-static: invalid float value: 'abc'"
    )


@contract(arguments=["--load-format", "nope"], ready=False)
async def test_a_choice_that_is_none_ends_with_2_and_the_choices(engine: Subject):
    """engine-logs/bad-choice.txt."""
    assert await engine.ended(60) == 2
    assert "error: argument --load-format: invalid choice: 'nope' (choose from " in engine.last_line


@contract(arguments=["--trust-remote-code", "true"], ready=False)
async def test_a_flag_without_value_takes_none(engine: Subject):
    """explanation/sglang.md, The command line."""
    assert await engine.ended(60) == 2
    assert engine.last_line.endswith("error: unrecognized arguments: true")


@contract(arguments=["--model-path=/models/missing"], ready=False)
async def test_a_model_that_is_not_there_ends_with_1(engine: Subject):
    """engine-logs/model-not-found.txt."""
    assert await engine.ended(90) == 1
    assert "'/models/missing'. Use `repo_type` argument if needed." in engine.log


@contract(
    arguments=["--mem-fraction-static", "0.001"],
    environment={"FAKE_SGLANG_MIN_MEM_FRACTION": "0.002"},
    ready=False,
)
async def test_too_little_memory_for_the_cache_ends_with_137(engine: Subject):
    """engine-logs/kv-cache-too-small.txt."""
    assert await engine.ended(120) == 137
    assert (
        "Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.001. "
        "Raise --mem-fraction-static above 0.0"
    ) in engine.log
    assert diagnosis.diagnose(engine.log[-2048:], 137, "Error").reason == "KVCacheTooSmall"
    assert "Received sigquit from a child process." in engine.log


@contract(arguments=["--tp-size", "2"], environment={"FAKE_SGLANG_GPUS": "1"}, ready=False)
async def test_more_ranks_than_gpus_end_with_137(engine: Subject):
    """engine-logs/gpu-missing.txt."""
    assert await engine.ended(120) == 137
    assert "CUDA error: invalid device ordinal" in engine.log


@contract(
    environment={"FAKE_SGLANG_LOAD_SECONDS": "2", "FAKE_SGLANG_WARM_UP_SECONDS": "3"}, ready=False
)
async def test_it_refuses_connections_until_it_has_loaded(engine: Subject):
    """explanation/sglang.md: from exec to the first HTTP answer 38 s, to healthy 94 s."""
    seen: list[int] = []
    while not seen or seen[-1] != 200:
        await asyncio.sleep(0.05)
        try:
            answer = await engine.get("/health")
        except aiohttp.ClientConnectionError:
            seen.append(0)
        else:
            seen.append(answer.status)
    states = [state for i, state in enumerate(seen) if i == 0 or seen[i - 1] != state]
    if engine.target.since("0.4.10"):
        assert states == [0, 503, 200]  # 503 while it warms up
    else:
        assert states == [0, 200]  # a constant (wheel of 0.4.6.post5, http_server.py)


@contract(since="0.5.2", arguments=["--weight-version=unset"])
async def test_the_version_of_weights_begins_with_the_flag(engine: Subject):
    """explanation/sglang.md: --weight-version is a sentinel for engines that restarted."""
    assert (await engine.versioned_info())["weight_version"] == "unset"
    answer = await engine.generate()
    assert answer.json["meta_info"]["weight_version"] == "unset"


@contract(until="0.5.2", arguments=["--weight-version=unset"], ready=False)
async def test_there_was_no_version_of_weights_before_0_5_2(engine: Subject):
    """explanation/sglang.md."""
    assert await engine.ended() == 2


@contract()
async def test_a_port_that_is_taken_ends_it(engine: Subject):
    """explanation/sglang.md, Ends: uvicorn's words, after the model has loaded; 3 on 0.5.14."""
    second = Subject(engine.target, environment=engine.environment)
    second.port = engine.port
    async with second:
        assert await second.ended(120) == (3 if engine.target.since("0.5.14") else 1)
        assert "[Errno 98] error while attempting to bind on address" in second.log


pytestmark = pytest.mark.filterwarnings("error")
