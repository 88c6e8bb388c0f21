"""A pool's engines as its registry names them, and what breaks them."""

import asyncio
import contextlib
import json
import random

import aiohttp

from sglang_operator.api import names
from sglang_operator.weights.lease_state import Transaction
from tests.weights_real.plane import Json, SharedPlane

CONTROL_PORT = 9999
LIFE_SECONDS = 30.0  # that an engine may take to be replaced
LOOK_SECONDS = 0.1
UP = ("Up", "InService")


class Engines:
    """Those of one pool."""

    def __init__(self, shared: SharedPlane, namespace: str, pool: str) -> None:
        self._shared = shared
        self._path = f"/api/v1/namespaces/{namespace}/configmaps/{names.registry_name(pool)}"

    async def all(self) -> list[Json]:
        """The registry's entries, one for each engine."""
        found: list[Json] = (await self.registry())["engines"]
        return found

    async def registry(self) -> Json:
        found: Json = json.loads(
            (await self._shared.api.call("GET", self._path))["data"]["engines.json"]
        )
        return found

    async def crash(self, kind: str, chance: random.Random) -> Json | None:
        """One of them ends; which it was."""
        engines = [engine for engine in await self.all() if engine["podIP"]]
        if not engines:
            return None
        engine = chance.choice(engines)
        await self.break_(engine["podIP"], kind)
        return engine

    async def break_(self, address: str, fault: str) -> None:
        """Have a fake engine be broken so, if it is there."""
        limits = aiohttp.ClientTimeout(total=5)
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=limits) as session,
                session.post(f"http://{address}:{CONTROL_PORT}/fault", json={"fault": fault}),
            ):
                pass

    async def released(self, address: str) -> frozenset[str] | None:
        """The tags whose memory a fake engine has released; None if it does not answer."""
        limits = aiohttp.ClientTimeout(total=5)
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=limits) as session,
                session.get(f"http://{address}:{CONTROL_PORT}/state") as response,
            ):
                return frozenset((await response.json())["released"])
        return None

    async def mistold(self, said: Transaction) -> set[str]:
        """The pods of which the Lease says that they sleep, and that have their memory."""
        asleep = [e for e in await self.all() if e["podIP"] and said.sleeps(e["instance"])]
        found = await asyncio.gather(*(self.released(e["podIP"]) for e in asleep))
        return {
            e["pod"]
            for e, released in zip(asleep, found, strict=True)
            if released is not None and said.sleeps(e["instance"]) - released
        }

    async def next_life(self, engine: Json) -> str:
        """The address of what is up in this engine's place; empty if nothing is in time."""
        deadline = self._shared.pace.now() + LIFE_SECONDS
        while self._shared.pace.now() < deadline:
            for now in await self.all():
                other = now["engine"] == engine["engine"] and now["pod"] != engine["pod"]
                if other and now["state"] in UP:
                    return str(now["podIP"])
            await asyncio.sleep(LOOK_SECONDS)
        return ""
