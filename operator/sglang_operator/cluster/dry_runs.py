"""Whether the API server would take a pod, and as it is: asked by a create that it does not carry
out.

What counts (at most so many pods here) refuses a pod that is only tried, because the one that makes
way for it still stands.  So where a webhook or a policy refuses, the pod that stands is tried as
well: what is said of both says nothing of what is new.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from sglang_operator.cluster import identity
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.cluster.writer import Writer, answered
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.decoding import Decoder, UnreadError
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.observed import wire

DRY_RUN = {"dryRun": "All"}
TIMEOUT = 30.0  # the longest that a webhook may take
# From the first digit of a run alone: messages quote what they refuse.
_NUMBER = re.compile(r"(?<!\d)\d++(?:\.\d++)?(?:[kKMGTPE]i?|m)?\b")
UNKNOWN = ApiError(0, "Unknown", "", None)  # nothing was said of this pod
_KEPT = ("labels", "annotations", "ownerReferences")
_decoder = Decoder(wire.Pod)
_GIVEN = ("nodeName", "ephemeralContainers")  # to a pod that exists alone


class DryRuns:
    """Tries pods, each in its namespace's turn: a webhook that hangs holds up no other's writes."""

    def __init__(self, client: ApiClient, writer: Writer) -> None:
        self._client = client
        self._writer = writer

    async def pod(
        self, key: PoolKey, body: Mapping[str, Any], standing: str = ""
    ) -> ApiError | ApiUnreachableError | None:
        """Why this pod would not be taken; None if it would, UNKNOWN if that cannot be told.

        A quota that is full says nothing: the pods that make way for this one use it up.
        ``standing``: the pod that would make way.
        """
        path = paths.pods(key.namespace)
        error = await self._try(key, path, body)
        if error is None or not standing or not _may_count(error):
            return error
        stands = await self._stored(key, standing)
        of_it = stands and await self._try(key, path, _again(stands, body))
        return UNKNOWN if of_it and _alike(of_it, error) else error

    async def group(
        self, key: PoolKey, kind: str, body: Mapping[str, Any]
    ) -> ApiError | ApiUnreachableError | None:
        """The same of what a gang's scheduler would know the pod by.

        That the one which stands would be refused too, by a queue that is closed since, is no
        reason to give up its engine.
        """
        return await self._try(key, paths.children(kind, key.namespace), body)

    async def _stored(self, key: PoolKey, name: str) -> Mapping[str, Any] | None:
        try:
            found = await self._client.request("GET", paths.pod(key.namespace, name))
        except (ApiError, ApiUnreachableError):
            return None
        pod: Mapping[str, Any] = orjson.loads(found)
        return pod

    async def _try(
        self, key: PoolKey, path: str, body: Mapping[str, Any]
    ) -> ApiError | ApiUnreachableError | None:
        try:
            async with self._writer.turn(key.namespace):
                answer = await self._client.request(
                    "POST",
                    path,
                    body=orjson.dumps(body),
                    params=DRY_RUN,
                    accept=answered(body),
                    timeout=TIMEOUT,
                )
            if path != paths.pods(key.namespace):
                return None
            # As what is really made is judged, and would be taken back.
            return identity.changed(body, _decoder.object(answer))
        except UnreadError:
            return UNKNOWN
        except ApiError as error:
            if error.untried:
                return UNKNOWN
            return None if error.quota or error.status == 409 else error
        except ApiUnreachableError as error:
            return error


def _may_count(error: ApiError | ApiUnreachableError) -> bool:
    """Whether it was refused by what may look at other pods than this one."""
    return isinstance(error, ApiError) and error.rejected and error.of_admission


def _alike(one: ApiError | ApiUnreachableError, other: ApiError | ApiUnreachableError) -> bool:
    """Whether the same is said of both, but for numbers: of the GPUs that each would have."""
    return _may_count(one) and _without_numbers(one) == _without_numbers(other)


def _without_numbers(error: ApiError | ApiUnreachableError) -> str:
    return _NUMBER.sub("0", error.message if isinstance(error, ApiError) else "")


def _again(stands: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """A pod that stands, as it would be made again under the other's name."""
    metadata, spec = stands.get("metadata", {}), stands.get("spec", {})
    kept = {key: metadata[key] for key in _KEPT if key in metadata}
    name = like.get("metadata", {}).get("name")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**kept, "name": name},
        "spec": {key: value for key, value in spec.items() if key not in _GIVEN},
    }
