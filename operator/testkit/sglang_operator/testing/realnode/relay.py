"""Lets programs outside a plane's network reach one address in it, through a port on 127.0.0.1.

It listens where it starts, then moves into the network for good: what it accepted outside it
connects inside.  It runs isolated, with the standard library alone.  Arguments: the network's
file, the port outside, the host and the port inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys

LOOPBACK = "127.0.0.1"
CLONE_NEWNET = 0x40000000
CHUNK = 1 << 16
BACKLOG = 512


def listen(port: int) -> socket.socket:
    """The socket outside; raises OSError when somebody else has the port."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((LOOPBACK, port))
    server.listen(BACKLOG)
    return server


def enter(network: str) -> None:
    """Move this process, which has one thread, into the network."""
    descriptor = os.open(network, os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on one direction until its end, and the end too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(server: socket.socket, host: str, port: int) -> None:
    """Relay every connection, for ever."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
            opened.append(far_writer)
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        except OSError:
            pass  # nobody listens inside yet, or no more: the end of the connection says it
        finally:
            for each in opened:
                each.close()

    async with await asyncio.start_server(connected, sock=server) as running:
        await running.serve_forever()


def main() -> None:
    """Relay until killed."""
    network, outside, host, inside = sys.argv[1:]
    server = listen(int(outside))
    enter(network)
    asyncio.run(serve(server, host, int(inside)))


if __name__ == "__main__":
    main()
