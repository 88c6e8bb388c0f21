"""A trainer as a process of its own, on our client, that can be held at each of its requests.

A *point* is the moment before or after one request that the client makes, to an engine or to the
API server.  At the points that its order names, the whole process stands still until it is told to
go on, or is killed.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from sglang_operator.client import AsyncPool, PoolError
from sglang_operator.client.calls import EngineCalls
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.registry import Engine
from sglang_operator.testing.engine import weights
from sglang_operator.testing.realnode.network import Network
from sglang_operator.weights import lease_state as api_weights

LEASE_SECONDS = 4  # short, so that a run sees leases end
SETTLE_SECONDS = 0.5
TENSORS = weights.names(2)  # of the fake engine's model


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the pool is, and the thread by whose network its engines are reached."""

    namespace: str
    pool: str
    kubeconfig: str
    thread: int


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a trainer is to do, and at which points it is to be held."""

    program: str
    holder: str
    version: str = ""
    buckets: int = 3
    torn_at: int | None = None  # the bucket before which it fails
    tags: tuple[str, ...] = ("weights", "kv_cache")
    devices: tuple[int, ...] = ()  # of the part that sleeps or wakes; none: of all
    holds: frozenset[int | str] = frozenset()  # points, by number or by name
    wait: float = 0.0  # for another trainer
    lease: float = LEASE_SECONDS  # after which it counts as gone
    ready: bool = False  # it waits until every engine is up
    pauses: bool = True  # engines, before it writes
    labels_buckets: bool = False  # the version goes with every bucket
    flushes: bool = True  # engines forget what the old weights computed
    bucket_seconds: float = 0.0  # between two buckets
    checkpoint: bool = False  # the commit names one


def checkpoint_of(version: str) -> str:
    """The path of a checkpoint with this version's weights; a fake engine reads any."""
    return f"/checkpoints/{version}"


class TornError(Exception):
    """The trainer fails in the middle of its update."""


def spawn(
    place: Place, order: Any, does: Callable[[Place, Any, Connection], None] | None = None
) -> tuple[Any, Connection]:
    """Start a trainer, or what else ``does`` as ordered; the process and the way to talk to it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    process = context.Process(target=does or main, args=(place, order, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def main(place: Place, order: Order, talk: Connection) -> None:
    """Carry out the order; tells ``("end", error's name, its message)``."""
    prepare(order, talk)
    tell(place, lambda: _carry_out(place, order), talk)


def prepare(order: Order, talk: Connection) -> Callable[[str], None]:
    """Have this process be as ordered; what is called at a point that is no request."""
    api_weights.LEASE_SECONDS = LEASE_SECONDS
    point = hold_at(order.holds, talk)
    if not order.flushes:
        never_send("/flush_cache")
    if not order.pauses:
        never_send("/pause_generation")
    return point


def tell(
    place: Place, carry_out: Callable[[], Coroutine[Any, Any, None]], talk: Connection
) -> None:
    """Carry out what this process is for, in the plane's network, tell its end, and be gone."""
    try:
        with Network(place.thread).inside():
            asyncio.run(carry_out())
        talk.send(("end", "", ""))
    except (PoolError, TornError) as error:
        talk.send(("end", type(error).__name__, str(error)))
    except Exception as error:
        talk.send(("end", f"unexpected {type(error).__name__}", str(error)))
    talk.close()
    os._exit(0)


def never_send(what: str) -> None:
    """What the client asks of engines reaches them, but for this."""
    post = EngineCalls.post

    async def without(
        self: EngineCalls, engine: Engine, path: str, *rest: Any, **options: Any
    ) -> dict[str, Any]:
        return {} if path == what else await post(self, engine, path, *rest, **options)

    EngineCalls.post = without  # type: ignore[method-assign]


def hold_at(holds: frozenset[int | str], talk: Connection) -> Callable[[str], None]:
    """Have this process held at these points; what is called at one that is no request."""
    passed, left = 0, set(holds)

    def point(name: str) -> None:
        nonlocal passed
        for hold in sorted(left & {passed, name}, key=str):
            left.discard(hold)
            talk.send(("at", hold, name))
            talk.recv()
        passed += 1

    def held(owner: type, method: str) -> None:
        call: Callable[..., Awaitable[Any]] = getattr(owner, method)

        async def calling(self: Any, *arguments: Any, **options: Any) -> Any:
            path = next((a for a in arguments if isinstance(a, str)), method)
            point(f"before {path}")
            answer = await call(self, *arguments, **options)
            point(f"after {path}")
            return answer

        setattr(owner, method, calling)

    held(EngineCalls, "post_any")
    for method in ("registry", "lease", "put_lease"):
        held(Cluster, method)
    return point


def attached(place: Place, order: Order) -> AsyncPool:
    """The pool, to be entered, for this trainer."""
    return AsyncPool(place.pool, place.namespace, kubeconfig=place.kubeconfig, holder=order.holder)


async def _carry_out(place: Place, order: Order) -> None:
    async with attached(place, order) as pool:
        if order.ready:
            await pool.wait_ready(60)
        for step in PROGRAMS[order.program]:
            await step(pool, order)


async def sync(pool: AsyncPool, order: Order) -> None:
    """All buckets, in a sync; TornError in the middle of it where the order says so."""
    running = pool.sync(order.version, wait=order.wait, duration=order.lease)
    async with running:
        for index in range(order.buckets):
            if index == order.torn_at:
                raise TornError(f"at bucket {index}")
            await running.update_weights_from_tensor(bucket(order, index))
            await asyncio.sleep(order.bucket_seconds)
        if order.checkpoint:
            running.checkpoint = checkpoint_of(order.version)


def bucket(order: Order, index: int) -> dict[str, Any]:
    """The body of one request of an update."""
    names = TENSORS[index :: order.buckets]
    body: dict[str, Any] = {"serialized_named_tensors": [weights.bucket(names, order.version)]}
    return {**body, "weight_version": order.version} if order.labels_buckets else body


async def _sleep(pool: AsyncPool, order: Order) -> None:
    part = order.devices or None
    await pool.sleep(order.tags, devices=part, settle=SETTLE_SECONDS, timeout=20)


async def _wake(pool: AsyncPool, order: Order) -> None:
    await pool.wake(devices=order.devices or None)


async def _strange(pool: AsyncPool, order: Order) -> None:
    """A trainer that does not know of us: it writes to every engine, and pauses nothing."""
    engines = (await pool.wait_ready(60)).engines
    for index in range(order.buckets):
        body = {"flush_cache": False, **bucket(order, index)}
        await _each(pool, engines, "/update_weights_from_tensor", body)
        await asyncio.sleep(order.bucket_seconds)


async def _each(
    pool: AsyncPool, engines: tuple[Engine, ...], path: str, body: dict[str, Any]
) -> None:
    await pool.calls.post_all(engines, path, body)


Step = Callable[[AsyncPool, Order], Awaitable[None]]
PROGRAMS: dict[str, tuple[Step, ...]] = {
    "sync": (sync,),
    "sleep": (_sleep,),
    "wake": (_wake,),
    "nap": (_sleep, _wake),
    "cycle": (_sleep, _wake, sync),
    "sleep and sync": (_sleep, sync),
    "strange": (_strange,),
}
