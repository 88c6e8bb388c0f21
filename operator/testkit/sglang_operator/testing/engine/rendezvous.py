"""Groups for weights: a stand-in for torch.distributed's rendezvous and broadcast.

``Trainer`` is rank 0 in a trainer's test, ``join`` the engine's side.  As with NCCL, nobody goes on
before all ranks are there, a broadcast waits for every rank, and one rank that is missing blocks
all others.  On the wire: one JSON object in a line; engines name their ranks, rank 0 answers
``{"ready": true}`` and then sends ``{"names": […], "stamp": "…"}`` for each bucket.
"""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

_RETRY_SECONDS = 0.2


class Group:
    """An engine's membership in a group that has come together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> dict[str, Any] | None:
        """The next bucket; None if rank 0 is gone."""
        line = await self._reader.readline()
        return json.loads(line) if line else None

    def leave(self) -> None:
        """Close the connection."""
        self._writer.close()


async def join(host: str, port: int, hello: dict[str, Any]) -> Group:
    """Join the group of a trainer; returns when all ranks are there, which may be never.

    ``hello`` names ``group``, ``ranks`` and ``world_size``.  Nobody listening yet is no error.
    """
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        writer.write(json.dumps(hello).encode() + b"\n")
        if await reader.readline():
            return Group(reader, writer)
        writer.close()
        await asyncio.sleep(_RETRY_SECONDS)


class Trainer:
    """Rank 0: listens on ``host`` until the context ends, on a port of the system's choice.

    The calls block the calling thread, as those of torch.distributed do.
    """

    def __init__(self, world_size: int, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.world_size = world_size
        self._server = socket.create_server((host, port))
        self.host, self.port = self._server.getsockname()[:2]
        self._members: list[socket.socket] = []
        self._ranks: set[int] = set()
        self._complete = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all ranks are there; raises TimeoutError."""
        if not self._complete.wait(timeout):
            missing = sorted(set(range(1, self.world_size)) - self._ranks)
            raise TimeoutError(f"the group is not complete: ranks {missing} are missing")

    def broadcast(self, names: Iterable[str] | None, stamp: str) -> None:
        """Send one bucket: the content of these tensors, or of all; waits for the group."""
        self.wait()
        body = {"names": None if names is None else list(names), "stamp": stamp}
        for member in self._members:
            member.sendall(json.dumps(body).encode() + b"\n")

    def close(self) -> None:
        """End it as a trainer that dies: whoever waits for a broadcast then waits for nothing."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for member in self._members:
            member.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._complete.is_set():
                member, _ = self._server.accept()
                hello = json.loads(member.makefile().readline())
                self._members.append(member)
                self._ranks.update(hello["ranks"])
                if self._ranks >= set(range(1, self.world_size)):
                    for each in self._members:
                        each.sendall(b'{"ready": true}\n')
                    self._complete.set()
