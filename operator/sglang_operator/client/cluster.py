"""Requests to the API server: one ConfigMap and one Lease, as the trainer's Role allows."""

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from sglang_operator.api import names
from sglang_operator.client import texts
from sglang_operator.client.credentials import Credentials
from sglang_operator.client.errors import ClusterError, NotReady
from sglang_operator.client.registry import Registry, parse
from sglang_operator.kube.authorization import CredentialsError
from sglang_operator.kube.identity import Headers, Identity
from sglang_operator.kube.transport import HttpClient, Response, lines
from sglang_operator.placement import slots
from sglang_operator.placement.slots import Slot

REQUEST_SECONDS = 10.0
WATCH_SECONDS = 300
IDLE_SECONDS = 60.0  # the API server sends a bookmark about once a minute
MAX_ANSWER = 4 << 20  # bytes; a ConfigMap has at most 1 MiB, and JSON in JSON grows

_JSON, _MERGE = "application/json", "application/merge-patch+json"
Json = dict[str, Any]


class Cluster:
    """One pool's registry and Lease at the API server."""

    def __init__(self, credentials: Credentials, namespace: str, pool: str) -> None:
        self._credentials = credentials
        self._identity = Identity(credentials)
        self.namespace = namespace
        self.pool = pool
        self.registry_name = names.registry_name(pool)
        self.lease_name = names.weights_lease_name(pool)
        self.slots_name = names.slots_name(pool)
        self._server = HttpClient(
            credentials.server,
            tls=self._identity.trust,
            headers={"User-Agent": "sglang-operator-client", "Accept": "application/json"},
            limit=8,
            tls_name=credentials.tls_server_name,
            proxy=credentials.proxy,
        )

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._server.closed

    async def close(self) -> None:
        await self._server.close()

    async def registry(self) -> Registry:
        """The registry now.  Raises NotReady if there is none, ClusterError."""
        try:
            return parse(await self._request("GET", self._registry_path))
        except ClusterError as error:
            raise self._missing(error, texts.NO_REGISTRY, self.registry_name) from error

    async def watch(self, since: int) -> AsyncIterator[Registry]:
        """The registry whenever it changes after ``since``.

        Ends when the API server ends it.  Raises ClusterError when it breaks, or ``since`` is too
        old.
        """
        async for event in self._events(self._registries, self.registry_name, since):
            if event["type"] in ("ADDED", "MODIFIED"):
                yield parse(event["object"])
            elif event["type"] == "DELETED":  # with the pool
                yield dataclasses.replace(parse(event["object"]), epoch="", engines=())

    async def watch_lease(self, since: int, begins: Callable[[], None]) -> AsyncIterator[Json]:
        """The Lease whenever it changes after ``since``; ``begins`` is called once it will be told.

        Ends and raises as ``watch``.
        """
        async for event in self._events(self._leases, self.lease_name, since, begins):
            if event["type"] in ("ADDED", "MODIFIED"):
                yield event["object"]

    async def _events(
        self, path: str, name: str, since: int, begins: Callable[[], None] | None = None
    ) -> AsyncIterator[Json]:
        params = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": str(since),
            "timeoutSeconds": str(WATCH_SECONDS),
            "allowWatchBookmarks": "true",
        }
        target = f"{path}?{urlencode(params)}"
        try:
            async with self._identity.stream(self._server, target, {}, idle=IDLE_SECONDS * 2) as (
                status,
                answered,
                chunks,
            ):
                if status >= 300:
                    body = b"".join([chunk async for chunk in chunks])
                    raise self._error("watch", Response(status, answered, body), path)
                if begins is not None:
                    begins()
                async for line in lines(chunks, MAX_ANSWER):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        told = event["object"]
                        answer = Response(told.get("code", 0), {}, json.dumps(told).encode())
                        raise self._error("watch", answer, path)
                    yield event
        except (TimeoutError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    async def lease(self) -> Json:
        """The Lease.  Raises NotReady if there is none, ClusterError."""
        try:
            return await self._request("GET", self._lease_path)
        except ClusterError as error:
            raise self._missing(error, texts.NO_LEASE, self.lease_name) from error

    async def put_lease(self, lease: Mapping[str, Any]) -> Json:
        """Replace the Lease, if it is still the version that was read (else 409).

        Raises NotReady if there is none any more, ClusterError.
        """
        try:
            return await self._request("PUT", self._lease_path, lease)
        except ClusterError as error:
            raise self._missing(error, texts.NO_LEASE, self.lease_name) from error

    async def patch_slots(self, slot: Slot) -> None:
        """Say which GPUs the trainer has at one node rank, and nothing of the others.

        Raises NotReady while the pool has no ConfigMap for that, ClusterError.
        """
        path = f"{self._registries}/{self.slots_name}"
        data = {names.slot_key(slot.node_rank): slots.written(slot)}
        try:
            await self._request("PATCH", path, {"data": data}, _MERGE)
        except ClusterError as error:
            raise self._missing(error, texts.NO_SLOTS, self.slots_name) from error

    # --- the requests themselves

    @property
    def _registries(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    @property
    def _registry_path(self) -> str:
        return f"{self._registries}/{self.registry_name}"

    @property
    def _leases(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

    @property
    def _lease_path(self) -> str:
        return f"{self._leases}/{self.lease_name}"

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = _JSON
    ) -> Json:
        content = None if body is None else json.dumps(body).encode()
        own = {} if content is None else {"Content-Type": kind}

        async def send(proof: Headers) -> Response:
            headers = {**own, **proof}
            return await self._server.request(
                method, path, headers, content, REQUEST_SECONDS, MAX_ANSWER
            )

        try:
            response = await self._identity.request(send)
            if response.status >= 300:
                raise self._error(method, response, path)
            answer: Json = json.loads(response.body)
            return answer
        except (TimeoutError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    def _error(self, verb: str, response: Response, path: str) -> ClusterError:
        status = response.status
        words = {401: texts.UNAUTHORIZED, 403: texts.FORBIDDEN}.get(status, texts.REFUSED)
        return ClusterError(
            words.format(verb=verb, what=path, status=status, message=_message(response)), status
        )

    def _unreachable(self, error: BaseException) -> ClusterError:
        if isinstance(error, CredentialsError):
            return ClusterError(str(error))
        detail = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        server = self._credentials.server
        return ClusterError(
            texts.UNREACHABLE.format(server=server, detail=detail or type(error).__name__)
        )

    def _missing(self, error: ClusterError, text: str, name: str) -> ClusterError | NotReady:
        if error.status != 404:
            return error
        return NotReady(text.format(namespace=self.namespace, name=name, pool=self.pool))


def _message(response: Response) -> str:
    """What the answer says went wrong; of a redirect, which is never followed, where it leads."""
    if 300 <= response.status < 400:
        return texts.REDIRECT.format(location=response.headers.get("Location", "nowhere"))
    text = response.body.decode(errors="replace")
    try:
        return str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        return text[:500]
