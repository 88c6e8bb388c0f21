"""The process: the loop, kopf beside it, the probes, and an orderly end."""

import asyncio
import gc
import logging
import signal

from sglang_operator import supervision
from sglang_operator.controller.exposition import Metrics
from sglang_operator.controller.loop import ControlLoop, LeadershipLostError
from sglang_operator.controller.probes import Probes
from sglang_operator.controller.server import Handler, Server
from sglang_operator.controller.settings import Settings
from sglang_operator.controller.shell import SupervisedKopf
from sglang_operator.kube import credentials

# Allocations between two searches for garbage; Python's 700 have a burst of pods search, again
# and again, through what lives as long as the process.
GARBAGE_THRESHOLDS = (20_000, 20, 20)

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> int:
    """Run the operator until SIGTERM or SIGINT; the exit code."""
    try:
        identity = credentials.load(settings.kubeconfig, settings.context)
    except credentials.NoClusterError as error:
        log.error("%s; name a kubeconfig with --kubeconfig", error)
        return 2
    control_loop = ControlLoop(identity, settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, control_loop.stop)

    def heard(namespace: str, version: int) -> None:
        loop.call_soon_threadsafe(control_loop.witness.heard, namespace, version)

    loop.set_exception_handler(supervision.unhandled)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    shell = SupervisedKopf(identity, settings.namespaces, heard, control_loop.coverage.reads)
    servers = _servers(settings, control_loop, shell)
    for server in servers:
        await server.start()

    async def ready() -> None:
        shell.start()
        gc.collect()
        gc.freeze()  # the code, and the world as it was listed

    running = asyncio.create_task(control_loop.run(ready))
    stopping = asyncio.create_task(control_loop.stopped())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            # Before the stores are filled there is nothing under way that could finish.
            await asyncio.wait(
                {running}, timeout=settings.drain_seconds if control_loop.synced() else 0
            )
            running.cancel()
        await asyncio.gather(running, return_exceptions=stopping.done())
    except LeadershipLostError as error:
        log.error("%s", error)
        return 1
    finally:
        stopping.cancel()
        log.info("ending")
        await asyncio.to_thread(shell.stop, 5.0)
        for server in servers:
            await server.stop()
    return 0


def _servers(settings: Settings, control_loop: ControlLoop, shell: SupervisedKopf) -> list[Server]:
    """A server for each address that is asked for: probes and metrics may share one."""
    routes: dict[str, dict[str, Handler]] = {}
    if settings.health_address:
        probes = Probes(
            unsynced=control_loop.unready,
            stale=control_loop.stale,
            refused=control_loop.coverage.told,
            apart=control_loop.apart,
        )
        routes.setdefault(settings.health_address, {}).update(probes.routes)
    if settings.metrics_address:
        metrics = Metrics(control_loop, lambda: shell.starts)
        routes.setdefault(settings.metrics_address, {}).update(metrics.routes)
    return [Server(address, handlers) for address, handlers in routes.items()]
