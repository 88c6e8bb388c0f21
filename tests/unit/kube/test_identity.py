"""Tokens and certificates end, or are replaced, while the operator and trainers run on."""

import asyncio
import json
import shutil
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import ClusterError
from sglang_operator.kube import authorization, credentials, identity
from sglang_operator.kube.authorization import Authorization
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.errors import ApiError, ApiUnreachableError, FencedError
from sglang_operator.testing import credentials as kit

EVENT = {"type": "MODIFIED", "object": {"kind": "Lease", "metadata": {"name": "pool-weights"}}}


class Server:
    """An API server that carries out what ``allows``; else it answers 401."""

    def __init__(self, allows: Callable[[web.Request], bool]) -> None:
        self.allows = allows
        self.done: list[str] = []  # what it carried out
        self.refused = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not self.allows(request):
            self.refused += 1
            status = {"kind": "Status", "message": "Unauthorized", "code": 401}
            return web.json_response(status, status=401)
        self.done.append(request.method)
        watched = request.query.get("watch")
        return web.Response(body=json.dumps(EVENT if watched else EVENT["object"]).encode() + b"\n")

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True).start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


# --- each kind of request, of a trainer and of the operator


@asynccontextmanager
async def trainer(found: credentials.Credentials, method: str) -> AsyncIterator[Any]:
    cluster = Cluster(found, "rl", "pool")

    async def ask() -> None:
        if method == "GET":
            await cluster.lease()
        elif method == "PUT":
            await cluster.put_lease({"kind": "Lease"})
        else:
            assert [lease async for lease in cluster.watch_lease(1, lambda: None)]

    try:
        yield ask
    finally:
        await cluster.close()


@asynccontextmanager
async def operator(found: credentials.Credentials, method: str) -> AsyncIterator[Any]:
    async with ApiClient(found, user_agent="test") as client:

        async def ask() -> None:
            if method == "WATCH":
                async with client.stream("/x", {"watch": "1"}, idle=5.0) as chunks:
                    assert [chunk async for chunk in chunks]
            else:
                await client.request(method, "/x", body=b"{}" if method == "PUT" else None)

        yield ask


of_both = pytest.mark.parametrize("who", [trainer, operator])
of_each = pytest.mark.parametrize("method", ["GET", "PUT", "WATCH"])


def kubeconfig(folder: Path, port: int, user: dict[str, Any], **cluster: Any) -> Path:
    path = folder / "config"
    where = {"server": f"http{'s' if cluster else ''}://127.0.0.1:{port}", **cluster}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": where}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(config))
    return path


def is_token(number: int) -> Callable[[web.Request], bool]:
    return lambda request: request.headers.get("Authorization") == f"Bearer {number}"


@of_both
@of_each
def test_a_token_that_is_refused_is_asked_for_anew(tmp_path, who, method):
    """A plugin that names no end: its token is good until then."""
    count = 'echo x >>runs; n=$(wc -l <runs); echo {\\"status\\":{\\"token\\":\\"$((n))\\"}}'
    user = {"exec": {"command": "sh", "args": ["-c", f"cd {tmp_path}; {count}"]}}
    server = Server(is_token(1))

    async def story() -> None:
        async with server.serving() as port:
            found = credentials.load(kubeconfig(tmp_path, port, user))
            async with who(found, method) as ask:
                await ask()
                assert (len(server.done), server.refused) == (1, 0)
                server.allows = is_token(2)
                await ask()

    asyncio.run(story())
    assert (len(server.done), server.refused) == (2, 1)


@of_both
@of_each
def test_a_tokens_file_is_read_anew_once_it_is_refused(tmp_path, who, method):
    token = tmp_path / "token"
    token.write_text("1")
    server = Server(is_token(1))

    async def story() -> None:
        async with server.serving() as port:
            found = credentials.load(kubeconfig(tmp_path, port, {"tokenFile": "token"}))
            async with who(found, method) as ask:
                await ask()
                token.write_text("2")
                server.allows = is_token(2)
                await ask()

    asyncio.run(story())
    assert (len(server.done), server.refused) == (2, 1)


@of_both
def test_requests_that_are_refused_together_ask_once_for_a_token(who):
    asked: list[int] = []
    server = Server(is_token(1))

    def header() -> str:
        asked.append(1)
        time.sleep(0.1)
        return f"Bearer {len(asked)}"

    async def story() -> None:
        async with server.serving() as port:
            url = f"http://127.0.0.1:{port}"
            found = credentials.Credentials(
                server=url, namespace="rl", tls=None, authorization=header
            )
            async with who(found, "GET") as ask:
                await ask()
                server.allows = is_token(2)
                await asyncio.gather(*(ask() for _ in range(6)))

    asyncio.run(story())
    assert len(asked) == 2
    assert len(server.done) == 7


@of_both
def test_who_is_refused_for_good_is_told_so_and_asks_no_plugin_each_time(who):
    asked: list[int] = []
    server = Server(lambda request: False)

    def header() -> str:
        asked.append(1)
        return "Bearer x"

    async def story() -> None:
        async with server.serving() as port:
            url = f"http://127.0.0.1:{port}"
            found = credentials.Credentials(
                server=url, namespace="rl", tls=None, authorization=header
            )
            async with who(found, "PUT") as ask:
                for _ in range(5):
                    with pytest.raises((ApiError, ClusterError), match="Unauthorized") as told:
                        await ask()
                    assert who is operator or "renew the token" in str(told.value)

    asyncio.run(story())
    assert len(asked) == 2
    assert server.refused == 5  # with the same token nothing is tried again


def test_a_write_is_not_sent_again_once_another_operator_leads():
    asked: list[int] = []
    leads = [True]
    server = Server(is_token(1))

    def header() -> str:
        asked.append(1)
        leads[0] = len(asked) < 2
        return f"Bearer {len(asked)}"

    async def story() -> None:
        async with server.serving() as port:
            url = f"http://127.0.0.1:{port}"
            found = credentials.Credentials(
                server=url, namespace="rl", tls=None, authorization=header
            )
            async with ApiClient(found, user_agent="test") as client:
                client.fence = lambda: leads[0]
                await client.request("PUT", "/x", body=b"{}")
                server.allows = is_token(2)
                with pytest.raises(FencedError):
                    await client.request("PUT", "/x", body=b"{}")

    asyncio.run(story())
    assert server.done == ["PUT"]


# --- a token that is old


def test_who_asks_seldom_waits_for_the_next_token(monkeypatch):
    monkeypatch.setattr(authorization, "FRESH_SECONDS", 0.0)
    asked: list[int] = []

    def ask() -> str:
        time.sleep(0.05)
        asked.append(1)
        return f"Bearer {len(asked)}"

    async def story() -> None:
        found = Authorization(ask)
        assert await found.header() == "Bearer 1"
        assert await found.header() == "Bearer 1"  # it is young
        monkeypatch.setattr(authorization, "OLD_SECONDS", 0.0)
        assert await found.header() == "Bearer 2"
        assert await found.header() == "Bearer 3"

    asyncio.run(story())


def test_for_a_plugin_that_hangs_nobody_waits_twice(monkeypatch):
    monkeypatch.setattr(authorization, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(authorization, "OLD_SECONDS", 0.0)
    monkeypatch.setattr(authorization, "WAIT_SECONDS", 0.3)
    release, asked = threading.Event(), []

    def plugin() -> str:
        asked.append(1)
        if len(asked) > 1:
            release.wait(20)
        return f"Bearer {len(asked)}"

    async def story() -> None:
        found = Authorization(plugin)
        assert await found.header() == "Bearer 1"
        begun = time.monotonic()
        for _ in range(50):
            assert await found.header() == "Bearer 1"
            assert not await found.anew("Bearer 1")
        assert 0.3 <= time.monotonic() - begun < 5  # once, instead of a hundred times
        assert len(asked) == 2

    try:
        asyncio.run(story())
    finally:
        release.set()


# --- certificates


def server_side(made: kit.Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.server_cert, made.server_key)
    return context


@of_both
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_authority_that_was_replaced_fails_no_request(tmp_path, who, method):
    old, new = (kit.create(tmp_path / name) for name in ("old", "new"))
    trusted = tmp_path / "ca.crt"
    shutil.copy(old.ca, trusted)
    server = Server(lambda request: True)

    async def story() -> None:
        async with server.serving(server_side(old)) as port:
            path = kubeconfig(tmp_path, port, {"token": "t"}, **{"certificate-authority": "ca.crt"})
            context = who(credentials.load(path), method)
            ask = await context.__aenter__()
            await ask()
        shutil.copy(new.ca, trusted)
        async with server.serving(server_side(new), port):
            try:
                await ask()
            finally:
                await context.__aexit__(None, None, None)

    asyncio.run(story())
    assert server.done == [method] * 2


@of_both
def test_an_authority_that_cannot_be_read_for_a_moment_is_the_last_one(tmp_path, who, monkeypatch):
    monkeypatch.setattr(identity, "TRUST_SECONDS", 0.0)
    made, other = (kit.create(tmp_path / name) for name in ("made", "other"))
    trusted = tmp_path / "ca.crt"
    shutil.copy(other.ca, trusted)
    server = Server(lambda request: True)

    async def story() -> None:
        async with server.serving(server_side(made)) as port:
            path = kubeconfig(tmp_path, port, {"token": "t"}, **{"certificate-authority": "ca.crt"})
            async with who(credentials.load(path), "GET") as ask:
                for spoil in (lambda: None, trusted.unlink):
                    spoil()
                    with pytest.raises(
                        (ApiUnreachableError, ClusterError), match="CERTIFICATE_VERIFY_FAILED"
                    ):
                        await ask()
                shutil.copy(made.ca, trusted)
                await ask()

    asyncio.run(story())


@of_both
@of_each
@pytest.mark.parametrize("by_tls", [False, True])
def test_a_client_certificate_that_was_replaced_is_read_anew(
    tmp_path, who, method, by_tls, monkeypatch
):
    """The API server answers 401 to one that is over; a proxy before it ends the connection."""
    monkeypatch.setattr(identity, "TRUST_SECONDS", 0.0)
    made = kit.create(tmp_path / "made")
    refused = kit.create(tmp_path / "refused") if by_tls else made

    def put(by: kit.Credentials, name: str) -> None:
        for file, content in zip(
            ("client.crt", "client.key"), kit.client_certificate(by, name), strict=True
        ):
            (tmp_path / file).write_bytes(content)

    def subject(request: web.Request) -> str:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert")
        return str(certificate["subject"])

    tls = server_side(made)
    tls.load_verify_locations(made.ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    server = Server(lambda request: "of-today" in subject(request))
    put(refused, "of-yesterday")
    user = {"client-certificate": "client.crt", "client-key": "client.key"}

    async def until_it_is_told(ask: Callable[[], Awaitable[None]]) -> None:
        # A write, or a watch, that TLS ended may have arrived: whoever sent it tries it again.
        if by_tls and method != "GET":
            with pytest.raises((ClusterError, ApiUnreachableError)):
                await ask()
        await ask()

    async def story() -> None:
        async with server.serving(tls) as port:
            authority = {"certificate-authority": str(made.ca)}
            found = credentials.load(kubeconfig(tmp_path, port, user, **authority))
            async with who(found, method) as ask:
                with pytest.raises((ApiError, ApiUnreachableError, ClusterError)):
                    await ask()
                put(made, "of-today")
                await until_it_is_told(ask)

    asyncio.run(story())
    assert len(server.done) == 1
