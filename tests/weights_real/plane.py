"""One plane with a real node, two operators on it, and what is asked of its API server."""

import asyncio
import contextlib
import json
import random
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from sglang_operator.api import names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import NAMESPACE, InstalledOperator
from tests.weights_real.pace import Pace
from tests.weights_real.trainer import Place

Json = dict[str, Any]

GROUP = f"/apis/{names.API_VERSION}"
OPERATORS_LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{names.LEASE_NAME}"
MERGE_PATCH = "application/merge-patch+json"


class Api:
    """The API server for an event loop, as the administrator."""

    def __init__(self, plane: ControlPlane) -> None:
        self._server = plane.url
        tls = ssl.create_default_context(cafile=str(plane.ca_file))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            headers={"Authorization": f"Bearer {plane.admin_token}"},
            read_bufsize=4 << 20,
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: object = None) -> Json:
        """One request; raises ClientResponseError."""
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        async with self._session.request(
            method, self._server + path, json=body, headers={"Content-Type": kind}
        ) as response:
            if response.status >= 400:
                text = await response.text()
                raise aiohttp.ClientResponseError(
                    response.request_info, (), status=response.status, message=text
                )
            found: Json = await response.json()
            return found

    async def watch(self, path: str) -> AsyncIterator[Json]:
        """Every event from now on; the watch is taken up again when it ends."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                url = f"{self._server}{path}?watch=1"
                async with self._session.get(url, timeout=timeout) as response:
                    try:
                        async for line in response.content:
                            yield json.loads(line)
                    finally:
                        if response.connection and response.connection.transport:
                            response.connection.transport.abort()
            await asyncio.sleep(0.2)


class SharedPlane:
    """The plane as explorations use it; an asynchronous context manager within its network.

    ``operators`` run already, and are killed and started again.
    """

    def __init__(self, plane: ControlPlane, operators: list[InstalledOperator]) -> None:
        self.plane = plane
        self._operators = operators
        self._changing = asyncio.Lock()
        self._restarts: list[asyncio.Task[None]] = []
        self.kills = 0
        self.pace = Pace()

    async def __aenter__(self) -> Self:
        await self.pace.__aenter__()
        self.api = Api(self.plane)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.rest()
        await self.api.close()
        await self.pace.__aexit__(kind, error, trace)

    def place(self, namespace: str, pool: str) -> Place:
        """What a trainer is told."""
        return Place(
            namespace=namespace,
            pool=pool,
            kubeconfig=str(self.plane.kubeconfig),
            thread=threading.get_native_id(),
        )

    # --- what happens to operators

    async def kill_operator(self, chance: random.Random) -> None:
        """SIGKILL for one of them, with or without the Lease that it held; it comes back."""
        operator = chance.choice(self._operators)
        forget = chance.random() < 0.7
        self.kills += 1
        self._restarts.append(
            asyncio.create_task(self._kill(operator, chance.uniform(0, 2), forget))
        )
        await asyncio.sleep(0.05)

    async def _kill(self, operator: InstalledOperator, seconds: float, forget: bool) -> None:
        async with self._changing:
            await asyncio.to_thread(operator.kill)
            if forget:  # else the other waits for its end
                await self.lose_lease()
            await asyncio.sleep(seconds)
            await asyncio.to_thread(operator.start)

    async def lose_lease(self) -> None:
        """The Lease by which one operator writes is gone: each may think that it is the one."""
        with contextlib.suppress(aiohttp.ClientResponseError):
            await self.api.call("DELETE", OPERATORS_LEASE)

    async def rest(self) -> None:
        """Wait until every operator that was killed is back."""
        while self._restarts:
            restarts, self._restarts = self._restarts, []
            await asyncio.gather(*restarts)


def operators(plane: ControlPlane, source: Path | None = None) -> list[InstalledOperator]:
    """Two operators, both started."""
    made = [
        InstalledOperator(plane, name=f"operator-{letter}", ask_engines=True, source=source)
        for letter in "ab"
    ]
    made[0].install()
    for operator in made:
        operator.start()
    return made


def in_network(plane: ControlPlane, explore: Callable[[], Any]) -> Any:
    """Run a coroutine where pods and Services have addresses."""
    with plane.inside():
        return asyncio.run(explore())
