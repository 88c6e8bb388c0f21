"""The HTTP server of the process: probes for kubelet, metrics for Prometheus.

It is run by the loop itself, not by kopf: it must go on answering while kopf is started again.
"""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

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


class Server:
    """One listening address and what is answered there."""

    def __init__(self, address: str, routes: Mapping[str, Handler]) -> None:
        self._address = Address.parse(address)
        self._routes = dict(routes)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.  Raises :class:`OSError` if the address cannot be had."""
        app = web.Application()
        for path, handler in self._routes.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, self._address.bound()).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
