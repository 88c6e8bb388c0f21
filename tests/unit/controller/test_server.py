"""The HTTP server: addresses, probes and their words."""

import asyncio
import contextlib

import aiohttp
import pytest

from sglang_operator.controller.probes import Probes
from sglang_operator.controller.server import Address, Server
from sglang_operator.testing import ports
from tests import private_network


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("0.0.0.0:8080", "0.0.0.0", 8080), (":80", "", 80), ("[::1]:8081", "::1", 8081)],
)
def test_an_address_is_host_and_port(text, host, port):
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "8080", "host:", "host:http", "host:70000"])
def test_what_is_no_address_is_told(text):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        Address.parse(text)


def test_probes_name_what_is_missing():
    unsynced, stale = ["pods"], ["services"]
    answers = asyncio.run(_ask(Probes(unsynced=lambda: unsynced, stale=lambda: stale)))
    assert answers == {
        "/readyz": (503, "not in sync yet: pods\n"),
        "/healthz": (503, "no news on: services\n"),
        "/other": (404, "404: Not Found"),
    }


def test_probes_are_well():
    answers = asyncio.run(_ask(Probes(unsynced=list, stale=list)))
    assert answers["/readyz"] == answers["/healthz"] == (200, "ok\n")


def test_readyz_names_the_namespaces_that_are_refused():
    answers = asyncio.run(_ask(Probes(unsynced=list, stale=list, refused=lambda: ["team-b"])))
    assert answers["/readyz"] == (200, "ok\nnot served, for it is refused: team-b\n")
    assert answers["/healthz"] == (200, "ok\n")


def test_one_that_waits_for_a_lease_of_others_is_not_ready_but_alive():
    answers = asyncio.run(_ask(Probes(unsynced=list, stale=list, apart=lambda: "waiting for")))
    assert answers["/readyz"] == (503, "waiting for\n")
    assert answers["/healthz"] == (200, "ok\n")


BOTH = """
import asyncio, urllib.request
from sglang_operator.controller.probes import Probes
from sglang_operator.controller.server import Server

async def main():
    server = Server(":8080", Probes(unsynced=list, stale=list).routes)
    await server.start()
    for host in ("127.0.0.1", "[::1]"):
        opened = await asyncio.to_thread(urllib.request.urlopen, f"http://{host}:8080/healthz")
        print(host, opened.status)
    await server.stop()

asyncio.run(main())
"""


@pytest.mark.skipif(bool(private_network.lacking()), reason=private_network.lacking() or "-")
def test_without_a_host_both_families_are_answered():
    """In a cluster of IPv6 addresses the kubelet probes one, and the operator never was ready."""
    assert private_network.run(BOTH) == "127.0.0.1 200\n[::1] 200\n"


async def _ask(probes: Probes) -> dict[str, tuple[int, str]]:
    port = ports.free()
    server = Server(f"127.0.0.1:{port}", probes.routes)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            found = {}
            for path in ("/readyz", "/healthz", "/other"):
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    found[path] = (answer.status, await answer.text())
            return found
    finally:
        await server.stop()


def test_half_requests_are_ended_and_keep_no_probe_out(monkeypatch):
    monkeypatch.setattr("sglang_operator.controller.server.MOST_CONNECTIONS", 4, raising=False)
    monkeypatch.setattr("sglang_operator.controller.server.REQUEST_SECONDS", 1.0, raising=False)

    async def held():
        port = ports.free()
        server = Server(f"127.0.0.1:{port}", Probes(unsynced=list, stale=list).routes)
        await server.start()
        try:
            halves = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
            for _, writer in halves:
                writer.write(b"GET /healthz HTTP/1.1\r\nX-A: a")
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/healthz"
                async with session.get(url) as answer:
                    assert answer.status == 200
            async with asyncio.timeout(20):
                for reader, writer in halves:
                    with contextlib.suppress(ConnectionError):
                        await reader.read()  # to its end
                    writer.close()
                    with contextlib.suppress(ConnectionError):
                        await writer.wait_closed()
        finally:
            await server.stop()

    asyncio.run(held())
