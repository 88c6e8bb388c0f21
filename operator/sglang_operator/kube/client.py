"""Requests to the API server: bytes in, bytes out, errors by class.

Bodies are JSON text that the caller makes and decodes, so that the hot path pays for nothing it
does not need (a create through the official client's models costs seven times as much CPU,
explanation/kubernetes.md).
"""

import errno
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from urllib.parse import urlencode

import msgspec

from sglang_operator.kube import paths
from sglang_operator.kube.authorization import CredentialsError
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.errors import (
    ApiError,
    ApiTooLargeError,
    ApiUnreachableError,
    FencedError,
)
from sglang_operator.kube.identity import Headers, Identity
from sglang_operator.kube.transport import MOST_BYTES, HttpClient, Response, TooLargeError

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
# An answer without spec and status: what was asked for is known.  Errors come as ever.
METADATA_ONLY = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{JSON}"

REQUEST_TIMEOUT = 30.0
# What this process has run out of, whatever the API server is like.
_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})


class Lane(Enum):
    """Requests that do not wait for each other's connections; and how many each may have.

    The windows of the executor are what keeps the server from being overloaded; these bound what
    requests that hang may pile up to.
    """

    WORK = 512
    GATES = 256  # by which requests are kept from engines: a trainer waits for them
    LEADER = 4  # its Lease, on which it rests who writes; the weights' Lease goes with the gates


class _Details(msgspec.Struct):
    """What a Status is about."""

    kind: str = ""  # the plural: the resource
    name: str = ""


class _Status(msgspec.Struct):
    """The part of ``meta/v1.Status`` that tells what went wrong."""

    reason: str = ""
    message: str = ""
    details: _Details | None = None


class ApiClient:
    """One identity's requests.  Counts them by method and status in ``requests``.

    ``fence`` is asked before every write, in this one place; those of the leader's Lease itself
    pass.
    """

    def __init__(self, credentials: Credentials, *, user_agent: str) -> None:
        self.fence: Callable[[], bool] = lambda: True
        self._credentials = credentials
        self._user_agent = user_agent
        self._identity = Identity(credentials)
        self._lanes: dict[Lane, HttpClient] = {}
        self._watches: HttpClient | None = None
        self.requests: Counter[tuple[str, int]] = Counter()

    @property
    def server(self) -> str:
        """The API server's address."""
        return self._credentials.server

    async def __aenter__(self) -> "ApiClient":
        # Watches have connections of their own: they must not take those of the writes.
        self._lanes = {lane: self._server(lane.value) for lane in Lane}
        self._watches = self._server(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in (*self._lanes.values(), self._watches):
            if server is not None:
                await server.close()

    def _server(self, limit: int) -> HttpClient:
        return HttpClient(
            self._credentials.server,
            tls=self._identity.trust,
            headers={"User-Agent": self._user_agent},
            limit=limit,
            tls_name=self._credentials.tls_server_name,
            proxy=self._credentials.proxy,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        params: Mapping[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT,
        fenced: bool = True,
        lane: Lane = Lane.WORK,
        most: int = MOST_BYTES,
    ) -> bytes:
        """The body of a successful answer.

        Raises :class:`ApiError` for an error status, :class:`ApiUnreachableError` for none,
        :class:`FencedError` for a write that was not sent.
        """
        assert self._lanes, "use the client as a context manager"
        target, own = _target(path, params), {"Accept": accept}
        if body is not None:
            own["Content-Type"] = content_type

        async def send(proof: Headers) -> Response:
            if fenced and method != "GET" and not self.fence():
                raise FencedError(f"{method} {path}: another operator holds the Lease")
            response = await self._lanes[lane].request(
                method, target, {**own, **proof}, body, timeout, most
            )
            self.requests[method, response.status] += 1
            return response

        try:
            response = await self._identity.request(send)
        except TooLargeError as error:
            self.requests[method, 0] += 1
            raise ApiTooLargeError(f"{method} {path}: {error}") from error
        except (TimeoutError, OSError) as error:
            self.requests[method, 0] += 1
            raise self._unreachable(f"{method} {path}", error) from error
        if response.status >= 300:
            raise _error(response, path)
        return response.body

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, idle: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A watch: chunks of the answer as they come.  ``idle``: seconds without any = broken."""
        assert self._watches is not None, "use the client as a context manager"
        try:
            async with self._identity.stream(
                self._watches, _target(path, params), {"Accept": JSON}, idle=idle
            ) as (status, answered, chunks):
                self.requests["WATCH", status] += 1
                if status >= 300:
                    body = b"".join([chunk async for chunk in chunks])
                    raise _error(Response(status, answered, body), path)
                yield chunks
        except (TimeoutError, OSError) as error:
            raise self._unreachable(f"watch {path}", error) from error

    def _unreachable(self, what: str, error: OSError) -> ApiUnreachableError:
        """The same for whoever asked."""
        own = isinstance(error, CredentialsError) or error.errno in _OWN
        return ApiUnreachableError(f"{what}: {_words(error)}", own=own)


def _target(path: str, params: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(params)}" if params else path


def _error(response: Response, path: str) -> ApiError:
    if response.status < 400:
        place = response.headers.get("location", "elsewhere")[:500]
        message = f"the API server refers to {place}: no redirect is followed, correct its address"
        return ApiError(response.status, "Redirect", message, None)
    try:
        status = msgspec.json.decode(response.body, type=_Status)
    except (msgspec.DecodeError, msgspec.ValidationError):
        status = _Status(message=response.body[:500].decode(errors="replace"))
    error = ApiError(
        response.status,
        status.reason,
        status.message,
        _retry_after(response.headers.get("retry-after")),
    )
    # A webhook may answer with a Status of its own.
    error.missing = _is_missing(response.status, status, path) and not error.of_admission
    return error


def _is_missing(code: int, status: _Status, path: str) -> bool:
    about = status.details
    if code != 404 or status.reason != "NotFound" or about is None:
        return False
    return (about.kind, about.name) == paths.object_of(path)


def _retry_after(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:
        return None


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
