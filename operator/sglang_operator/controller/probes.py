"""The operator's own probes, answered from the loop's state."""

from collections.abc import Callable

from aiohttp import web

from sglang_operator.controller.server import Handler


class Probes:
    """``/healthz``: no stream is dead.  ``/readyz``: every store has been filled.

    What only others can put right (an API server that is away, rights that are not there) is no
    reason to be begun again: kubelet would let it wait for minutes when that is done.

    ``refused``: the namespaces that may not be read, though the operator has been ready.
    ``apart``: why it waits for a Lease that is another's than its replicas'.
    """

    def __init__(
        self,
        *,
        unsynced: Callable[[], list[str]],
        stale: Callable[[], list[str]],
        refused: Callable[[], list[str]] = list,
        apart: Callable[[], str] = str,
    ) -> None:
        self._unsynced = unsynced
        self._stale = stale
        self._refused = refused
        self._apart = apart

    @property
    def routes(self) -> dict[str, Handler]:
        return {"/healthz": self._healthz, "/readyz": self._readyz}

    async def _healthz(self, _: web.Request) -> web.Response:
        stale = self._stale()
        if stale:
            return web.Response(status=503, text="no news on: " + ", ".join(stale) + "\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = self._unsynced()
        if missing:
            return web.Response(status=503, text="not in sync yet: " + ", ".join(missing) + "\n")
        if apart := self._apart():
            return web.Response(status=503, text=apart + "\n")
        refused = self._refused()
        left_out = "not served, for it is refused: " + ", ".join(refused) + "\n" if refused else ""
        return web.Response(text="ok\n" + left_out)
