"""Whoever asks the API server goes by the kubeconfig's proxy: the operator, and trainers."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sglang_operator.client.cluster import Cluster
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.credentials import Credentials

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"metadata": {"a": 1}}'


async def operator(credentials: Credentials) -> None:
    async with ApiClient(credentials, user_agent="t") as client:
        await client.request("GET", "/readyz")


async def trainer(credentials: Credentials) -> None:
    cluster = Cluster(credentials, "rl", "p")
    try:
        await cluster.lease()
    finally:
        await cluster.close()


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
