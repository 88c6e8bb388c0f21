"""One pool through many runs: trainers held and killed at any of their requests, and what else.

A run is a few things that trainers and people do, chosen by a seed, and then a fair end: nothing
fails any more, one trainer keeps going, and everything has to come right.  The pool goes on from
run to run, as pools do.
"""

import asyncio
import contextlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import aiohttp

from sglang_operator.api import names
from sglang_operator.client.lease import recorded
from sglang_operator.weights.lease_state import Phase
from tests.builders import with_config
from tests.weights_real import trainer
from tests.weights_real.clients import Checker, Clients, Covered, Told
from tests.weights_real.ends import Ends
from tests.weights_real.engines import CONTROL_PORT, Engines
from tests.weights_real.plane import GROUP, Json, SharedPlane
from tests.weights_real.recovery import Recovery, recover
from tests.weights_real.trainer import Order

POOL = "actor-infer"
MAPPINGS = ("[0, 1, 2]", "[2, 0, 1]", "[0, 1, 3]", "[4, 1, 2]", "[0, 1, 2, 3]")
REPLICAS = (None, 2, 3)
# GPU ids of whom a trainer puts to sleep and wakes, the others serving on; none: all do.
PARTS: tuple[tuple[int, ...], ...] = ((), (), (0,), (2,), (0, 1), (1, 3))
SLEEPS = ("sleep", "wake", "nap", "cycle", "sleep and sync")
PROGRAMS = ("sync", "sync", "sync", "torn", *SLEEPS)
WHILE_TRAINING = ("trainer dies", "trainer dies", "trainer stands still", "second trainer")
AT_ANY_TIME = (
    *("engine killed", "engine crashes", "engine killed"),
    *("scaled", "mapping changed", "operator killed", "operators' Lease lost"),
)
WHILE_NOBODY_TRAINS = ("engine recovers",) * 5
# A sync of three engines passes some 60 points.
POINTS = 64
# These by the machine's own pace.
UP_SECONDS = 120.0
FAIR_SECONDS = 150.0
IN_SERVICE_SECONDS = 15.0
FAIR_LEASE_SECONDS = 30.0  # a busy machine ends no sync that nothing disturbs
SERVING_SECONDS = 1.5  # at most, between what trainers do
READ_SECONDS = 0.8  # that a fake engine takes for a checkpoint
CHECKPOINTS = 0.7  # of commits, that name one


Holds = dict[int | str, str]  # what happens at which point
Faults = dict[str, Callable[[Any], Any]]


@dataclass(frozen=True, kw_only=True)
class Roll:
    """ROLL's jobs as they are, or as they should not be."""

    defect: str = ""  # the guard that workers are without (roll_worker)
    leaves_out: bool = False  # the last worker gets no bucket, and nobody tells it
    aimed: tuple[str, str] | None = None  # the last worker is held so at this point
    grows: bool = False  # each job begins on the first mapping


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Trainers on the engines' own GPUs as they are, or as they should not be."""

    defect: str = ""  # what a trainer does (turn_trainer)
    program: str = ""  # instead of any, and nothing happens by chance
    aimed: str = ""  # this happens while each trainer has the memory
    train_seconds: float = 0.0  # for which it has that; by chance


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is explored: the pool's gate, and trainers as they are or as they should not be."""

    gate: str = "Committed"
    program: str = ""  # instead of any
    pauses: bool = True
    labels_buckets: bool = False
    flushes: bool = True
    bucket_seconds: float = 0.0
    # Aimed: an engine crashes before each trainer, who is held so at this point.
    aimed: tuple[int, str] | None = None
    # Before each trainer an engine crashes, and may catch up from a checkpoint.
    recovers: bool = False
    roll: Roll | None = None  # trainers are ROLL's jobs (jobs)
    turns: Turns | None = None  # trainers are on the engines' GPUs (turn_runs)


@dataclass
class Result:
    """One run: what was done, what it came to, what was wrong."""

    seed: int
    steps: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    told: Told = field(default_factory=Told)
    both: list[str] = field(default_factory=list)  # moments: engine and trainer on one memory
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def found(self) -> list[str]:
        """Everything that must not be."""
        return [*self.told.wrong, *self.both, *self.problems]


def engines_template() -> Json:
    """A podTemplate for fake engines that start and end quickly, and can be broken."""
    told = {
        "CONTROL_PORT": CONTROL_PORT,
        "LOAD_SECONDS": 0.05,
        "WARM_UP_SECONDS": 0.05,
        "CRASH_SECONDS": 0.05,
        "DRAIN_POLL_SECONDS": 0.2,
        "READ_SECONDS": READ_SECONDS,
    }
    env = [{"name": f"FAKE_SGLANG_{key}", "value": str(value)} for key, value in told.items()]
    return {"spec": {"containers": [{"name": names.ENGINE_CONTAINER, "env": env}]}}


class PoolRuns:
    """A pool, its clients and its trainers, one after the other; an asynchronous context manager.

    ``namespace`` exists, and is the pool's alone.
    """

    def __init__(self, shared: SharedPlane, namespace: str, variant: Variant) -> None:
        self._shared = shared
        self._namespace = namespace
        self._variant = variant
        self._place = shared.place(namespace, POOL)
        self._checker = Checker()
        self._result = Result(0)
        self._chance = random.Random(0)
        self._versions = 0
        self._ends = Ends()
        self._engines = Engines(shared, namespace, POOL)
        self._recovery = Recovery(shared, namespace, POOL)

    # --- life

    async def __aenter__(self) -> Self:
        await self._api(
            "POST", f"{GROUP}/namespaces/{self._namespace}/{names.PLURAL}", self._pool()
        )
        follow = (self._follow_pods(), self._recovery.follow())
        self._watches = [asyncio.create_task(each) for each in follow]
        await self._until(self._is_up, UP_SECONDS, "the engines to be up")
        service = await self._api(
            "GET", f"/api/v1/namespaces/{self._namespace}/services/{names.service_name(POOL)}"
        )
        spec = service["spec"]
        url = f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"
        self._clients = Clients(url, self._checker, self._covered)
        await self._clients.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._clients.__aexit__(kind, error, trace)
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self._api("DELETE", self._pool_path)

    def _pool(self) -> Json:
        gate = self._variant.gate
        closes = gate == "Committed"
        spec = {
            **with_config(enable_memory_saver=True),
            "num_gpus_per_worker": 1,
            "device_mapping": MAPPINGS[0],
            "weights": {"gate": gate, "recovery": "FromCheckpoint" if closes else "Wait"},
            "restart": {
                "backoffSeconds": 1,
                "maxBackoffSeconds": 1,
                "resetSeconds": 1,
                "startupBudget": 100,
            },
            "drain": {"gracePeriodSeconds": 2},
            "podTemplate": engines_template(),
        }
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": POOL},
            "spec": spec,
        }

    # --- a run

    async def run(self, seed: int) -> Result:
        """A run of this seed; what came of it."""
        begun = time.monotonic()
        self._chance = random.Random(seed)
        self._result = Result(seed)
        self._clients.take()
        if self._chance.random() < 0.25:
            await self._idle_fault()
        for _ in range(self._chance.randint(2, 4)):
            await self._act()
            await asyncio.sleep(self._chance.uniform(0, SERVING_SECONDS))
            if self._chance.random() < 0.2:
                await self._idle_fault()
        await self._settle()
        self._result.told = self._clients.take()
        if self._result.told.wrong:
            self._result.problems.append(await self._who_is_there())
        self._result.outcomes += self._recovery.counted
        self._recovery.counted.clear()
        kinds, wrong = self._ends.take()
        self._result.outcomes += kinds
        self._result.problems += wrong
        self._result.seconds = time.monotonic() - begun
        return self._result

    async def _who_is_there(self) -> str:
        """The Lease, the registry and the pods, in words: whose a wrong answer was."""
        pods = await self._api("GET", f"/api/v1/namespaces/{self._namespace}/pods")
        found = [
            (meta["name"], status.get("podIP"), status["phase"], meta.get("deletionTimestamp"))
            for meta, status in ((pod["metadata"], pod["status"]) for pod in pods["items"])
        ]
        registry = json.dumps(await self._engines.registry())
        return f"there are pods {found}, registry {registry}, {await self._recovery.read()}"

    async def _act(self) -> None:
        """Somebody trains, and maybe something happens meanwhile."""
        chance, variant = self._chance, self._variant
        program = variant.program or chance.choice(PROGRAMS)
        torn = chance.randrange(3) if program == "torn" else None
        holds: Holds = {}
        if variant.aimed is not None:
            await self._engines.crash("kill", self._chance)
            await asyncio.sleep(1)
            holds = dict([variant.aimed])
        if variant.recovers:
            await self._crash_recoverably()
        for _ in range(0 if variant.aimed or variant.recovers else chance.choice((0, 1, 1, 2))):
            holds[chance.randrange(POINTS)] = self._pick()
        order = Order(
            program="sync" if program == "torn" else program,
            holder=chance.choice(("trainer-a", "trainer-a", "trainer-b")),
            version=self._version(),
            buckets=chance.choice((2, 3, 5)),
            torn_at=torn,
            tags=chance.choice((("weights", "kv_cache"), ("kv_cache",))),
            devices=chance.choice(PARTS),
            holds=frozenset(holds),
            wait=chance.choice((0.0, 6.0)),
            ready=chance.random() < 0.7 or variant.aimed is not None,
            pauses=variant.pauses,
            labels_buckets=variant.labels_buckets,
            flushes=variant.flushes,
            bucket_seconds=variant.bucket_seconds,
            checkpoint=chance.random() < CHECKPOINTS,
        )
        part = f" of {order.devices}" if order.devices and program in SLEEPS else ""
        self._result.steps.append(program + part)
        await self._train(order, holds)

    def _version(self) -> str:
        self._versions += 1
        version = f"{self._namespace}-v{self._versions}"
        self._checker.expect(version)
        return version

    async def _train(self, order: Any, holds: Holds, does: Any = None) -> str:
        """Let a trainer carry out its order; the name of what it raised, "died", or nothing."""
        process, talk = await asyncio.to_thread(trainer.spawn, self._place, order, does)
        try:
            return await self._attend(process, talk, holds)
        finally:
            if process.is_alive():
                process.kill()
            await asyncio.to_thread(process.join)
            talk.close()

    async def _attend(self, process: Any, talk: Connection, holds: Holds) -> str:
        while True:
            try:
                said = await _received(talk)
            except (EOFError, ConnectionError):
                self._result.outcomes["trainer died"] += 1
                await self._doubt()
                return "died"
            if said[0] == "at":
                _, point, name = said
                fault = holds[point]
                self._result.steps.append(f"{fault} at {point} ({name})")
                self._result.faults[fault] += 1
                await self._faults()[fault](process)
                with contextlib.suppress(ConnectionError):
                    talk.send("go on")
                continue
            _, error, message = said
            self._result.outcomes[error or "done"] += 1
            if error:
                self._result.steps.append(f"{error}: {message[:160]}")
            if error.startswith("unexpected"):
                self._result.problems.append(f"the trainer: {error}: {message}")
            return str(error)

    # --- faults

    def _faults(self) -> Faults:
        return {
            "trainer dies": self._kill,
            "trainer stands still": self._stall,
            "engine killed": lambda _: self._engines.crash("kill", self._chance),
            "engine crashes": lambda _: self._engines.crash("crash", self._chance),
            "scaled": lambda _: self._scale(),
            "mapping changed": lambda _: self._remap(),
            "second trainer": lambda _: self._second_trainer(),
            "operator killed": lambda _: self._shared.kill_operator(self._chance),
            "operators' Lease lost": lambda _: self._shared.lose_lease(),
            "engine recovers": lambda _: self._recover(),
        }

    def _pick(self, *, nobody_trains: bool = False) -> str:
        others: Sequence[str] = WHILE_NOBODY_TRAINS if nobody_trains else WHILE_TRAINING
        return self._chance.choice([*others, *AT_ANY_TIME])

    async def _kill(self, process: Any) -> None:
        process.kill()

    async def _stall(self, _: Any) -> None:
        """Longer than it may count on its Lease, or longer than the Lease lasts.

        After the latter the operator has aborted when it goes on.
        """
        await self._doubt()
        lasts = self._chance.choice(
            (trainer.LEASE_SECONDS, math.ceil(recorded(trainer.LEASE_SECONDS)))
        )
        await asyncio.sleep(lasts + 1.5)

    async def _checkpoint(self) -> None:
        """There is one to catch up from."""
        if not self._recovery.possible:
            await self._train(self._fair(checkpoint=True), {})

    async def _crash_recoverably(self) -> None:
        """The next trainer begins as soon as the engine is up again."""
        await self._checkpoint()
        engine = await self._engines.crash("kill", self._chance)
        if engine is not None:
            await self._engines.next_life(engine)

    async def _recover(self) -> None:
        await self._checkpoint()
        killed = partial(self._shared.kill_operator, self._chance)
        found = await recover(self._engines, self._recovery, self._chance, killed)
        self._result.steps.append(f"recovery: {found}")
        self._result.faults[f"recovery: {found}"] += 1

    async def _scale(self) -> None:
        await self._patch({"replicas": self._chance.choice(REPLICAS)})

    async def _remap(self) -> None:
        await self._patch({"device_mapping": self._chance.choice(MAPPINGS)})

    async def _second_trainer(self) -> None:
        await self._doubt()
        order = Order(program="sync", holder="trainer-c", version=self._version())
        said = await self._train(order, {})
        self._result.steps.append(f"the second: {said or 'done'}")

    async def _idle_fault(self) -> None:
        """Something happens while nobody trains."""
        fault = self._pick(nobody_trains=True)
        self._result.steps.append(f"{fault}, nobody trains")
        self._result.faults[fault] += 1
        await self._faults()[fault](None)

    # --- a fair end

    async def _settle(self) -> None:
        """The trainer trains on, step by step: every engine gets its weights in the end."""
        await self._shared.rest()
        deadline = self._shared.pace.now() + FAIR_SECONDS
        said = ""
        while self._shared.pace.now() < deadline:
            order = self._fair(checkpoint=self._chance.random() < CHECKPOINTS)
            said, version = await self._train(order, {}), order.version
            if said:
                continue
            if self._variant.gate != "Committed":
                return
            with contextlib.suppress(TimeoutError):
                # An engine that a change of the spec brought since is covered by the next step.
                await self._until(partial(self._serves, version), IN_SERVICE_SECONDS, "")
                self._checker.serves(version)
                self._ends.beyond_doubt(e["pod"] for e in await self._engines.all())
                return
        found = json.dumps(await self._engines.registry())
        self._result.problems.append(f"the trainer kept going, in vain ({said}): {found}")

    def _fair(self, *, checkpoint: bool) -> Order:
        """A sync that nothing disturbs."""
        return Order(
            program="sync",
            holder="trainer-a",
            version=self._version(),
            wait=trainer.LEASE_SECONDS + 2,
            ready=True,
            lease=FAIR_LEASE_SECONDS,
            checkpoint=checkpoint,
        )

    async def _serves(self, version: str) -> bool:
        engines = await self._engines.all()
        return bool(engines) and all(
            (e["state"], e["version"]) == ("InService", version) for e in engines
        )

    async def _is_up(self) -> bool:
        with contextlib.suppress(aiohttp.ClientResponseError):
            engines = await self._engines.all()
            return len(engines) == 3 and all(e["instance"] and e["url"] for e in engines)
        return False

    # --- how engines end

    async def _follow_pods(self) -> None:
        async for event in self._shared.api.watch(f"/api/v1/namespaces/{self._namespace}/pods"):
            self._ends.note(event["object"])

    async def _doubt(self) -> None:
        """Nobody knows what the trainer has done last: it died, or others come as if it had.

        Looked at twice: a request of its last moment may still be on its way.
        """
        for pause in (0.0, 0.5):
            await asyncio.sleep(pause)
            self._ends.doubt(await self._engines.mistold(await self._recovery.read()))

    # --- the API server

    @property
    def _pool_path(self) -> str:
        return f"{GROUP}/namespaces/{self._namespace}/{names.PLURAL}/{POOL}"

    async def _api(self, method: str, path: str, body: object = None) -> Json:
        return await self._shared.api.call(method, path, body)

    async def _patch(self, spec: Json) -> None:
        await self._api("PATCH", self._pool_path, {"spec": spec})

    async def _covered(self) -> set[Covered]:
        """The engines that the last commit covers, while nothing is under way."""
        said = await self._recovery.read()
        if said.phase is not Phase.COMMITTED or self._variant.gate != "Committed":
            return set()
        return {
            Covered(e["url"], e["instance"], said.id, said.version)
            for e in await self._engines.all()
            if e["url"] and e["instance"] in said.instances
        }

    async def _until(self, check: Callable[[], Any], seconds: float, what: str) -> None:
        deadline = self._shared.pace.now() + seconds
        while not await check():
            if self._shared.pace.now() > deadline:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            await asyncio.sleep(0.1)


async def _received(talk: Connection) -> Any:
    """What a process tells next; no thread waits for it, as there are many.  Raises EOFError."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(talk.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(talk.fileno())
    return talk.recv()
