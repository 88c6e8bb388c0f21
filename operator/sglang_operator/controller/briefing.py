"""kopf's way to the API server: of pools it is told who changed, and nothing else.

kopf builds every object as Python values, twenty times as large as it is written, and reads a list
in one piece.  It only tells that there is news of a pool, for which name and version are enough:
so it asks for pages of metadata, and of what comes names and versions are handed on.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from sglang_operator.api import names
from sglang_operator.kube import informer
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.decoding import Decoder, Page, Record, UnreadError, WatchEvent, is_named
from sglang_operator.kube.identity import Proof
from sglang_operator.kube.transport import lines, proxy_of
from sglang_operator.observed import wire

# Metadata of a pool is a MiB at most.
PAGE = 16
_AS = "application/json;as={};g=meta.k8s.io;v=v1,application/json"
_ACCEPT = {
    False: _AS.format("PartialObjectMetadataList"),
    True: _AS.format("PartialObjectMetadata"),
}


class _Named(msgspec.Struct, frozen=True):
    metadata: wire.Meta


def session(credentials: Credentials, proof: Proof) -> aiohttp.ClientSession:
    """A session for kopf.  Called in kopf's loop."""
    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(_ask_for_metadata)
    tls, headers = proof.context or True, proof.headers
    proxy = proxy_of(credentials.proxy)
    # A session's own headers go to its proxy too, and this one as what the proxy asks for.
    mine = [_sends(credentials.server, headers)] if credentials.proxy else []
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls),
        headers={} if credentials.proxy else headers,
        response_class=BriefResponse,
        trace_configs=[tracing],
        middlewares=[*mine, *_names(credentials.tls_server_name), *proxy.logins],
        proxy=proxy.address,
    )


def _names(name: str | None) -> Sequence[aiohttp.ClientMiddlewareType]:
    """The name that the server's certificate is of, if it is not that of its address."""

    async def named(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.server_hostname = name
        return await send(request)

    return (named,) if name else ()


def _sends(server: str, headers: Mapping[str, str]) -> aiohttp.ClientMiddlewareType:
    """These headers, to this server alone."""
    origin = URL(server).origin()

    async def sent(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.url.origin() == origin:
            request.headers.update(headers)
        return await send(request)

    return sent


class BriefResponse(aiohttp.ClientResponse):
    """An answer; where it is about pools, it is cut down before kopf builds it."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """As its base class does; a watch's lines come from elsewhere then."""
        await super().start(connection)
        if _is_of_pools(self.url) and _watches(self.url):
            self.content = _Lines(self.content)  # type: ignore[assignment]
        return self

    async def json(self, **options: Any) -> Any:
        """A list of pools' names; anything else as it is, an error too: kopf logs in anew by it."""
        if not _is_of_pools(self.url) or self.status >= 400:
            return await super().json(**options)
        return _listed(await self.read())


class _Lines:
    """The stream of a watch, line by line: whole lines go on, cut down."""

    def __init__(self, stream: aiohttp.StreamReader) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """What kopf asks a stream for."""
        async for line in lines(self._stream.iter_chunked(size), informer.MAX_LINE):
            if told := _told(line):
                yield told + b"\n"


_decoder = Decoder(_Named)


def _listed(body: bytes) -> dict[str, Any]:
    try:
        page: Page[_Named] = _decoder.page(body)
    except Exception:  # whatever one of them is
        page = _decoder.page_in_pieces(body)
    there: list[Record] = [*page.records, *page.unread]
    return {
        "apiVersion": names.API_VERSION,
        "kind": f"{names.KIND}List",
        "metadata": {"resourceVersion": page.version, "continue": page.more},
        "items": [_body(found.metadata) for found in there if is_named(found.metadata)],
    }


def _told(line: bytes) -> bytes:
    """An event as kopf is told it; nothing where nobody can say of whom it is."""
    try:
        kind, meta = _event(line)
    except ValueError:
        return b""
    if kind == "ERROR":
        return line  # of the API server itself
    return json.dumps({"type": kind, "object": _body(meta)}).encode()


def _event(line: bytes) -> tuple[str, wire.Meta]:
    try:
        event: WatchEvent[_Named] = _decoder.event(line)
    except Exception:  # whatever it is about
        try:
            event = _decoder.event_in_pieces(line)
        except UnreadError as error:
            return "MODIFIED", error.unread.metadata
    return event.type, event.object.metadata


def _body(meta: wire.Meta) -> dict[str, Any]:
    told = {
        "name": meta.name,
        "namespace": meta.namespace,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
    }
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": told}


async def _ask_for_metadata(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    request: aiohttp.TraceRequestStartParams,
) -> None:
    if _is_of_pools(request.url):
        request.headers["Accept"] = _ACCEPT[_watches(request.url)]


def _is_of_pools(url: Any) -> bool:
    return bool(url.path.endswith(f"/{names.PLURAL}"))


def _watches(url: Any) -> bool:
    return "watch" in url.query
