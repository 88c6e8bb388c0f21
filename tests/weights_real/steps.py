"""What a step of training costs: sleep, wake, sync and generate, over and over, on a real node.

Beside each sync the same kind and number of requests go out without our client: so a machine that
is busy with others makes neither good figures bad nor bad ones good.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from sglang_operator.client import AsyncPool
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.engine import weights
from tests.integration.pools import PoolUnderTest
from tests.weights_real.plane import Api
from tests.weights_real.trainer import TENSORS

OPERATOR = "system:serviceaccount:sglang-operator:sglang-operator"
BUCKETS = 4
IN_SERVICE_SECONDS = 60.0
# Of the operator to gates, for each engine and step: closed, awake, open.  Some go out again.
MAX_WRITES = 3.5
OURS, BARE = "sync, our side", "its requests alone"
LEASE_STEPS = 3  # of a sync: begin, renew, commit; each reads and writes
FAN_OUTS = 6  # to all engines: reach, pause, flush, the label, drain, continue
MAX_RATIO = 3.0  # of ours to the bare requests, in the middle


@dataclass
class Steps:
    """What was measured.  Seconds, one value for each step."""

    engines: int
    parts: dict[str, list[float]] = field(default_factory=dict)
    writes: float = 0.0  # of the operator, for each engine and step
    gate_writes: float = 0.0  # of those
    lost: int = 0  # engines that are not those of the beginning, or were started again
    wrong: list[str] = field(default_factory=list)  # answers

    def note(self, part: str, seconds: float) -> None:
        """One more value."""
        self.parts.setdefault(part, []).append(seconds)

    @property
    def steps(self) -> int:
        return len(self.parts.get(OURS, ()))

    @property
    def ratio(self) -> float:
        """What a sync costs beside the engines' own update, for one of its requests alone."""
        return percentile(self.parts[OURS], 0.5) / percentile(self.parts[BARE], 0.5)

    @property
    def good(self) -> bool:
        """Whether it is as it should be, on any machine.

        Writes to registry and status are told only: a slow machine shows more states between.
        """
        return (
            not self.lost
            and not self.wrong
            and self.gate_writes <= MAX_WRITES
            and self.ratio <= MAX_RATIO
        )

    def table(self) -> str:
        lines = [
            f"## {self.engines} engines, {self.steps} steps of sleep, wake, sync, generate",
            f"engines lost {self.lost}, wrong answers {len(self.wrong)}, "
            f"operator's writes for each engine and step {self.writes:.2f}, "
            f"to gates {self.gate_writes:.2f} (at most {MAX_WRITES:g}), "
            f"{OURS} {self.ratio:.1f} times {BARE} (at most {MAX_RATIO:g})",
        ]
        for part, values in self.parts.items():
            lines.append(
                f"  {part}: p50 {percentile(values, 0.5) * 1e3:.0f} ms, "
                f"p99 {percentile(values, 0.99) * 1e3:.0f} ms, most {max(values) * 1e3:.0f} ms"
            )
        return "\n".join(lines)


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that is not below this share of all."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class Bare:
    """The requests of a sync without their meaning; an asynchronous context manager."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    async def __aenter__(self) -> Self:
        self._api = Api(self._plane)
        self._engines = aiohttp.ClientSession()
        lease = {"metadata": {"name": "bare"}, "spec": {"holderIdentity": "nobody"}}
        await self._api.call("POST", self._leases, lease)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.call("DELETE", f"{self._leases}/bare")
        await self._engines.close()
        await self._api.close()

    async def sync(self, urls: Sequence[str]) -> float:
        """Seconds that they take, to the Lease one after the other, to all engines at once."""
        begun = time.monotonic()
        for _ in range(LEASE_STEPS):
            lease = await self._api.call("GET", f"{self._leases}/bare")
            await self._api.call("PUT", f"{self._leases}/bare", lease)
        for _ in range(FAN_OUTS):
            await asyncio.gather(*(self._ask(url) for url in urls))
        return time.monotonic() - begun

    async def _ask(self, url: str) -> None:
        async with self._engines.get(f"{url}/health") as response:
            await response.read()


async def measure(plane: ControlPlane, pool: PoolUnderTest, steps: int) -> Steps:
    """Train so many steps on a pool that is ready; within the plane's network."""
    measured = Steps(engines=len(pool.registry()["engines"]))
    before, written = lives(pool), _writes(plane)
    per_step = 1 / (measured.engines * steps)
    async with (
        AsyncPool(
            pool.name, pool.namespace, kubeconfig=plane.kubeconfig, holder="trainer"
        ) as trainer,
        Bare(plane, pool.namespace) as bare,
    ):
        for step in range(1, steps + 1):
            await _step(trainer, f"step-{step}", measured)
            urls = [engine.url for engine in await trainer.engines() if engine.url]
            measured.note(BARE, await bare.sync(urls))
    await asyncio.to_thread(_is_told, pool)
    counted = _writes(plane) - written
    measured.writes = counted.total() * per_step
    measured.gate_writes = counted["pods/status"] * per_step
    after = lives(pool)
    measured.lost = sum(after.get(engine) != life for engine, life in before.items())
    return measured


async def _step(trainer: AsyncPool, version: str, measured: Steps) -> None:
    begun = time.monotonic()
    await trainer.sleep()
    measured.note("sleep", time.monotonic() - begun)
    begun = time.monotonic()
    await trainer.wake()
    measured.note("wake", time.monotonic() - begun)
    begun = time.monotonic()
    async with trainer.sync(version) as sync:
        updating = time.monotonic()
        for index in range(BUCKETS):
            body = {"serialized_named_tensors": [weights.bucket(TENSORS[index::BUCKETS], version)]}
            await sync.update_weights_from_tensor(body)
        updated = time.monotonic()
    ended = time.monotonic()
    measured.note(OURS, ended - begun - (updated - updating))
    measured.note("sync, engines' update", updated - updating)
    await trainer.wait_synced(version, IN_SERVICE_SECONDS)
    measured.note("commit to all in service", time.monotonic() - ended)
    for answer in await _generate(trainer):
        found = answer["fake_weights"]
        if (found["state"], found["stamp"]) != (weights.WHOLE, version):
            measured.wrong.append(f"{version}: {found}")


async def _generate(trainer: AsyncPool) -> list[dict[str, Any]]:
    body = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 8}}
    return await trainer.calls.post_all(await trainer.engines(), "/generate", body)


def lives(pool: PoolUnderTest) -> dict[str, tuple[str, int]]:
    """UID and restarts of each engine's pod."""
    found = {}
    for pod in pool.pods():
        restarts = sum(s["restartCount"] for s in pod["status"].get("containerStatuses", []))
        found[pod["metadata"]["name"]] = (pod["metadata"]["uid"], restarts)
    return found


def _is_told(pool: PoolUnderTest) -> None:
    """The status of the last step is written too."""
    wanted = f"{len(pool.registry()['engines'])}/{len(pool.registry()['engines'])}"
    with contextlib.suppress(KeyError):
        pool.wait(lambda: pool.status["syncedSummary"] == wanted, "synced")
    time.sleep(1.5)


def _writes(plane: ControlPlane) -> Counter[str]:
    """What the operator wrote so far by resource, its own Lease apart."""
    return Counter(
        f"{event.resource}/{event.subresource}" if event.subresource else event.resource
        for event in plane.audit(user=OPERATOR)
        if event.verb not in ("get", "list", "watch")
        and not (event.resource == "leases" and event.namespace == "sglang-operator")
    )
