"""Requests to engines: bounded, decoded, and not trusted."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from sglang_operator import sending
from sglang_operator.controller.asking import SENDING_SECONDS
from sglang_operator.fleet import answers
from sglang_operator.fleet.client import (
    EngineClient,
    EngineRequestError,
    EngineUnreachableError,
    NotAllowedError,
)
from sglang_operator.weights.lease_state import LEASE_SECONDS
from tests.unit.fleet.engines import Engine, an_engine

SUCCESS: dict[str, Any] = {"success": True, "message": "ok"}
PAUSE = ("/pause_generation", "/abort_request")
UPDATE, FLUSH = "/update_weights_from_disk", "/flush_cache"
LABEL = "/update_weight_version"


def paused() -> Any:
    """The answers of an engine that can be paused."""
    return {"pause_generation": {}, "abort_request": {}}


INFO: dict[str, Any] = {
    "version": "0.5.14",
    "mem_fraction_static": 0.7,
    "max_total_num_tokens": 123456,
    "max_running_requests": 256,
    "context_length": None,
    "attention_backend": "fa3",
    "api_key": "secret",
    "admin_api_key": "secret",
    "internal_states": [{"anything": [1, 2, 3]}],
}


def with_engine(
    test: Callable[[EngineClient, Engine], Awaitable[None]], timeout: float = 5.0, **told: Any
) -> None:
    """Run the test with a client and an engine that answers this."""

    async def run() -> None:
        async with (
            EngineClient(user_agent="test", timeout=timeout) as requests,
            an_engine(**told) as engine,
        ):
            await test(requests, engine)

    asyncio.run(run())


def test_the_weight_version_is_read():
    async def test(requests: EngineClient, engine: Engine) -> None:
        info = await requests.get(engine.url, "/model_info", answers.MODEL_INFO)
        assert info.weight_version == "step-7"
        assert requests.requests == {("/model_info", 200): 1}

    with_engine(test, model_info={"weight_version": "step-7", "model_path": "/models/m"})


def test_what_an_engine_runs_with_is_read_without_its_keys():
    async def test(requests: EngineClient, engine: Engine) -> None:
        info = await requests.get(engine.url, "/server_info", answers.SERVER_INFO)
        assert info.resolved.version == "0.5.14"
        assert info.resolved.max_total_tokens == 123456
        assert info.resolved.context_length is None
        assert "secret" not in repr(info)

    with_engine(test, server_info=INFO)


@pytest.mark.parametrize(
    ("told", "status"),
    [
        pytest.param("no JSON", 200, id="no JSON"),
        pytest.param([1, 2], 200, id="a list"),
        pytest.param({"weight_version": 7}, 200, id="a number"),
        pytest.param(503, 503, id="an error status"),
        pytest.param(302, 302, id="a redirect"),
    ],
)
def test_an_answer_that_is_not_expected_is_an_error(told, status):
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineRequestError) as error:
            await requests.get(engine.url, "/model_info", answers.MODEL_INFO)
        assert error.value.status == status

    with_engine(test, model_info=told)


def test_an_answer_without_end_is_cut_off(monkeypatch):
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineRequestError, match="larger than 1000 bytes"):
            await requests.get(engine.url, "/model_info", answers.MODEL_INFO, most=1000)

    with_engine(test, model_info="x" * 70_000)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 200_000, id="nested"),
        pytest.param('{"weight_version": ' + '{"a":' * 200_000, id="nested where text is expected"),
        pytest.param('{"x": ' + "[" * 200_000, id="nested where it is skipped"),
        pytest.param("{", id="cut"),
        pytest.param("", id="empty"),
        pytest.param("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), id="no UTF-8"),
    ],
)
def test_an_answer_that_cannot_be_decoded_is_an_error_whatever_it_is(text):
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineRequestError):
            await requests.get(engine.url, "/model_info", answers.MODEL_INFO)

    with_engine(test, model_info=text)


def test_an_answer_is_read_as_it_was_sent_and_never_unpacked():
    """A compressed answer of a thousand bytes could be a million, or a thousand million."""

    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineRequestError, match="not expected"):
            await requests.get(engine.url, "/model_info", answers.MODEL_INFO)
        assert engine.headers[-1]["Accept-Encoding"] == "identity"

    body = gzip.compress(b'{"weight_version": "step-7"}')
    with_engine(test, model_info=web.Response(body=body, headers={"Content-Encoding": "gzip"}))


def test_an_engine_that_does_not_answer_in_time_is_unreachable():
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineUnreachableError, match="no answer in time"):
            await requests.get(engine.url, "/model_info", answers.MODEL_INFO)
        assert requests.requests == {("/model_info", 0): 1}

    with_engine(test, timeout=0.05, model_info=None)


def test_an_engine_that_is_not_there_is_unreachable():
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineUnreachableError):
            await requests.get("http://127.0.0.1:9", "/model_info", answers.MODEL_INFO)

    with_engine(test)


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")

    async def test(requests: EngineClient, engine: Engine) -> None:
        assert await requests.probe(engine.url, "/ready")

    with_engine(test, ready={})


def test_a_refusal_is_told_from_a_passing_error():
    async def test(requests: EngineClient, engine: Engine) -> None:
        for path, refused in (("/locked", True), ("/nowhere", True), ("/busy", False)):
            with pytest.raises(EngineRequestError) as error:
                await requests.get(engine.url, path, answers.MODEL_INFO)
            assert error.value.refused is refused

    with_engine(test, locked=401, busy=500)


def test_weights_are_read_from_disk_in_a_format_that_a_dummy_engine_takes():
    async def test(requests: EngineClient, engine: Engine) -> None:
        await requests.update_weights_from_disk(
            engine.url, path="/ckpt/7", version="step-7", pause="retract", allowed=lambda: True
        )
        assert [path for _, path, _ in engine.asked] == [*PAUSE, UPDATE, FLUSH, LABEL]
        load, label = engine.asked[2][2], engine.asked[4][2]
        assert load == {"model_path": "/ckpt/7", "load_format": "auto", "flush_cache": False}
        # A Versioned gate opens to the name: it comes last, and ends nothing.
        assert label == {"new_version": "step-7", "abort_all_requests": False}

    with_engine(test, update_weights_from_disk=SUCCESS, flush_cache={}, **paused())


@pytest.mark.parametrize("is_open", [True, False], ids=["an open session", "no session"])
def test_a_session_that_a_trainer_left_open_ends_before_weights_are_read(is_open):
    """Its end would change what was loaded once more, and answers are wrong until then."""
    said = "no weight-update session is open; call begin_weight_update() first"
    none = {"status": 400, "body": {"success": False, "message": said}}

    async def test(requests: EngineClient, engine: Engine) -> None:
        await requests.update_weights_from_disk(
            engine.url, path="/c", version="v", pause="retract", session=True, allowed=lambda: True
        )
        asked = [path for _, path, _ in engine.asked]
        assert asked == [*PAUSE, "/end_weight_update", UPDATE, FLUSH, LABEL]

    ends = SUCCESS if is_open else none
    answers: dict[str, Any] = {
        "end_weight_update": ends,
        "update_weights_from_disk": SUCCESS,
        "flush_cache": {},
    }
    with_engine(test, **answers, **paused())


def test_nothing_is_read_into_an_engine_whose_session_does_not_end():
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineRequestError, match="out of memory"):
            await requests.update_weights_from_disk(
                engine.url, path="/c", version="v", pause="", session=True, allowed=lambda: True
            )
        assert engine.times(UPDATE) == 0

    body = {"success": False, "message": "out of memory"}
    with_engine(test, end_weight_update={"status": 400, "body": body})


def test_an_engine_that_cannot_be_paused_waits_for_what_runs_and_flushes_by_itself():
    async def test(requests: EngineClient, engine: Engine) -> None:
        await requests.update_weights_from_disk(
            engine.url, path="/ckpt/7", version="step-7", pause="", allowed=lambda: True
        )
        ((_, path, body),) = engine.asked
        assert (path, body["flush_cache"]) == (UPDATE, True)
        assert body["weight_version"] == "step-7"

    with_engine(test, update_weights_from_disk=SUCCESS)


def test_what_came_late_at_an_engine_that_reads_weights_is_ended_and_no_cache_is_left(monkeypatch):
    monkeypatch.setattr("sglang_operator.fleet.client.FLUSH_TIMEOUT", 1.0)

    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineRequestError) as error:
            await requests.update_weights_from_disk(
                engine.url, path="/ckpt/7", version="step-7", pause="retract", allowed=lambda: True
            )
        assert "requests still run" in error.value.message
        paths = [path for _, path, _ in engine.asked]
        assert paths[:6] == [*PAUSE, UPDATE, FLUSH, "/abort_request", FLUSH]

    busy: dict[str, Any] = {"status": 400, "body": {}}
    with_engine(test, update_weights_from_disk=SUCCESS, flush_cache=busy, **paused())


def test_an_engine_that_cannot_read_the_weights_says_why():
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineRequestError) as error:
            await requests.update_weights_from_disk(
                engine.url, path="/nope", version="v", pause="", allowed=lambda: True
            )
        assert error.value.message == "Failed to get model loader"

    body = {"success": False, "message": "Failed to get model loader"}
    with_engine(test, update_weights_from_disk={"status": 400, "body": body})


def test_what_may_not_leave_any_more_once_there_is_a_connection_is_not_sent():
    async def test(requests: EngineClient, engine: Engine) -> None:
        asked = []

        def allowed() -> bool:
            asked.append(True)
            return False

        with pytest.raises(NotAllowedError) as error:
            await requests.update_weights_from_disk(
                engine.url, path="/ckpt/7", version="step-7", pause="", allowed=allowed
            )
        assert asked
        assert not error.value.sent
        await requests.probe(engine.url, "/ready")
        assert [path for _, path, body in engine.asked if body] == []

    with_engine(test, update_weights_from_disk={"success": True}, ready={})


def test_an_engine_that_is_not_there_may_have_been_sent_nothing_or_something():
    async def test(requests: EngineClient, engine: Engine) -> None:
        with pytest.raises(EngineUnreachableError) as error:
            await requests.update_weights_from_disk(
                "http://127.0.0.1:9", path="/c", version="v", pause="", allowed=lambda: True
            )
        assert not error.value.sent
        with pytest.raises(EngineUnreachableError) as error:
            await requests.update_weights_from_disk(
                engine.url, path="/c", version="v", pause="", allowed=lambda: True, timeout=0.1
            )
        assert error.value.sent

    with_engine(test, update_weights_from_disk=None)


def test_a_load_is_not_delivered_for_longer_than_others_wait_for_it():
    """What such a connection does is in test_sending."""

    async def connector():
        async with EngineClient(user_agent="test") as client:
            assert client._writing is not None
            return client._writing.connector

    assert isinstance(asyncio.run(connector()), sending.Connector)
    assert SENDING_SECONDS + sending.DELIVERY_SECONDS < LEASE_SECONDS
