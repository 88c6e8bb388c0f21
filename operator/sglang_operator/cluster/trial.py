"""Whether the API server would take a pod: asked by a create that it does not carry out."""

from collections.abc import Mapping
from typing import Any

import orjson

from sglang_operator.cluster import paths
from sglang_operator.cluster.client import (
    METADATA_ONLY,
    ApiClient,
)
from sglang_operator.cluster.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.cluster.writer import Writer

DRY_RUN = {"dryRun": "All"}
# What a webhook gets that does not say that it has no side effects: it cannot be tried.
TIMEOUT = 30.0  # the longest that a webhook may take
NOT_TRIED = "does not support dry run"


class Trials:
    """Tries pods, each in its namespace's turn: a webhook that hangs holds up no other's writes."""

    def __init__(self, client: ApiClient, writer: Writer) -> None:
        self._client = client
        self._writer = writer

    async def pod(
        self, key: PoolKey, body: Mapping[str, Any]
    ) -> ApiError | ApiUnreachableError | None:
        """Why this pod would not be taken; None if it would, or if that cannot be told.

        A quota that is full says nothing: the pods that make way for this one use it up.
        """
        path = paths.pods(key.namespace)
        try:
            async with self._writer.turn(key.namespace):
                await self._client.request(
                    "POST",
                    path,
                    body=orjson.dumps(body),
                    params=DRY_RUN,
                    accept=METADATA_ONLY,
                    timeout=TIMEOUT,
                )
        except ApiError as error:
            untold = error.quota or error.status == 409 or NOT_TRIED in error.message
            return None if untold else error
        except ApiUnreachableError as error:
            return error
        return None
