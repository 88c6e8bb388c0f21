"""An engine that crashes and catches up from the last commit's checkpoint, and faults amid that.

The operator's loads are steps of the Lease: what stands there is followed, so that a fault can meet
a load while it is under way, and so that loads are counted.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp

from sglang_operator.api import names
from sglang_operator.weights import lease_state
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.weights_real.engines import Engines
from tests.weights_real.plane import SharedPlane

# From the crash until the operator loads: a container's start, and the Lease's rest before a load.
LOADING_SECONDS = 20.0
# What then happens.  Trainers go on at once, amid the load, or once it is done.
AMID = (
    *("trainers go on", "trainers go on", "it is waited for"),
    *("the engine is killed", "an operator is killed", "the checkpoint cannot be read"),
)


class Recovery:
    """What the Lease of a pool says, as it is followed."""

    def __init__(self, shared: SharedPlane, namespace: str, pool: str) -> None:
        self._shared = shared
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = names.weights_lease_name(pool)
        self.said = Transaction()
        self.counted = Counter[str]()

    @property
    def possible(self) -> bool:
        """Whether the committed weights have a checkpoint, and nothing else is under way."""
        return self.said.phase is Phase.COMMITTED and bool(self.said.checkpoint)

    async def read(self) -> Transaction:
        """What it says at this moment."""
        with contextlib.suppress(aiohttp.ClientResponseError):
            return lease_state.read(
                await self._shared.api.call("GET", f"{self._path}/{self._name}")
            )
        return Transaction()

    async def follow(self) -> None:
        """Count loads that ended, whatever they came to."""
        async for event in self._shared.api.watch(self._path):
            if event["object"].get("metadata", {}).get("name") == self._name:
                before, self.said = self.said, lease_state.read(event["object"])
                self._count(before, self.said)

    def _count(self, before: Transaction, after: Transaction) -> None:
        if not before.recovers:
            return
        ended = before.recovering - (after.recovering if after.recovers else frozenset())
        same = after.id == before.id
        loaded = len(ended & after.instances) if same else 0
        self.counted["engine recovered"] += loaded
        self.counted["engine did not recover"] += len(ended) - loaded

    async def until(self, check: Callable[[Transaction], bool], seconds: float) -> bool:
        """Whether that came to be in time."""
        deadline = self._shared.pace.now() + seconds
        while not check(self.said):
            if self._shared.pace.now() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True


async def recover(
    engines: Engines,
    recovery: Recovery,
    chance: random.Random,
    kill_operator: Callable[[], Awaitable[None]],
) -> str:
    """An engine crashes, and the operator loads the checkpoint into its next life; what happened.

    Where the last commit named no checkpoint, the engine only crashes.
    """
    can = recovery.possible
    amid = chance.choice(AMID)
    engine = await engines.crash("kill", chance)
    if engine is None or not can:
        return "there is no checkpoint"
    address = await engines.next_life(engine)
    if amid == "the checkpoint cannot be read" and address:
        await engines.break_(address, "unreadable")
    if not await recovery.until(lambda said: said.recovers, LOADING_SECONDS):
        return "it did not begin to load"
    if amid == "the engine is killed":
        await engines.break_(address, "kill")
    elif amid == "an operator is killed":
        await kill_operator()
    elif amid != "trainers go on":
        await recovery.until(lambda said: not said.recovers, LOADING_SECONDS)
    return amid
