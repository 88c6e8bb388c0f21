"""The HTTP server of the process: probes for kubelet, metrics for Prometheus.

It is run by the loop itself, not by kopf: it must go on answering while kopf is started again.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

# Whoever reaches the port may open connections; each holds memory of the operator.
MOST_CONNECTIONS = 128
REQUEST_SECONDS = 10.0  # from the connection to the end of its one answer

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """``HOST:PORT``, or ``:PORT`` for all addresses.  Raises :class:`ValueError`."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"found {text!r}, expected HOST:PORT, or :PORT such as :8080")
        return cls(host.strip("[]"), int(port))

    def bound(self) -> socket.socket:
        """A socket there.  Raises :class:`OSError`.

        All addresses are those of both families, where the machine has both: a pod is probed on
        whichever it has.
        """
        if self.host:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family)
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # IPv6 may be there and switched off
                return socket.create_server(
                    ("", self.port), family=socket.AF_INET6, dualstack_ipv6=True
                )
        return socket.create_server(("", self.port))


class _Bounded(asyncio.Protocol):
    """A connection that is cut when it takes too long, or when there are too many younger ones.

    The oldest goes, not the newest: a probe takes a moment, and must not be kept out.
    """

    def __init__(self, inner: asyncio.Protocol, others: dict["_Bounded", None]) -> None:
        self._inner, self._others = inner, others
        self._transport: asyncio.Transport | None = None
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._others[self] = None
        if len(self._others) > MOST_CONNECTIONS:
            next(iter(self._others)).cut()
        self._late = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.cut)
        self._inner.connection_made(transport)

    def cut(self) -> None:
        self._others.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.pop(self, None)
        if self._late is not None:
            self._late.cancel()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


async def _one_answer(_: web.Request, response: web.StreamResponse) -> None:
    response.force_close()


class Server:
    """One listening address and what is answered there."""

    def __init__(self, address: str, routes: Mapping[str, Handler]) -> None:
        self._address = Address.parse(address)
        self._routes = dict(routes)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.  Raises :class:`OSError` if the address cannot be had."""
        app = web.Application()
        app.on_response_prepare.append(_one_answer)
        for path, handler in self._routes.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        made, held = self._runner.server, dict[_Bounded, None]()
        assert made is not None
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: _Bounded(made(), held), sock=self._address.bound()
        )

    async def stop(self) -> None:
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()
