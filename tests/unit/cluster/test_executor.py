"""The executor against a client of the test's own; what needs an API server is tested on one."""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import orjson
import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.cluster import stores, writer
from sglang_operator.cluster.child_store import child_store
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.outcome import Outcome
from sglang_operator.kube import window
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import wire

KEY, UID = stores.PoolKey("rl", "pool"), names.Uid("uid")
COUNT = 200


class Client:
    """Creates whatever it is asked to."""

    def __init__(self) -> None:
        self.created = 0

    async def request(self, method: str, path: str, *, body: bytes, **_: object) -> bytes:
        assert method == "POST"
        await asyncio.sleep(0)
        self.created += 1
        meta = {"name": f"p{self.created}", "namespace": "rl", "uid": f"u{self.created}"}
        return orjson.dumps({"metadata": {**meta, "resourceVersion": str(self.created)}})


def the_pool(generation: int, version: int = 0, spec: bytes = b"{}") -> wire.CustomResource:
    meta = wire.Meta(
        name=KEY.name,
        namespace=KEY.namespace,
        uid=UID,
        resource_version=str(version or generation),
        generation=generation,
    )
    return wire.CustomResource(metadata=meta, written=msgspec.Raw(spec))


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(the_pool(2), id="edited"),
        pytest.param(the_pool(1, 2, b'{"replicas":2}'), id="restored and edited"),
    ],
)
def test_creates_that_wait_for_their_turn_are_not_sent_once_the_pool_has_changed(
    monkeypatch, after
):
    # However slow this machine: nobody gives his place to others meanwhile.
    monkeypatch.setattr(window, "SLOW_SECONDS", 60.0)

    def woken(*_: Any) -> None:
        pass

    async def story() -> tuple[Outcome, int]:
        client, pools = Client(), stores.PoolStore(woken)
        executor = Executor(client, stores.PodStore(woken), {}, pools)  # type: ignore[arg-type]
        pools.put(the_pool(1))
        release = asyncio.Event()

        async def another_pools() -> None:
            async with executor.window.slot():
                await release.wait()

        others = [asyncio.create_task(another_pools()) for _ in range(executor.window.size)]
        await asyncio.sleep(0)
        batch = [
            actions.CreatePod(name=f"p{n}", engine=names.EngineName(f"g{n}"), body={}, reason="")
            for n in range(COUNT)
        ]
        acting = asyncio.create_task(
            executor.pods(
                KEY, UID, batch, asked=the_pool(1), confirm=None, go_on=lambda: True, proven=True
            )
        )
        await asyncio.sleep(0.01)
        pools.put(after)
        release.set()
        await asyncio.gather(*others)
        return await acting, client.created

    outcome, created = asyncio.run(story())
    assert created == 0
    assert not outcome.done


RACED = ApiError(
    409,
    "Conflict",
    'Operation cannot be fulfilled on resourcequotas "team": the object has been modified',
    None,
)


class Racing(Client):
    """Its quota is changed by others: each object is refused so many times first."""

    def __init__(self, times: int, error: ApiError = RACED) -> None:
        super().__init__()
        self.times, self.error = times, error
        self.tries: Counter[bytes] = Counter()

    async def request(self, method: str, path: str, *, body: bytes, **others: object) -> bytes:
        self.tries[body] += 1
        if self.tries[body] <= self.times:
            raise self.error
        return await super().request(method, path, body=body, **others)


def woken(*_: Any) -> None:
    pass


def performed(client: Client, count: int) -> Outcome:
    """What comes of so many creates."""

    async def story() -> Outcome:
        pools = stores.PoolStore(woken)
        pools.put(the_pool(1))
        executor = Executor(client, stores.PodStore(woken), {}, pools)  # type: ignore[arg-type]
        batch = [
            actions.CreatePod(
                name=f"p{n}", engine=names.EngineName(f"g{n}"), body={"n": n}, reason=""
            )
            for n in range(count)
        ]
        return await executor.pods(
            KEY, UID, batch, asked=the_pool(1), confirm=None, go_on=lambda: True, proven=True
        )

    return asyncio.run(story())


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(writer, "RACE_SECONDS", (0.001,) * len(writer.RACE_SECONDS))


def test_creates_that_lose_a_race_for_the_quota_are_sent_again_at_once():
    client = Racing(2)
    outcome = performed(client, 20)
    assert outcome.done
    assert outcome.created == client.created == 20


def test_a_create_that_loses_every_race_is_left_to_the_next_pass_with_its_reason():
    client = Racing(1000)
    outcome = performed(client, 1)
    assert outcome.failed is RACED
    assert not outcome.done
    assert client.tries.total() == 1 + len(writer.RACE_SECONDS)


@pytest.mark.parametrize("status", [403, 422, 429, 500])
def test_a_create_that_is_refused_otherwise_is_not_sent_again_at_once(status):
    client = Racing(1000, ApiError(status, "Other", "no", None))
    outcome = performed(client, 1)
    assert not outcome.done
    assert client.tries.total() == 1


def test_a_service_that_loses_a_race_for_the_quota_is_sent_again_at_once():
    async def story(client: Client) -> tuple[Outcome, bool]:
        children = {"Service": child_store("Service", woken, lambda *_: True)}
        executor = Executor(
            client,  # type: ignore[arg-type]
            stores.PodStore(woken),
            children,
            stores.PoolStore(woken),
        )
        action = actions.CreateChild(kind="Service", name="pool", body={}, reason="")
        return await executor.children(KEY, UID, [action]), bool(client.created)

    outcome, created = asyncio.run(story(Racing(2)))
    assert outcome.done
    assert created


STRAY = ApiError(404, "", "404 page not found", None)


class Astray(Client):
    """Nobody knows the way to the API server."""

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        raise STRAY


def test_by_a_404_that_is_not_about_them_nothing_was_deleted_and_nobody_is_gone():
    async def story() -> None:
        pools = stores.PoolStore(woken)
        pools.put(the_pool(1))
        children = {
            kind: child_store(kind, woken, lambda *_: True) for kind in ("Service", "Lease")
        }
        client: Any = Astray()
        executor = Executor(client, stores.PodStore(woken), children, pools)
        delete = actions.DeletePod(
            name="p", uid=names.Uid("u"), resource_version=1, grace_seconds=0, reason=""
        )
        outcome = await executor.pods(
            KEY, UID, [delete], asked=the_pool(1), confirm=None, go_on=lambda: True
        )
        assert (outcome.done, outcome.failed) == (False, STRAY)
        child = actions.DeleteChild(kind="Service", name="pool", uid=names.Uid("u"), reason="")
        outcome = await executor.children(KEY, UID, [child])
        assert (outcome.done, outcome.failed) == (False, STRAY)
        step = actions.WriteLease(name="pool-weights", patch={}, reason="")
        outcome = await executor.gates(KEY, UID, [step])
        assert (outcome.done, outcome.failed) == (False, STRAY)
        for asked in (
            executor.look_for(KEY, "p"),
            executor.confirm_pool(KEY, UID, the_pool(1)),
        ):
            with pytest.raises(ApiError):
                await asked

    asyncio.run(story())
