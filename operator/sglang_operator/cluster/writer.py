"""Writes that take their turn in a window, which learns from what becomes of them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from sglang_operator.cluster.client import (
    ApiClient,
    Lane,
)
from sglang_operator.cluster.decoding import UnreadError
from sglang_operator.cluster.errors import (
    ApiError,
    ApiUnreachableError,
    FencedError,
)
from sglang_operator.cluster.window import Window


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
        async with self.turn(namespace):
            return await self._client.request(
                method,
                path,
                body=orjson.dumps(body),
                content_type=content_type,
                params=params,
                lane=self._lane,
            )

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
                self.window.unanswered(namespace)
        elif error.congested and error.of_admission:
            self.window.failed(namespace, error.retry_after)
        elif error.congested:
            self.window.congested(error.retry_after)
