"""The election, with a clock and a server of the test's own."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.kube.leader_election import APART_SECONDS, Elector, Terms
from sglang_operator.kube.leaders import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """One Lease with optimistic locking."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None
        self.version = 0
        self.fault: Exception | None = None
        self.writes = 0

    async def request(
        self, method: str, path: str, *, body: bytes = b"", timeout: float, **_: object
    ) -> bytes:
        if self.fault:
            raise self.fault
        if method == "GET":
            if self.stored is None:
                raise ApiError(404, "NotFound", "", None, missing=True)
            return json.dumps(self.stored).encode()
        sent = json.loads(body)
        if method == "POST" and self.stored is not None:
            raise ApiError(409, "AlreadyExists", "", None)
        if method == "PUT":
            if self.stored is None:
                raise ApiError(404, "NotFound", "", None, missing=True)
            if sent["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", "", None)
        self.version += 1
        self.writes += 1
        sent["metadata"]["resourceVersion"] = str(self.version)
        self.stored = sent
        return json.dumps(sent).encode()

    def tell(self, elector: Elector) -> None:
        """What the informer does."""
        elector.put(msgspec.convert(self.stored, Lease))


def candidate(server: Server, clock: Clock, name: str, *serves: str) -> Elector:
    return Elector(server, "ns", "lease", name, serves=serves, terms=Terms(), clock=clock)  # type: ignore[arg-type]


def run(story):
    async def main() -> None:
        await story(Server(), Clock())

    asyncio.run(main())


def test_the_first_candidate_creates_the_lease_and_holds_it():
    async def story(server, clock):
        a = candidate(server, clock, "a")
        await a._try()
        assert a.holds()
        assert server.stored["spec"]["holderIdentity"] == "a"

    run(story)


def test_a_second_candidate_does_not_hold_it_while_it_is_renewed():
    async def story(server, clock):
        a, b = candidate(server, clock, "a"), candidate(server, clock, "b")
        await a._try()
        for _ in range(20):
            clock.now += 2
            await a._try()
            await b._try()
            server.tell(b)
            assert a.holds()
            assert not b.holds()

    run(story)


def test_while_there_is_no_lease_nobody_writes_and_its_holder_may_make_it_anew():
    async def story(server, clock):
        a = candidate(server, clock, "a")
        await a._try()
        server.tell(a)
        deleted = msgspec.convert(server.stored, Lease)
        server.stored = None
        a.drop(deleted)
        assert not a.holds()
        await a._try()
        assert a.holds()

    run(story)


def test_a_404_that_is_not_about_the_lease_ends_no_leadership():
    async def story(server, clock):
        a = candidate(server, clock, "a")
        await a._try()
        server.fault = ApiError(404, "", "default backend - 404", None)
        clock.now += 2
        await a._try()
        assert a.holds()
        server.fault = None
        clock.now += 2
        await a._try()
        assert a.holds()

    run(story)


def test_a_standby_leaves_a_deleted_lease_to_its_holder_until_the_term_is_over():
    async def story(server, clock):
        a, b = candidate(server, clock, "a"), candidate(server, clock, "b")
        await a._try()
        await b._try()
        deleted = msgspec.convert(server.stored, Lease)
        server.stored = None
        b.drop(deleted)
        await b._try()
        assert not b.holds()  # a may be in the middle of a write
        assert server.stored is None
        clock.now += 14.9
        await b._try()
        assert not b.holds()
        clock.now += 0.2
        await b._try()
        assert b.holds()

    run(story)


def test_a_lease_that_was_given_back_and_deleted_is_free_at_once():
    async def story(server, clock):
        a, b = candidate(server, clock, "a"), candidate(server, clock, "b")
        await a._try()
        await b._try()
        await a.release()
        server.tell(b)
        deleted = msgspec.convert(server.stored, Lease)
        server.stored = None
        b.drop(deleted)
        await b._try()
        assert b.holds()

    run(story)


def test_a_holder_is_woken_by_the_end_of_its_lease():
    async def story(server, clock):
        a, b = candidate(server, clock, "a"), candidate(server, clock, "b")
        running = asyncio.create_task(a.run())
        await a.acquired.wait()
        deleted = msgspec.convert(server.stored, Lease)
        server.stored = None
        await b._try()
        a.drop(deleted)
        await asyncio.wait_for(running, 1)  # at once, not when it would have renewed
        assert b.holds()

    run(story)


def test_never_do_two_hold_it_at_one_moment_whoever_stops():
    """a stops renewing at some moment; b takes over only when a's fence has long been down."""

    async def story(server, clock):
        a, b = candidate(server, clock, "a"), candidate(server, clock, "b")
        await a._try()
        await b._try()
        taken = None
        for _ in range(400):
            clock.now += 0.1
            await b._try()
            assert not (a.holds() and b.holds())
            if b.holds() and taken is None:
                taken = clock.now
        assert taken is not None
        assert 15.0 <= taken - 1000 <= 16.0

    run(story)


def test_the_fence_is_down_after_the_deadline_even_if_nothing_was_done():
    async def story(server, clock):
        a = candidate(server, clock, "a")
        await a._try()
        clock.now += 9.9
        assert a.holds()
        clock.now += 0.2
        assert not a.holds()

    run(story)


def test_a_released_lease_is_free_at_once():
    async def story(server, clock):
        a, b = candidate(server, clock, "a"), candidate(server, clock, "b")
        await a._try()
        await b._try()
        await a.release()
        assert not a.holds()
        server.tell(b)
        await b._try()
        assert b.holds()

    run(story)


def test_who_comes_second_in_a_race_gets_a_conflict_and_does_not_hold():
    async def story(server, clock):
        a, b, c = (candidate(server, clock, name) for name in "abc")
        await a._try()
        await b._try()
        await c._try()
        clock.now += 20
        await b._try()
        await c._try()
        assert b.holds()
        assert not c.holds()

    run(story)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(ApiUnreachableError("timeout"), id="no answer"),
        pytest.param(ApiError(500, "InternalError", "", None), id="500"),
        pytest.param(ApiError(403, "Forbidden", "", None), id="403"),
    ],
)
def test_a_holder_outlives_a_short_outage_and_gives_up_in_a_long_one(monkeypatch, fault):
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)

    async def story(server, clock):
        a = candidate(server, clock, "a")
        await a._try()
        server.fault = fault
        clock.now += 8
        await a._try()
        assert a.holds()
        server.fault = None
        await a._try()
        clock.now += 8
        assert a.holds()
        server.fault = fault
        clock.now += 5
        async with asyncio.timeout(5):
            await a.run()  # returns: it is lost
        assert not a.holds()

    run(story)


def test_a_deleted_lease_is_taken_again_by_its_holder():
    async def story(server, clock):
        a = candidate(server, clock, "a")
        await a._try()
        server.stored = None
        clock.now += 2
        await a._try()
        await a._try()
        assert a.holds()
        assert server.stored is not None

    run(story)


async def renewing(server: Server, clock: Clock, holder: Elector, other: Elector) -> None:
    """The holder renews for as long as a new set of copies may take to start."""
    for _ in range(int(APART_SECONDS / 2) + 2):
        clock.now += 2
        await holder._try()
        await other._try()
        server.tell(other)


@pytest.mark.parametrize(
    ("theirs", "own", "words"),
    [
        pytest.param(["team-a"], ["team-b"], "it serves team-a, and this one is to serve team-b"),
        pytest.param(["team-a"], [], "it serves team-a, and this one is to serve all namespaces"),
        pytest.param([], ["team-b"], "it serves all namespaces, and this one"),
        pytest.param(
            ["b", "a"], ["a", "b", "c"], "it serves a, b, and this one is to serve a, b, c"
        ),
    ],
)
def test_a_candidate_that_is_to_serve_other_namespaces_than_the_holder_says_so(
    theirs, own, words, caplog
):
    async def story(server, clock):
        a, b = candidate(server, clock, "a", *theirs), candidate(server, clock, "b", *own)
        await a._try()
        await b._try()
        assert words in caplog.text
        assert not b.apart()  # a new set of copies takes over from the old one
        await renewing(server, clock, a, b)
        assert words in b.apart()
        assert "ns/lease, which a holds" in b.apart()
        assert caplog.text.count(words) == 1
        assert not a.apart()
        clock.now += Terms().duration + 1
        await b._try()
        assert b.holds()
        assert not b.apart()

    run(story)


@pytest.mark.parametrize(
    "serves",
    [
        pytest.param((["team-a", "team-b"], ["team-b", "team-a"]), id="in another order"),
        pytest.param(([], []), id="all"),
    ],
)
def test_replicas_are_not_apart(serves):
    async def story(server, clock):
        a, b = (
            candidate(server, clock, name, *own) for name, own in zip("ab", serves, strict=True)
        )
        await a._try()
        await renewing(server, clock, a, b)
        assert not b.holds()
        assert not b.apart()

    run(story)


def test_a_holder_of_a_version_that_does_not_say_what_it_serves_is_a_replica():
    async def story(server, clock):
        a, b = candidate(server, clock, "a"), candidate(server, clock, "b", "team-b")
        await a._try()
        await b._try()
        for _ in range(int(APART_SECONDS / 2) + 2):
            clock.now += 2
            await a._try()
            del server.stored["metadata"]["annotations"][names.ANNOTATION_SERVES]
            server.tell(b)
        assert not b.apart()

    run(story)
