"""Engines across several nodes: rank 0 waits for the others before it loads, and dies with them.

Followers answer only their probes (srt/utils/common.py, launch_dummy_health_check_server) and wait
for rank 0.  SIGTERM ends them as any process, but from 0.5.23 on they wait for rank 0 to stop them.
"""

import argparse
import asyncio
import signal

from aiohttp import web

from sglang_operator.testing.engine import log
from sglang_operator.testing.engine.behaviour import Behaviour

_RETRY_SECONDS = 0.2


class Nodes:
    """The other processes of the engine, from rank 0's side."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._present: set[int] = set()
        self._complete = asyncio.Event()
        self._lost = asyncio.Event()

    async def meet(self) -> None:
        """Wait until all followers are connected; at once if there are none."""
        if self._args.nnodes == 1:
            return
        host, port = address(self._args.dist_init_addr)
        while True:
            try:
                await asyncio.start_server(self._follower, host, port)
                break
            except OSError:  # its own name is not known yet
                await asyncio.sleep(_RETRY_SECONDS)
        await self._complete.wait()

    async def lost(self) -> None:
        """Wait until a follower is gone."""
        await self._lost.wait()

    async def _follower(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._present.add(int(await reader.readline()))
        except ValueError:
            writer.close()
            return
        if len(self._present) == self._args.nnodes - 1:
            self._complete.set()
        await self._complete.wait()
        writer.write(b"go\n")
        await reader.read()
        self._lost.set()


async def follow(args: argparse.Namespace, acts: Behaviour, peer_seconds: float) -> str:
    """A follower's life: meet rank 0, answer probes; returns why it has to die."""
    host, port = address(args.dist_init_addr)
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"{args.node_rank}\n".encode())
            if await reader.readline():
                break
        except OSError:
            pass
        await asyncio.sleep(_RETRY_SECONDS)
    if acts.follower_waits:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _waits, args.node_rank)
    log.line("Dummy health check server started in background thread")
    await _answer_probes(args)
    await reader.read()
    await asyncio.sleep(peer_seconds)
    return "RuntimeError: [gloo] Connection closed by peer"


def _waits(node_rank: int) -> None:
    log.line(
        f"SIGTERM received on node_rank {node_rank}; waiting for the rank-0 ShutdownReq broadcast "
        "to stop the schedulers."
    )


async def _answer_probes(args: argparse.Namespace) -> None:
    async def ok(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    for path in ("/ping", "/health", "/health_generate"):
        app.router.add_get(path, ok)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, args.host, args.port).start()


def address(text: str) -> tuple[str, int]:
    """Host and port of --dist-init-addr."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
