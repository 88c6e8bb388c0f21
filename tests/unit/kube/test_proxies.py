"""Whoever asks the API server goes by the kubeconfig's proxy: the operator, and trainers."""

import asyncio
import base64
import ssl
import traceback
from collections.abc import Awaitable, Callable

import pytest

from sglang_operator.client.cluster import Cluster
from sglang_operator.controller import briefing
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.identity import Identity

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"metadata": {"a": 1}}'
LOGIN = base64.b64encode(b"me:c4n4ry/").decode()


async def operator(credentials: Credentials) -> None:
    async with ApiClient(credentials, user_agent="t") as client:
        await client.request("GET", "/readyz")


async def trainer(credentials: Credentials) -> None:
    cluster = Cluster(credentials, "rl", "p")
    try:
        await cluster.lease()
    finally:
        await cluster.close()


async def kopf(credentials: Credentials) -> None:
    proof = await Identity(credentials).proof()
    async with (
        briefing.session(credentials, proof) as session,
        session.get(f"{credentials.server}/api") as response,
    ):
        assert response.status == 200, "kopf has errors of its own for answers"


@pytest.mark.parametrize(
    ("ask", "target"),
    [
        (operator, "/readyz"),
        (trainer, "/apis/coordination.k8s.io/v1/namespaces/rl/leases/p-weights"),
    ],
)
def test_the_api_server_is_asked_by_the_proxy(
    ask: Callable[[Credentials], Awaitable[None]], target: str
):
    heads = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def main() -> None:
        listening = await asyncio.start_server(proxy, "127.0.0.1", 0)
        async with listening:
            found = Credentials(
                server="http://api.invalid:8080",  # which nobody else finds
                namespace="rl",
                tls=None,
                authorization=lambda: "Bearer t",
                proxy=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}",
            )
            await ask(found)

    asyncio.run(main())
    assert heads[0].startswith(f"GET http://api.invalid:8080{target} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("server", ["http://api.invalid:8080", "https://api.invalid:8443"])
@pytest.mark.parametrize("ask", [operator, trainer, kopf])
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b"junk\r\n\r\n", b""]
)
def test_the_password_of_a_proxy_is_told_to_the_proxy_alone(
    ask: Callable[[Credentials], Awaitable[None]], server: str, answer: bytes
):
    """Errors of HTTP repeat the addresses that they are of, and with a traceback are logged."""
    heads = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def main() -> None:
        listening = await asyncio.start_server(proxy, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            found = Credentials(
                server=server,
                namespace="rl",
                tls=ssl.create_default_context if server.startswith("https") else None,
                authorization=lambda: None,
                proxy=f"http://me:c4n4ry%2F@127.0.0.1:{port}",
            )
            await ask(found)

    with pytest.raises(Exception) as raised:  # of whichever of the three
        asyncio.run(main())
    told = "".join(traceback.format_exception(raised.value)) + repr(raised.value)  # as kopf has it
    assert "c4n4ry" not in told
    assert LOGIN not in told
    assert f"\r\nProxy-Authorization: Basic {LOGIN}\r\n".encode() in heads[0]
