"""Requests to the API server: one ConfigMap and one Lease, as the trainer's Role allows."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from sglang_operator.api import names
from sglang_operator.client import texts
from sglang_operator.client.credentials import Credentials
from sglang_operator.client.errors import ClusterError, NotReady
from sglang_operator.client.registry import Registry, parse
from sglang_operator.cluster.authorization import Authorization

REQUEST_SECONDS = 10.0
WATCH_SECONDS = 300
IDLE_SECONDS = 60.0  # the API server sends a bookmark about once a minute
MAX_EVENT = 4 << 20  # bytes; a ConfigMap has at most 1 MiB, and JSON in JSON grows

Json = dict[str, Any]


class Cluster:
    """One pool's registry and Lease at the API server."""

    def __init__(self, credentials: Credentials, namespace: str, pool: str) -> None:
        self._credentials = credentials
        self._authorization = Authorization(credentials.authorization)
        self.namespace = namespace
        self.pool = pool
        self.registry_name = names.registry_name(pool)
        self.lease_name = names.weights_lease_name(pool)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=credentials.tls() if credentials.tls else True, limit=8
            ),
            headers={"User-Agent": "sglang-operator-client", "Accept": "application/json"},
            trust_env=False,
            read_bufsize=MAX_EVENT,
        )

    async def close(self) -> None:
        await self._session.close()

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
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=IDLE_SECONDS * 2)
        url = self._credentials.server + path
        try:
            async with self._session.get(
                url,
                params=params,
                headers=await self._headers(),
                timeout=timeout,
                allow_redirects=False,
                server_hostname=self._credentials.tls_server_name,
            ) as response:
                if response.status >= 300:
                    raise self._error("watch", response.status, await _said(response), path)
                if begins is not None:
                    begins()
                connection = response.connection
                try:
                    async for line in response.content:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            status = event["object"]
                            said = json.dumps(status)
                            raise self._error("watch", status.get("code", 0), said, path)
                        yield event
                finally:
                    # Left amid the stream, TLS would wait for the server's farewell.
                    if connection is not None and connection.transport is not None:
                        connection.transport.abort()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
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

    async def _headers(self) -> dict[str, str]:
        try:
            authorization = await self._authorization.header()
        except OSError as error:
            raise ClusterError(str(error)) from error
        return {"Authorization": authorization} if authorization else {}

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        try:
            async with self._session.request(
                method,
                self._credentials.server + path,
                json=body,
                headers=await self._headers(),
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=5),
                allow_redirects=False,
                server_hostname=self._credentials.tls_server_name,
            ) as response:
                text = await _said(response)
                if response.status >= 300:
                    raise self._error(method, response.status, text, path)
                answer: Json = json.loads(text)
                return answer
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    def _error(self, verb: str, status: int, text: str, path: str = "") -> ClusterError:
        try:
            message = json.loads(text).get("message", text)
        except (ValueError, AttributeError):
            message = text[:500]
        words = texts.FORBIDDEN if status in (401, 403) else texts.REFUSED
        what = path or self._registries
        return ClusterError(
            words.format(verb=verb, what=what, status=status, message=message), status
        )

    def _unreachable(self, error: BaseException) -> ClusterError:
        detail = "no answer in time" if isinstance(error, asyncio.TimeoutError) else str(error)
        server = self._credentials.server
        return ClusterError(
            texts.UNREACHABLE.format(server=server, detail=detail or type(error).__name__)
        )

    def _missing(self, error: ClusterError, text: str, name: str) -> ClusterError | NotReady:
        if error.status != 404:
            return error
        return NotReady(text.format(namespace=self.namespace, name=name, pool=self.pool))


async def _said(response: aiohttp.ClientResponse) -> str:
    """The answer; of a redirect, which is never followed, where it leads."""
    if 300 <= response.status < 400:
        return texts.REDIRECT.format(location=response.headers.get("Location", "nowhere"))
    return await response.text(errors="replace")
