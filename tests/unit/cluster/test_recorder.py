"""Events: aggregated by their words, limited by their rate, forgotten with the pool."""

import asyncio
import json
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.cluster.recorder import BURST, MAX_NOTE, MAX_WORD, REMEMBERED, Recorder
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.status.transitions import NORMAL, WARNING, Event

KEY = PoolKey("rl", "actor-infer")
UID = names.Uid("u-1")
READY = Event(type=NORMAL, reason="PoolReady", message="12/12 engines are up")
FAILING = Event(type=WARNING, reason="EnginesFailing", message="1 engine waits")


class Server:
    """Takes Events."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.fault: Exception | None = None

    async def request(
        self, method: str, path: str, *, body: bytes, content_type: str = ""
    ) -> bytes:
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        self.sent.append((method, path, json.loads(body)))
        return b"{}"


def _post(events: list[list[Event]], server: Server | None = None) -> tuple[Server, Recorder]:
    server = server or Server()
    recorder = Recorder(server, "operator-0")  # type: ignore[arg-type]

    async def main() -> None:
        for batch in events:
            await recorder.post(KEY, UID, batch)

    asyncio.run(main())
    return server, recorder


def test_the_same_words_again_are_the_same_event_counted_up():
    server, recorder = _post([[READY], [FAILING], [READY], [READY]])
    assert [method for method, _, _ in server.sent] == ["POST", "POST", "PATCH", "PATCH"]
    name = server.sent[0][2]["metadata"]["name"]
    assert {path.rsplit("/", 1)[-1] for method, path, _ in server.sent if method == "PATCH"} == {
        name
    }
    assert [body["series"]["count"] for _, _, body in server.sent[2:]] == [2, 3]
    assert recorder.told == {"posted": 2, "aggregated": 2, "dropped": 0, "failed": 0}


def test_an_event_that_the_api_server_forgot_is_posted_anew():
    server = Server()
    recorder = Recorder(server, "operator-0")  # type: ignore[arg-type]

    async def main() -> None:
        await recorder.post(KEY, UID, [READY])
        server.fault = ApiError(404, "NotFound", "", None, missing=True)
        await recorder.post(KEY, UID, [READY])

    asyncio.run(main())
    assert [method for method, _, _ in server.sent] == ["POST", "POST"]


def test_what_exceeds_the_rate_is_dropped_and_repetitions_are_kept_for_the_next():
    many = [Event(type=NORMAL, reason="R", message=str(n)) for n in range(BURST + 5)]
    server, recorder = _post([many])
    assert len(server.sent) == BURST
    assert recorder.told["dropped"] == 5
    server, recorder = _post([[READY] * (BURST + 5)])
    assert server.sent[-1][2]["series"]["count"] == BURST
    assert recorder.told == {
        "posted": 1,
        "aggregated": BURST + 4,
        "dropped": 0,
        "failed": 0,
    }


def test_a_failure_to_post_is_counted_and_nothing_else():
    server = Server()
    server.fault = ApiUnreachableError("away")
    _, recorder = _post([[READY], [READY]], server)
    assert recorder.told["failed"] == 1
    assert [method for method, _, _ in server.sent] == ["POST"]


def test_memory_is_bounded_and_goes_with_the_pool():
    recorder = Recorder(Server(), "operator-0")  # type: ignore[arg-type]

    async def main() -> None:
        for n in range(REMEMBERED + 8):
            recorder._buckets.clear()
            await recorder.post(KEY, UID, [Event(type=NORMAL, reason="R", message=str(n))])

    asyncio.run(main())
    assert len(recorder._recent[KEY]) == REMEMBERED
    recorder.forget(KEY)
    assert not recorder._recent
    assert not recorder._buckets


@pytest.mark.parametrize("letter", ["x", "é", "…", "😀"])
@pytest.mark.parametrize("more", range(-3, 4))
def test_the_api_server_takes_an_event_however_long_its_words_are(letter, more):
    """It refuses one of whose texts the bytes are more than it allows."""
    size = len(letter.encode())
    message = letter * ((MAX_NOTE + more) // size) + "x" * ((MAX_NOTE + more) % size)
    server = Server()
    event = Event(type=WARNING, reason="R" * MAX_WORD + letter, message=message)
    recorder = Recorder(server, "ö" * MAX_WORD)  # type: ignore[arg-type]
    asyncio.run(recorder.post(KEY, UID, [event]))
    ((_, _, sent),) = server.sent
    assert len(sent["note"].encode()) <= MAX_NOTE
    assert max(len(sent[key].encode()) for key in ("reason", "reportingInstance")) <= MAX_WORD
    if more <= 0:
        assert sent["note"] == message
    else:
        whole, mark = sent["note"][:-1], sent["note"][-1]
        assert mark == "…"
        assert message.startswith(whole)
        assert len(whole.encode()) > MAX_NOTE - 3 - size
