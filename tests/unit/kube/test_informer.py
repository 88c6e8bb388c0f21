"""The informer against every way a stream can go wrong, without a server."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sglang_operator import clocks, supervision
from sglang_operator.backoff import Backoff
from sglang_operator.kube import informer
from sglang_operator.kube.errors import (
    ApiError,
    ApiTooLargeError,
    ApiUnreachableError,
)
from sglang_operator.observed import wire


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


def event(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


class Store:
    """A sink that is a plain dictionary."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.lists = 0
        self.seen: defaultdict[str, int] = defaultdict(int)
        self.restorations = 0

    def restored(self) -> None:
        self.restorations += 1

    def replace(self, scope: str, records: list[wire.Pod], version: int) -> None:
        self.names = {record.metadata.name for record in records}
        self.lists += 1

    def put(self, record: wire.Pod) -> None:
        self.names.add(record.metadata.name)
        self.seen[record.metadata.name] += 1

    def drop(self, record: wire.Pod) -> None:
        self.names.discard(record.metadata.name)


class Server:
    """Answers lists and watches from scripts; a watch without a script never says anything."""

    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[dict[str, str]] = []
        self.quiet = asyncio.Event()

    async def request(self, method: str, path: str, *, params: dict[str, str]) -> bytes:
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer).encode()

    @asynccontextmanager
    async def stream(
        self, path: str, params: dict[str, str], *, idle: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(dict(params))
        script = self.watches.pop(0) if self.watches else None
        if isinstance(script, Exception):
            raise script

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in script or []:
                yield chunk
            if script is None:
                self.quiet.set()
                await asyncio.Event().wait()

        yield chunks()


def a_list(*pods: dict[str, Any], version: int = 10, more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(pods)}


AT_ONCE = Backoff(0.0, 0.0)


def play(
    monkeypatch: pytest.MonkeyPatch,
    lists: list[Any],
    watches: list[Any],
    backoff: Backoff = AT_ONCE,
):
    """Run an informer until the server has nothing more to say; its store and the requests."""
    monkeypatch.setattr(informer, "BACKOFF", backoff)

    async def main() -> tuple[Store, Server, Any]:
        server, store = Server(lists, watches), Store()
        resource = informer.Resource(path="/api/v1/pods", scope="", name="pods")
        stream = informer.Informer(server, resource, wire.Pod, store)  # type: ignore[arg-type]
        task = asyncio.create_task(stream.run())
        await asyncio.wait_for(server.quiet.wait(), 5)
        assert not task.done()
        task.cancel()
        return store, server, stream

    return asyncio.run(main())


def test_it_lists_and_then_follows(monkeypatch):
    store, server, _ = play(
        monkeypatch,
        [a_list(pod("a", 1), pod("b", 2))],
        [[event("ADDED", pod("c", 11)), event("DELETED", pod("a", 12))]],
    )
    assert store.names == {"b", "c"}
    assert server.asked[0]["resourceVersion"] == "10"
    assert server.asked[0]["allowWatchBookmarks"] == "true"


def test_a_list_in_pages_is_one_list(monkeypatch):
    store, *_ = play(monkeypatch, [a_list(pod("a", 1), more="next"), a_list(pod("b", 2))], [])
    assert store.names == {"a", "b"}
    assert store.lists == 1


def test_a_watch_that_ends_is_taken_up_where_it_was(monkeypatch):
    _, server, _ = play(monkeypatch, [a_list()], [[event("ADDED", pod("a", 15))], []])
    assert [asked["resourceVersion"] for asked in server.asked] == ["10", "15", "15"]


def test_a_bookmark_moves_the_version_on(monkeypatch):
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "99"}})
    _, server, _ = play(monkeypatch, [a_list()], [[bookmark]])
    assert server.asked[-1]["resourceVersion"] == "99"


GONE = ApiError(410, "Expired", "too old", None)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param([event("ERROR", {"code": 410, "message": "too old"})], id="in the stream"),
        pytest.param(GONE, id="on the request"),
    ],
)
def test_after_a_410_what_vanished_meanwhile_is_gone(monkeypatch, end):
    store, _, _ = play(
        monkeypatch, [a_list(pod("a", 1), pod("ghost", 2)), a_list(pod("a", 1), version=50)], [end]
    )
    assert store.names == {"a"}
    assert store.lists == 2


def test_a_410_while_paging_begins_the_list_anew(monkeypatch):
    store, *_ = play(monkeypatch, [a_list(pod("x", 1), more="next"), GONE, a_list(pod("a", 1))], [])
    assert store.names == {"a"}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param([event("ERROR", {"code": 500, "message": "boom"})], id="error event"),
        pytest.param([b'{"type": "ADDED", "obj'], id="truncated"),
        pytest.param([b"nonsense\n"], id="no JSON"),
        pytest.param(ApiUnreachableError("reset"), id="reset"),
        pytest.param(ApiError(503, "ServiceUnavailable", "away", None), id="503"),
        pytest.param(ApiError(401, "Unauthorized", "who?", None), id="401"),
        pytest.param(ApiError(429, "TooManyRequests", "slow", 0.0), id="429"),
    ],
)
def test_any_other_fault_is_outlived_without_listing_again(monkeypatch, end):
    store, server, _ = play(
        monkeypatch, [a_list(pod("a", 1))], [end, [event("ADDED", pod("b", 11))]]
    )
    assert store.names == {"a", "b"}
    assert store.lists == 1
    assert server.asked[1]["resourceVersion"] == "10"


@pytest.mark.parametrize("status", informer.REFUSALS)
def test_what_was_refused_is_listed_anew_once_it_may_be_read(monkeypatch, status):
    refusal = ApiError(status, "Forbidden", "no", None)
    store, _, _ = play(
        monkeypatch,
        [a_list(pod("a", 1), pod("ghost", 2)), refusal, refusal, a_list(pod("a", 1), version=50)],
        [refusal],
    )
    assert store.names == {"a"}
    assert store.lists == 2


def test_a_version_that_only_ever_fails_is_given_up(monkeypatch):
    faults = [ApiError(500, "InternalError", "boom", None)] * informer.FAILURES_BEFORE_RELIST
    store, _, _ = play(monkeypatch, [a_list(pod("a", 1))], faults)
    assert store.lists == 2


@pytest.mark.parametrize(
    ("ends", "most"),
    [
        pytest.param([[]] * 4, 0.8, id="watches that end as soon as they begin"),
        pytest.param([ApiError(503, "", "maintenance", 3600.0)], 30.0, id="a pause of an hour"),
        pytest.param([ApiError(503, "", "", float("inf"))], 30.0, id="a pause for ever"),
    ],
)
def test_it_waits_before_it_asks_again_and_for_no_longer_than_its_longest(monkeypatch, ends, most):
    slept: list[float] = []
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleeping)
    play(monkeypatch, [a_list()], list(ends), informer.BACKOFF)
    assert len(slept) == len(ends)
    assert most / 2 <= slept[-1] <= most


def test_a_failed_first_list_is_tried_again(monkeypatch):
    store, *_ = play(monkeypatch, [ApiUnreachableError("refused"), a_list(pod("a", 1))], [])
    assert store.names == {"a"}


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000_000])
def test_events_are_whole_however_the_stream_is_cut(monkeypatch, size):
    big = pod("big", 12)
    big["spec"] = {"ignored": "x" * 3_000_000 if size > 100 else "x" * 100}
    stream = b"".join(event("ADDED", body) for body in (pod("a", 11), big, pod("b", 13)))
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    store, *_ = play(monkeypatch, [a_list()], [pieces])
    assert store.names == {"a", "big", "b"}


DEEP = b"[" * 3000 + b"]" * 3000


def bad_event(kind: str = "MODIFIED", version: int = 12) -> bytes:
    return event(kind, {**pod("bad", version), "status": "DEEP"}).replace(b'"DEEP"', DEEP)


@pytest.mark.parametrize(
    ("bad", "version"),
    [
        pytest.param(bad_event(), "13", id="nested too deep"),
        pytest.param(event("MODIFIED", {**pod("bad", 12), "status": 3}), "13", id="another type"),
        pytest.param(b'{"type": "BOOKMARK"}\n', "13", id="a bookmark without an object"),
        pytest.param(b'{"type": "ADDED", "object": null}\n', "13", id="no object"),
        pytest.param(b'{"type": "ADDED", "object": {"metadata": 3}}\n', "13", id="no metadata"),
        pytest.param(b'{"type": "ADDED", "object": {}}\n', "13", id="an object that is nobody's"),
    ],
)
def test_an_event_that_cannot_be_read_costs_itself_alone(monkeypatch, bad, version):
    store, server, _ = play(
        monkeypatch, [a_list(pod("a", 1))], [[bad, event("ADDED", pod("b", 13))]]
    )
    assert store.names == {"a", "b"}
    assert store.lists == 1
    assert server.asked[-1]["resourceVersion"] == version


def test_who_cannot_be_read_stays_as_it_was_and_is_told_once(monkeypatch, caplog):
    def bad(version: int) -> bytes:
        metadata = {**pod("bad", version)["metadata"], "namespace": "rl"}
        return event("MODIFIED", {"metadata": metadata, "status": 3})

    events = [bad(12), bad(13), bad(14)]
    store, _, stream = play(monkeypatch, [a_list(pod("bad", 1))], [events])
    assert store.names == {"bad"}
    assert store.seen["bad"] == 0
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1
    assert "pods: rl/bad cannot be read: " in told[0]
    assert list(stream.unread) == [("rl", "bad")]


def test_who_can_be_read_again_is_well(monkeypatch):
    events = [event("MODIFIED", {**pod("bad", 12), "status": 3}), event("MODIFIED", pod("bad", 13))]
    store, _, stream = play(monkeypatch, [a_list(pod("bad", 1))], [events])
    assert store.seen["bad"] == 1
    assert not stream.unread


def test_an_event_of_nobody_knows_what_is_followed_by_a_list(monkeypatch):
    monkeypatch.setattr(informer, "SHORT_SECONDS", -1.0)  # every watch ends in good order
    nameless = b'{"type": "ADDED", "object": {}}\n'
    store, *_ = play(monkeypatch, [a_list(), a_list(pod("a", 1))], [[nameless]])
    assert store.names == {"a"}
    assert store.lists == 2


@pytest.mark.parametrize("kind", ["put", "drop"])
def test_an_object_that_a_store_cannot_take_costs_itself_alone(monkeypatch, kind):
    def failing(self: Store, record: wire.Pod) -> None:
        if record.metadata.name == "bad":
            raise RuntimeError("a defect")
        self.names.add(record.metadata.name)

    monkeypatch.setattr(Store, kind, failing)
    monkeypatch.setattr(Store, "put", failing)
    type_ = "ADDED" if kind == "put" else "DELETED"
    store, server, _ = play(
        monkeypatch, [a_list()], [[event(type_, pod("bad", 11)), event("ADDED", pod("b", 12))]]
    )
    assert store.names == {"b"}
    assert [asked["resourceVersion"] for asked in server.asked] == ["10", "12"]


def test_it_lists_anew_when_it_is_run_again(monkeypatch):
    """What a supervisor does after an error that nobody expected."""
    failing = iter([RuntimeError("a defect")])
    handle = informer.Informer._handle

    async def once(self: Any, line: bytes) -> None:
        for error in failing:
            raise error
        await handle(self, line)

    monkeypatch.setattr(informer.Informer, "_handle", once)
    monkeypatch.setattr(informer, "BACKOFF", Backoff(0.0, 0.0))
    monkeypatch.setattr(supervision, "BACKOFF", Backoff(0.0, 0.0))
    before = supervision.FAILURES["pods"]

    async def main() -> Store:
        server = Server(
            [a_list(pod("a", 1)), a_list(pod("b", 1))], [[event("ADDED", pod("c", 11))]]
        )
        store, resource = Store(), informer.Resource(path="/api/v1/pods", scope="", name="pods")
        stream = informer.Informer(server, resource, wire.Pod, store)  # type: ignore[arg-type]
        task = asyncio.create_task(supervision.kept("pods", stream.run))
        await asyncio.wait_for(server.quiet.wait(), 5)
        task.cancel()
        return store

    assert asyncio.run(main()).names == {"b"}
    assert supervision.FAILURES["pods"] == before + 1


def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(monkeypatch):
    """Else a few hundred large objects would keep a stream from ever being filled."""
    asked: list[str] = []
    request = Server.request

    async def bounded(self: Server, method: str, path: str, *, params: dict[str, str]) -> bytes:
        asked.append(params["limit"])
        if int(params["limit"]) > 10:
            raise ApiTooLargeError("an answer of more than 32 MiB")
        return await request(self, method, path, params=params)

    monkeypatch.setattr(Server, "request", bounded)
    store, *_ = play(monkeypatch, [a_list(pod("a", 1), more="next"), a_list(pod("b", 2))], [])
    assert store.names == {"a", "b"}
    assert asked == ["500", "62", "7", "7"]


def test_after_a_restore_from_a_backup_versions_begin_anew(monkeypatch):
    """What a watch told of was in the backup or not: the next list is all that is known."""
    store, server, _ = play(
        monkeypatch,
        [a_list(pod("a", 1)), a_list(pod("a", 2), version=900)],
        [[event("MODIFIED", pod("a", 1000))], [event("BOOKMARK", pod("", 901))]],
    )
    assert server.asked[1]["resourceVersion"] == "1000"  # and the server has only come to 901
    assert server.asked[2]["resourceVersion"] == "900"
    assert (store.lists, store.restorations) == (2, 1)


def test_a_list_that_is_as_old_as_the_last_word_is_no_restore(monkeypatch):
    store, *_ = play(
        monkeypatch,
        [a_list(pod("a", 1)), a_list(pod("a", 12), version=12)],
        [[event("MODIFIED", pod("a", 12))], GONE],
    )
    assert (store.lists, store.restorations) == (2, 0)


def test_a_list_that_takes_long_is_seen_to_get_on_page_by_page(monkeypatch):
    """It is heard of as a whole: until then a stream would be taken for dead."""
    now, idle = [clocks.steady()], []
    monkeypatch.setattr(informer, "steady", lambda: now[0])

    class Slow(Server):
        async def request(self, method: str, path: str, *, params: dict[str, str]) -> bytes:
            now[0] += 100.0
            idle.append(stream.idle())
            return await super().request(method, path, params=params)

    pages = [a_list(pod(f"p{n}", n), more="next") for n in range(5)]
    server, store = Slow([*pages, a_list()], []), Store()
    resource = informer.Resource(path="/api/v1/pods", scope="", name="pods")
    stream = informer.Informer(server, resource, wire.Pod, store)  # type: ignore[arg-type]

    async def story() -> None:
        task = asyncio.create_task(stream.run())
        await asyncio.wait_for(server.quiet.wait(), 5)
        task.cancel()

    asyncio.run(story())
    assert idle == pytest.approx([100.0] * 6, abs=5.0)


def test_a_silent_watch_is_begun_anew_when_another_has_heard_more(monkeypatch):
    """Its connection stands; only that nothing comes tells, after more than a minute."""

    async def main() -> None:
        server, store = Server([a_list(pod("a", 1)), a_list(pod("b", 12), version=12)], []), Store()
        resource = informer.Resource(path="/api/v1/pods", scope="", name="pods")
        stream = informer.Informer(server, resource, wire.Pod, store)  # type: ignore[arg-type]
        assert not stream.begin_anew(), "nothing was listed yet"
        task = asyncio.create_task(stream.run())
        await asyncio.wait_for(server.quiet.wait(), 5)
        server.quiet.clear()
        assert stream.newest == 10
        assert stream.begin_anew()
        await asyncio.wait_for(server.quiet.wait(), 5)
        assert (store.names, stream.newest, store.lists) == ({"b"}, 12, 2)
        assert not stream.begin_anew(), "so soon again, it would never rest"
        task.cancel()

    asyncio.run(main())
