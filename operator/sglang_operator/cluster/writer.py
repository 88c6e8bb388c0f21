"""Writes that take their turn in a window, which learns from what becomes of them."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from sglang_operator.kube.client import (
    JSON,
    METADATA_ONLY,
    ApiClient,
    Lane,
)
from sglang_operator.kube.decoding import UnreadError
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
    FencedError,
)
from sglang_operator.kube.window import Window

# Before a create that lost a race is sent again.  Those who race wait for different times.
RACE_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4)


class UnwantedError(Exception):
    """What was to be created is not asked for any more."""


class Writer:
    """One lane's writes."""

    def __init__(self, client: ApiClient, lane: Lane) -> None:
        self._client = client
        self._lane = lane
        self.window = Window()

    async def send(
        self,
        method: str,
        namespace: str,
        path: str,
        body: Mapping[str, Any],
        content_type: str,
        params: Mapping[str, str],
    ) -> bytes:
        """The answer's body.  Raises :class:`ApiError`, :class:`ApiUnreachableError`."""
        content = orjson.dumps(body)

        async def once() -> bytes:
            return await self._client.request(
                method,
                path,
                body=content,
                content_type=content_type,
                params=params,
                lane=self._lane,
            )

        async with self.turn(namespace):
            return await (_raced(once) if method == "POST" else once())

    async def create(
        self,
        namespace: str,
        path: str,
        body: Mapping[str, Any],
        wanted: Callable[[], bool],
    ) -> bytes:
        """What the server keeps of it (``answered``); raises :class:`UnwantedError` too."""
        content, accept = orjson.dumps(body), answered(body)

        async def once() -> bytes:
            if not wanted():  # any more: it may have waited for long
                raise UnwantedError
            return await self._client.request("POST", path, body=content, accept=accept)

        async with self.turn(namespace):
            return await _raced(once)

    @asynccontextmanager
    async def turn(self, namespace: str) -> AsyncIterator[None]:
        """A place in the window for one request."""
        try:
            async with self.window.slot(namespace):
                yield
        except (ApiError, ApiUnreachableError) as error:
            self._learn(namespace, error)
            raise
        self.window.succeeded(namespace)

    def _learn(self, namespace: str, error: ApiError | ApiUnreachableError) -> None:
        """Whose burden it is: the server's, or of what this namespace's requests meet in it."""
        if isinstance(error, ApiUnreachableError):
            if not isinstance(error, FencedError | UnreadError):
                self.window.unexplained(namespace)
        elif not error.congested:
            pass
        elif error.of_namespace:
            self.window.failed(namespace, error.retry_after)
        elif error.overloaded:
            self.window.congested(error.retry_after)
        else:
            self.window.unexplained(namespace, error.retry_after)


def answered(body: Mapping[str, Any]) -> str:
    """What of an object that is made is to be answered: what the server keeps besides its content.

    Of what it may drop in silence the content too: a pod's group (``identity.changed``).
    """
    return JSON if "schedulingGroup" in body.get("spec", {}) else METADATA_ONLY


async def _raced(create: Callable[[], Awaitable[bytes]]) -> bytes:
    """The answer to a create that is sent again, a few times, while it loses a race.

    The API server counts objects in a ResourceQuota by changing it, and tells who did so at the
    same time as others, too often, that it was a conflict.
    """
    for seconds in RACE_SECONDS:
        try:
            return await create()
        except ApiError as error:
            if not error.lost_race:
                raise
        await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
    return await create()
