"""Engines across several nodes: rank 0 waits for the others before it loads, and dies with them.

Followers answer only their probes (srt/utils/common.py, launch_dummy_health_check_server) and wait
for rank 0.  SIGTERM ends them as any process, but from 0.5.23 on they wait for rank 0 to stop them.
What two of 0.5.14 did when one of them ended is in tests/data/real-engine (Two nodes).

A follower's scheduler that is killed alone was seen in two ways: with both nodes in one network
namespace rank 0 hangs, with one for each NCCL tells it at once.  Addresses say which it is here.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from aiohttp import web

from sglang_operator.testing.engine import death, log
from sglang_operator.testing.engine.behaviour import Behaviour
from sglang_operator.testing.engine.settings import Settings

_RETRY_SECONDS = 0.2
_GO, _BYE, _HANGS = b"go\n", b"bye\n", b"hangs\n"
_WITHOUT_ITS_LEADER = 3  # a follower's exit code: with 0.5.14, and with no scheduler of its own too
_FAULT = "kill-scheduler"
# As the operator told it of a rank 0 of 0.5.14 in a pod (suite.json), which is cut at this comma.
BY_NCCL = (
    "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/"
    "ProcessGroupNCCL.cpp:3780, remote process exited or there was a network error,"
)


class Nodes:
    """The other processes of the engine, from rank 0's side."""

    def __init__(self, args: argparse.Namespace, hangs: Callable[[], None]) -> None:
        """``hangs`` is called once a rank is gone, or does nothing any more."""
        self._args = args
        self._hangs = hangs
        self._present: set[int] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._complete = asyncio.Event()
        self._lost: asyncio.Queue[bool] = asyncio.Queue()  # of each that is gone: whether NCCL told

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

    async def lost(self) -> bool:
        """Wait until a follower is gone, and that is noticed: whether by NCCL, which is at once."""
        return await self._lost.get()

    async def dismiss(self) -> None:
        """Tell the followers that the engine has drained, and ends."""
        for writer in self._writers:
            writer.write(_BYE)
            await writer.drain()

    def leave(self) -> None:
        """The ranks of this node are gone, and the followers notice."""
        for writer in self._writers:
            writer.close()

    async def _follower(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._present.add(int(await reader.readline()))
        except ValueError:
            writer.close()
            return
        self._writers.append(writer)
        if len(self._present) == self._args.nnodes - 1:
            self._complete.set()
        await self._complete.wait()
        writer.write(_GO)
        said = await reader.readline()
        self._hangs()
        by_nccl = said == _HANGS
        if by_nccl and _on_one_address(writer):
            return  # nobody tells rank 0, whatever becomes of that node
        self._lost.put_nowait(by_nccl)


def _on_one_address(writer: asyncio.StreamWriter) -> bool:
    """Whether both ends of a connection have the same: pods have, who share a network namespace."""
    here, there = (writer.get_extra_info(end)[0] for end in ("sockname", "peername"))
    return bool(here == there)


async def follow(args: argparse.Namespace, acts: Behaviour, settings: Settings) -> NoReturn:
    """A follower's life: meet rank 0, load, answer probes, and end after it."""
    reader, writer = await _met(args)
    if acts.follower_waits:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _waits, args.node_rank)
    killed = asyncio.Event()
    last_word = asyncio.ensure_future(reader.readline())
    await asyncio.wait([last_word], timeout=settings.load_seconds)
    if not last_word.done():
        log.line("Dummy health check server started in background thread")
        await _listen(_probes(), args.host, args.port)
        if settings.control_port:
            await _listen(_faults(writer, settings, killed), args.host, settings.control_port)
    drained = await last_word == _BYE
    if killed.is_set():
        await asyncio.Event().wait()  # without a scheduler nothing of it learns of the leader's end
    await asyncio.sleep(settings.peer_seconds)
    trace = death.traceback("RuntimeError: [gloo] Connection closed by peer")
    death.scheduler_failed(trace, launching=False)
    if drained and not acts.follower_waits:
        os._exit(_WITHOUT_ITS_LEADER)
    death.kill_tree()


async def _met(args: argparse.Namespace) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address(args.dist_init_addr)
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"{args.node_rank}\n".encode())
            if await reader.readline():
                return reader, writer
        except OSError:
            pass
        await asyncio.sleep(_RETRY_SECONDS)


def _waits(node_rank: int) -> None:
    log.line(
        f"SIGTERM received on node_rank {node_rank}; waiting for the rank-0 ShutdownReq broadcast "
        "to stop the schedulers."
    )


def _probes() -> web.Application:
    async def ok(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    for path in ("/ping", "/health", "/health_generate"):
        app.router.add_get(path, ok)
    return app


def _faults(
    writer: asyncio.StreamWriter, settings: Settings, killed: asyncio.Event
) -> web.Application:
    """As ``control`` has them, of a follower: its scheduler is ``killed``, and nothing else."""

    async def fault(request: web.Request) -> web.Response:
        if (await request.json()).get("fault") != _FAULT:
            return web.json_response({"error": f"faults: {_FAULT}"}, status=400)
        killed.set()
        writer.write(_HANGS)
        await writer.drain()
        asyncio.get_running_loop().call_later(settings.crash_seconds, os._exit, _WITHOUT_ITS_LEADER)
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/fault", fault)
    return app


async def _listen(app: web.Application, host: str, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()


def address(text: str) -> tuple[str, int]:
    """Host and port of --dist-init-addr."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
