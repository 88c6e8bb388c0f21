"""The operator's own probes, answered from the loop's state.

Not kopf's: they must go on answering while kopf is being started again.
"""

from collections.abc import Callable

from aiohttp import web


class Probes:
    """``/healthz``: no stream is dead.  ``/readyz``: every store has been filled."""

    def __init__(
        self, address: str, *, unsynced: Callable[[], list[str]], stale: Callable[[], list[str]]
    ) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._unsynced = unsynced
        self._stale = stale
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.  Raises :class:`OSError` if the address cannot be had."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host or "0.0.0.0", self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        stale = self._stale()
        if stale:
            return web.Response(status=503, text="no news on: " + ", ".join(stale) + "\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = self._unsynced()
        if missing:
            return web.Response(status=503, text="not in sync yet: " + ", ".join(missing) + "\n")
        return web.Response(text="ok\n")
