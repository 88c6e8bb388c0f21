"""The HTTP server of the process: probes for kubelet, metrics for Prometheus.

It is run by the loop itself, not by kopf: it must go on answering while kopf is started again.
"""

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
        """``HOST:PORT`` or ``:PORT``.  Raises :class:`ValueError`."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"found {text!r}, expected HOST:PORT such as 0.0.0.0:8080")
        return cls(host.strip("[]") or "0.0.0.0", int(port))


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
        await web.TCPSite(self._runner, self._address.host, self._address.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
