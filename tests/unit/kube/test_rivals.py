"""Operators of one namespace with a Lease each: no two act for one pool, and nobody is left out."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.kube.leader_election import APART_SECONDS, Elector, Terms
from sglang_operator.kube.leaders import Lease

PLAIN = names.LEASE_NAME
TERM = Terms().duration


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """The Leases of one namespace, with optimistic locking."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.blind = False  # lists fail
        self.paused: asyncio.Event | None = None  # lists wait

    async def request(
        self, method: str, path: str, *, body: bytes = b"", timeout: float, **_: object
    ) -> bytes:
        name = path.rpartition("/leases")[2].removeprefix("/")
        if method == "GET" and not name:
            if self.paused is not None:
                await self.paused.wait()
            if self.blind:
                raise ApiUnreachableError("timeout")
            return json.dumps({"items": [*self.stored.values()]}).encode()
        if method == "GET":
            if name not in self.stored:
                raise ApiError(404, "NotFound", "", None, missing=True)
            return json.dumps(self.stored[name]).encode()
        sent = json.loads(body)
        there = self.stored.get(sent["metadata"]["name"])
        if (method == "POST") is (there is not None):
            raise ApiError(409 if there else 404, "", "", None, missing=not there)
        versions = [each and each["metadata"].get("resourceVersion") for each in (sent, there)]
        if there is not None and versions[0] != versions[1]:
            raise ApiError(409, "Conflict", "", None)
        self.put(sent)
        return json.dumps(sent).encode()

    def put(self, lease: dict[str, Any]) -> None:
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.stored[lease["metadata"]["name"]] = lease

    def tell(self, *electors: Elector) -> None:
        """What the informers do."""
        for elector in electors:
            for lease in self.stored.values():
                elector.put(msgspec.convert(lease, Lease))

    def holder(self, name: str) -> str:
        return str(self.stored.get(name, {}).get("spec", {}).get("holderIdentity", ""))


class World:
    def __init__(self) -> None:
        self.server, self.clock = Server(), Clock()

    def operator(self, lease: str, identity: str, *serves: str) -> Elector:
        return Elector(
            self.server,  # type: ignore[arg-type]
            "ns",
            lease,
            identity,
            serves=serves,
            terms=Terms(),
            clock=self.clock,
        )

    async def turn(self, *electors: Elector, seconds: float = 2.0) -> list[bool]:
        """Some time passes, and each has its turn; who holds now."""
        self.clock.now += seconds
        for elector in electors:
            await elector._try()
            self.server.tell(*electors)
        return [elector.holds() for elector in electors]

    def earlier_version_takes(self, holder: str, *, serves: str | None = "*") -> None:
        """One of a version that looks at no other Lease takes, or renews, that with its name."""
        notes = {} if serves is None else {names.ANNOTATION_SERVES: serves}
        self.server.put(
            {
                "metadata": {"name": PLAIN, "namespace": "ns", "annotations": notes},
                "spec": {
                    "holderIdentity": holder,
                    "leaseDurationSeconds": 15,
                    "renewTime": f"t{self.clock.now}",
                },
            }
        )


def run(story):
    asyncio.run(story(World()))


def test_releases_that_serve_other_namespaces_act_both():
    async def told(world: World) -> None:
        a, b = world.operator("blue", "a", "team-a"), world.operator("green", "b", "team-b")
        for _ in range(20):
            assert await world.turn(a, b) == [True, True]
        assert not a.apart()
        assert not b.apart()

    run(told)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([], [], id="everything"),
        pytest.param(["a"], [], id="one namespace and everything"),
        pytest.param([], ["a"], id="everything and one namespace"),
        pytest.param(["a", "b"], ["b", "c"], id="one namespace in common"),
    ],
)
@pytest.mark.parametrize("leases", [("blue", "green"), ("green", "blue"), (PLAIN, "blue")])
def test_of_releases_that_meet_the_first_acts_and_the_other_follows(first, second, leases):
    async def told(world: World) -> None:
        a = world.operator(leases[0], "a", *first)
        b = world.operator(leases[1], "b", *second)
        for _ in range(20):
            assert await world.turn(a, b) == [True, False]
        await a.release()
        world.server.tell(b)
        assert await world.turn(b, seconds=Terms().retry) == [True]
        assert await world.turn(b, a) == [True, False]

    run(told)


def test_one_that_dies_is_followed_when_its_term_is_over_and_not_before():
    async def told(world: World) -> None:
        a, b = world.operator("blue", "a"), world.operator("green", "b")
        await world.turn(a, b)
        taken = None
        for _ in range(200):
            (holds,) = await world.turn(b, seconds=0.1)
            assert not (holds and a.holds())
            taken = taken or (holds and world.clock.now)
        assert taken is not None
        assert TERM <= taken - 1002 <= TERM + 1

    run(told)


def test_what_is_written_to_the_lease_of_a_dead_one_keeps_nobody_waiting():
    async def told(world: World) -> None:
        a, b = world.operator("blue", "a"), world.operator("green", "b")
        await world.turn(a, b)
        for _ in range(int(TERM)):
            lease = json.loads(json.dumps(world.server.stored["blue"]))
            lease["metadata"]["annotations"]["team"] = str(world.clock.now)
            world.server.put(lease)
            await world.turn(b, seconds=1)
        assert b.holds()

    run(told)


def test_of_two_that_take_their_leases_at_one_moment_at_most_one_goes_on():
    async def told(world: World) -> None:
        a, b = world.operator("blue", "a"), world.operator("green", "b")
        world.server.paused = asyncio.Event()
        both = [asyncio.create_task(each._try()) for each in (a, b)]
        await asyncio.sleep(0.01)
        assert world.server.holder("blue") == "a"
        assert world.server.holder("green") == "b"
        assert not a.holds()  # nobody writes before it has looked around
        assert not b.holds()
        world.server.paused.set()
        world.server.paused = None
        await asyncio.gather(*both)
        assert not (a.holds() and b.holds())
        for _ in range(20):
            assert (await world.turn(a, b)).count(True) <= 1
        assert a.holds() or b.holds()

    run(told)


def test_who_cannot_look_around_does_not_act():
    async def told(world: World) -> None:
        a = world.operator("blue", "a")
        world.server.blind = True
        assert await world.turn(a) == [False]
        assert not a.acquired.is_set()
        world.server.blind = False
        assert await world.turn(a) == [True]

    run(told)


# --- upgrades and rollbacks, with a version that knows one Lease only


@pytest.mark.parametrize("serves", ["*", None], ids=["says all", "says nothing"])
def test_an_upgrade_to_another_lease_waits_for_the_old_copies(serves):
    async def told(world: World) -> None:
        new = world.operator("blue", "new")
        world.earlier_version_takes("old-1", serves=serves)
        world.server.tell(new)
        for _ in range(10):
            world.earlier_version_takes("old-1", serves=serves)
            world.server.tell(new)
            assert await world.turn(new) == [False]
        # The first of the old copies goes; the other one is first to follow.
        world.earlier_version_takes("", serves=serves)
        world.server.tell(new)
        assert await world.turn(new, seconds=0.1) == [False]
        world.earlier_version_takes("old-2", serves=serves)
        world.server.tell(new)
        assert await world.turn(new) == [False]
        assert not new.acquired.is_set()
        world.earlier_version_takes("", serves=serves)
        world.server.tell(new)
        assert await world.turn(new) == [True]

    run(told)


def test_in_a_rollback_the_new_copy_goes_as_soon_as_the_old_one_acts():
    async def told(world: World) -> None:
        new = world.operator("blue", "new")
        running = asyncio.create_task(new.run())
        await new.acquired.wait()
        world.earlier_version_takes("old")
        world.server.tell(new)
        assert not new.holds()
        await asyncio.wait_for(running, 1)

    run(told)


def test_the_old_lease_of_who_serves_others_or_of_the_dead_takes_nothing_away():
    async def told(world: World) -> None:
        new = world.operator("blue", "new", "team-a")
        world.earlier_version_takes("dead", serves="team-a")
        world.server.tell(new)
        await world.turn(new, seconds=TERM)
        assert new.holds()
        world.server.tell(new)
        assert new.holds()
        world.earlier_version_takes("old", serves="team-b")
        world.server.tell(new)
        assert new.holds()

    run(told)


def test_a_lease_of_something_else_is_none_of_an_operators():
    async def told(world: World) -> None:
        lease = {"metadata": {"name": "somebody"}, "spec": {"holderIdentity": "else"}}
        world.server.put(lease)
        a = world.operator("blue", "a")
        world.server.tell(a)
        assert await world.turn(a) == [True]

    run(told)


# --- what is told


@pytest.mark.parametrize(
    ("theirs", "own", "words"),
    [
        (["a"], ["a", "b"], "serves a: this one is to serve a, b"),
        (["a"], [], "serves a: this one is to serve all namespaces"),
        ([], ["a"], ""),
        (["a", "b"], ["b"], ""),
        ([], [], ""),
        (["a"], ["b"], ""),
    ],
)
def test_who_waits_for_one_that_serves_less_says_so(theirs, own, words, caplog):
    async def told(world: World) -> None:
        a, b = world.operator("blue", "a", *theirs), world.operator("green", "b", *own)
        await world.turn(a, b)
        assert not b.apart()  # so it is while a release is upgraded
        for _ in range(int(APART_SECONDS / 2) + 2):
            await world.turn(a, b)
        assert words in b.apart()
        assert bool(words) is bool(b.apart())
        assert "a, which holds the Lease ns/blue" in b.apart() or not words
        assert not a.apart()
        assert not words or caplog.text.count(words) == 1

    run(told)


def restore(world, lease, holder):
    """etcd is restored from a backup, in which that one held the Lease; versions begin lower."""
    world.server.version = 500
    kept = json.loads(json.dumps(world.server.stored[lease]))
    kept["spec"]["holderIdentity"] = holder
    world.server.put(kept)


@pytest.mark.parametrize("relisted", [True, False])
@pytest.mark.parametrize("holder", ["a", "c", ""])
def test_after_a_restore_a_standby_takes_the_lease_of_who_is_gone(holder, relisted):
    """It kept the higher version that it had seen: each write was a conflict, for ever."""

    async def told(world: World) -> None:
        world.server.version = 1000
        a, b = world.operator(PLAIN, "a"), world.operator(PLAIN, "b")
        for _ in range(3):
            assert await world.turn(a, b) == [True, False]
        restore(world, PLAIN, holder)
        if relisted:
            b.restored()
            world.server.tell(b)
        begun = world.clock.now
        while not b.holds():
            assert world.clock.now < begun + 2 * TERM + 5
            await world.turn(b)

    run(told)


def test_after_a_restore_the_holder_goes_on_and_nobody_beside_it():
    async def told(world: World) -> None:
        world.server.version = 1000
        a, b = world.operator(PLAIN, "a"), world.operator(PLAIN, "b")
        for _ in range(3):
            await world.turn(a, b)
        restore(world, PLAIN, "a")
        for elector in (a, b):
            elector.restored()
            world.server.tell(elector)
        for _ in range(20):
            assert await world.turn(a, b) == [True, False]

    run(told)


def test_after_a_restore_a_rival_is_known_by_its_new_record():
    async def told(world: World) -> None:
        world.server.version = 1000
        a, b = world.operator("blue", "a"), world.operator("green", "b")
        for _ in range(3):
            assert await world.turn(a, b) == [True, False]
        restore(world, "blue", "a")
        b.restored()
        a.restored()
        for _ in range(20):
            assert await world.turn(a, b) == [True, False]

    run(told)


def test_two_that_wait_for_one_moment_do_not_wake_at_one(monkeypatch):
    waits = []

    async def waited(coming, wait):
        coming.close()
        waits.append(wait)

    async def told(world: World) -> None:
        a, b = world.operator("blue", "a"), world.operator("green", "b")
        await world.turn(a, b)
        monkeypatch.setattr(asyncio, "wait_for", waited)
        for _ in range(20):
            await b._pause()

    run(told)
    assert len(set(waits)) > 10
    assert max(waits) - min(waits) <= 0.2 * Terms().retry
