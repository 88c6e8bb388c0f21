"""Requests to the API server against a real socket whose answers are written byte by byte."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from sglang_operator.kube import transport
from sglang_operator.kube.identity import Trust
from sglang_operator.kube.transport import DisconnectedError, HttpClient, Response, TooLargeError
from sglang_operator.testing import credentials
from tests.unit.kube.connecting import proxied

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """What the other side of the connections saw."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client hung up
        finally:
            writer.transport.abort()


async def read(reader: asyncio.StreamReader) -> bytes:
    """One request without a body."""
    return await reader.readuntil(b"\r\n\r\n")


def always(*answers: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers or [OK] * 100:
            await read(reader)
            writer.write(answer)

    return script


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> credentials.Credentials:
    return credentials.create(tmp_path_factory.mktemp("tls") / "secrets")


def server_side(secrets: credentials.Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(secrets.server_cert, secrets.server_key)
    return context


@asynccontextmanager
async def served(
    script: Script,
    limit: int = 8,
    secrets: credentials.Credentials | None = None,
    host: str = "127.0.0.1",
    trusted: bool = True,
    tls_name: str | None = None,
    plain: bool = False,
    proxy: str | None = None,
) -> AsyncIterator[tuple[HttpClient, Peer]]:
    """A server of this script; over TLS if there are ``secrets``, trusted by the client or not.

    ``plain``: it speaks none, whatever the client does.
    """
    peer = Peer(script)
    theirs = server_side(secrets) if secrets and not plain else None
    listening = await asyncio.start_server(peer.serve, host, 0, ssl=theirs)
    port = listening.sockets[0].getsockname()[1]
    authority = secrets.ca if secrets and trusted else None
    tls = Trust(lambda: ssl.create_default_context(cafile=authority)) if secrets else None
    url = f"http{'s' if secrets else ''}://{host}:{port}"
    server = HttpClient(
        url, tls=tls, headers={"Accept": "x"}, limit=limit, tls_name=tls_name, proxy=proxy
    )
    try:
        yield server, peer
    finally:
        await server.close()
        listening.close()
        await listening.wait_closed()


async def get(server: HttpClient, timeout: float = 5.0) -> Response:
    return await server.request("GET", "/", {}, None, timeout)


def run(check: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(check())  # type: ignore[arg-type]


def test_a_connection_is_kept_for_the_next_request():
    async def check() -> None:
        async with served(always()) as (server, peer):
            for _ in range(3):
                assert (await get(server)).body == b"ok"
            assert peer.connections == 1

    run(check)


def test_what_is_sent_is_a_request_with_its_length_and_headers():
    heard = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await read(reader))
        heard.append(await reader.readexactly(3))
        writer.write(OK)

    async def check() -> None:
        async with served(script) as (server, _):
            await server.request("POST", "/a?b=c", {"Authorization": "Bearer t"}, b"{ }", 5)

    run(check)
    head, body = heard
    assert head.startswith(b"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAccept: x\r\nAuthorization: Bearer t\r\nContent-Length: 3\r\n\r\n" in head
    assert body == b"{ }"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_may_come_in_pieces_of_any_size(size):
    whole = CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await read(reader)
            for at in range(0, len(whole), size):
                writer.write(whole[at : at + size])
                await asyncio.sleep(0)

    async def check() -> None:
        async with served(script) as (server, peer):
            assert (await get(server)).body == b"hello world"
            assert (await get(server)).body == b"hello world"
            assert peer.connections == 1

    run(check)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_whole_answer_may_be_longer_than_what_a_stream_holds(chunked):
    body = b"x" * 6_000_000
    chunks = CHUNKED + b"".join(b"186a0\r\n" + b"x" * 100_000 + b"\r\n" for _ in range(60))
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 6000000\r\n\r\n" + body

    async def check() -> None:
        answer = chunks + b"0\r\n\r\n" if chunked else whole
        async with served(ending(answer)) as (server, _):
            assert (await get(server, timeout=30.0)).body == body

    run(check)


def test_an_informational_answer_is_not_the_answer():
    async def check() -> None:
        async with served(always(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as (server, _):
            answer = await get(server)
            assert (answer.status, answer.body) == (200, b"ok")
            assert answer.headers["content-length"] == "2"

    run(check)


def test_errors_come_with_their_headers():
    answer = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 1\r\n\r\nx"

    async def check() -> None:
        async with served(always(answer)) as (server, _):
            response = await get(server)
            assert (response.status, response.headers["retry-after"]) == (429, "7")

    run(check)


async def once_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One answer; the next request is read, and who knows what came of it."""
    await read(reader)
    writer.write(OK)
    await read(reader)


def test_a_read_on_a_connection_that_gave_way_is_sent_once_more():
    async def check() -> None:
        async with served(once_and_hang_up) as (server, peer):
            await get(server)
            assert (await get(server)).status == 200
            assert peer.connections == 2

    run(check)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_write_is_never_sent_twice(method):
    async def check() -> None:
        async with served(once_and_hang_up) as (server, peer):
            await get(server)
            with pytest.raises(DisconnectedError):
                await server.request(method, "/", {}, b"{}", 5)
            assert peer.connections == 1

    run(check)


def test_an_answer_that_breaks_off_is_an_error():
    async def check() -> None:
        broken = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nbut"
        async with served(always(broken)) as (server, _):
            with pytest.raises(DisconnectedError):
                await get(server)

    run(check)


def test_what_is_no_http_is_an_error():
    async def check() -> None:
        async with served(always(b"\x15\x03\x01\x00\x02")) as (server, _):
            with pytest.raises(DisconnectedError, match="not HTTP"):
                await get(server)

    run(check)


def test_an_answer_that_does_not_come_in_time_costs_its_connection():
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read(reader) and peers[0].connections > 1:
            writer.write(OK)
        await reader.read()

    peers: list[Peer] = []

    async def check() -> None:
        async with served(script) as (server, peer):
            peers.append(peer)
            with pytest.raises(TimeoutError):
                await get(server, timeout=0.05)
            assert (await get(server)).body == b"ok"

    run(check)


def test_kept_connections_to_a_server_that_vanished_cost_one_request_not_one_each():
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = peers[0].connections
        await read(reader)
        if connection <= 8:
            await all_there.wait()
        writer.write(OK)
        if connection > 8:
            await always()(reader, writer)
        await reader.read()  # no answer any more, and no sign of why

    peers: list[Peer] = []
    all_there = asyncio.Event()

    async def check() -> None:
        async with served(script) as (server, peer):
            peers.append(peer)
            first = [asyncio.create_task(get(server)) for _ in range(8)]
            while peer.connections < 8:
                await asyncio.sleep(0.01)
            all_there.set()
            await asyncio.gather(*first)
            with pytest.raises(TimeoutError):
                await get(server, timeout=0.1)
            assert (await get(server)).body == b"ok"
            assert peer.connections == 9

    run(check)


STALE = b"HTTP/1.1 500 Stale\r\nContent-Length: 5\r\n\r\nstale"


def test_an_answer_that_nobody_asked_for_is_not_the_next_ones():
    answered, said = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(OK)
        await answered.wait()
        writer.write(STALE)
        said.set()
        await always()(reader, writer)

    async def check() -> None:
        async with served(script) as (server, peer):
            assert (await get(server)).body == b"ok"
            answered.set()
            await said.wait()
            for _ in range(10):  # steps of the loop, in which what was said comes in
                await asyncio.sleep(0)
            answer = await get(server)
            assert (answer.status, answer.body, peer.connections) == (200, b"ok", 2)

    run(check)


def test_an_answer_that_comes_with_another_is_whole_and_the_last_of_its_connection():
    async def check() -> None:
        async with served(always(OK + STALE, OK)) as (server, peer):
            for connections in (1, 2):
                answer = await get(server)
                assert (answer.status, answer.body) == (200, b"ok")
                assert peer.connections == connections

    run(check)


def test_a_server_that_wants_to_close_is_left():
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

    async def check() -> None:
        async with served(always(answer, answer)) as (server, peer):
            await get(server)
            await get(server)
            assert peer.connections == 2

    run(check)


def test_no_more_requests_are_under_way_than_allowed():
    now, most = 0, 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        while True:
            await read(reader)
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1
            writer.write(OK)

    async def check() -> None:
        async with served(script, limit=3) as (server, peer):
            await asyncio.gather(*(get(server) for _ in range(12)))
            assert (most, peer.connections) == (3, 3)

    run(check)


def test_nobody_listens():
    async def check() -> None:
        server = HttpClient("http://127.0.0.1:1", tls=None, headers={}, limit=1)
        with pytest.raises(ConnectionRefusedError):
            await get(server)
        await server.close()

    run(check)


def test_a_stream_hands_on_what_comes_as_it_comes():
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(CHUNKED + b"4\r\none\n\r\n")
        await go_on.wait()
        writer.write(b"4\r\ntwo\n\r\n0\r\n\r\n")
        await reader.read()

    async def check() -> None:
        async with served(script) as (server, _), server.stream("/", {}, idle=5) as stream:
            assert stream.status == 200
            assert await anext(stream.chunks) == b"one\n"
            go_on.set()
            assert [chunk async for chunk in stream.chunks] == [b"two\n"]

    run(check)


def test_a_silent_stream_is_given_up():
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(CHUNKED)
        await reader.read()

    async def check() -> None:
        async with served(script) as (server, _), server.stream("/", {}, idle=0.05) as stream:
            with pytest.raises(TimeoutError):
                await anext(stream.chunks)

    run(check)


def test_a_stream_that_is_read_slowly_is_not_read_further():
    piece, count = b"3e8\r\n" + b"x" * 1000 + b"\r\n", 30_000
    written = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read(reader)
        writer.write(CHUNKED)
        for _ in range(count):
            writer.write(piece)
            await writer.drain()
            written += 1000
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def check() -> None:
        async with served(script) as (server, _), server.stream("/", {}, idle=5) as stream:
            before = -1
            while before < written:  # until it goes no further
                before = written
                await asyncio.sleep(0.2)
            assert written < count * 1000 // 2
            assert sum([len(chunk) async for chunk in stream.chunks]) == count * 1000

    run(check)


@pytest.mark.parametrize(
    ("target", "headers"),
    [("/a b", {}), ("/a\r\nX: y", {}), ("/ä", {}), ("/", {"Authorization": "a\r\nX: y"})],
)
def test_nothing_smuggles_a_second_request(target, headers):
    heard = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())

    async def check() -> None:
        async with served(script) as (server, _):
            with pytest.raises(ValueError, match=r"."):
                await server.request("GET", target, headers, None, 5)

    run(check)
    assert not any(heard)


# --- TLS


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_over_tls_answers_of_any_size_come_whole(secrets, size):
    heard = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read(reader)
            heard.append(await reader.readexactly(size))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for at in range(0, size, 30_000):
                writer.write(heard[-1][at : at + 30_000])
                await writer.drain()

    async def check() -> None:
        async with served(script, secrets=secrets) as (server, peer):
            for number in range(3):
                body = bytes([65 + number]) * size
                assert (await server.request("POST", "/", {}, body, 5)).body == body
            assert peer.connections == 1

    run(check)
    assert [len(body) for body in heard] == [size] * 3


def test_over_tls_a_stream_hands_on_what_comes_as_it_comes(secrets):
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(CHUNKED + b"4\r\none\n\r\n")
        await go_on.wait()
        writer.write(b"4\r\ntwo\n\r\n0\r\n\r\n")
        await reader.read()

    async def check() -> None:
        served_it = served(script, secrets=secrets)
        async with served_it as (server, _), server.stream("/", {}, idle=5) as stream:
            assert await anext(stream.chunks) == b"one\n"
            go_on.set()
            assert [chunk async for chunk in stream.chunks] == [b"two\n"]

    run(check)


@pytest.mark.parametrize(
    ("host", "trusted", "says"),
    [
        ("127.0.0.1", False, "unable to get local issuer"),
        ("127.0.0.2", True, "IP address mismatch"),
    ],
)
def test_a_server_that_is_not_who_it_should_be_hears_nothing(secrets, host, trusted, says):
    heard = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())

    async def check() -> None:
        async with served(script, secrets=secrets, host=host, trusted=trusted) as (server, _):
            with pytest.raises(ssl.SSLCertVerificationError, match=says):
                await get(server)

    run(check)
    assert not any(heard)


def test_a_server_that_speaks_no_tls_is_an_error(secrets):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async def check() -> None:
        async with served(script, secrets=secrets, plain=True) as (server, _):
            with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
                await get(server)

    run(check)


def test_over_tls_a_connection_that_ends_without_an_answer_is_an_error(secrets):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)

    async def check() -> None:
        async with served(script, secrets=secrets) as (server, peer):
            with pytest.raises(DisconnectedError):
                await get(server)
            assert peer.connections == 2  # it is only read: asked once more

    run(check)


def test_a_server_that_never_shakes_hands_is_given_up(secrets, monkeypatch):
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.05)

    async def check() -> None:
        async with served(always(), secrets=secrets, plain=True) as (server, _):
            with pytest.raises(TimeoutError):
                await get(server)

    run(check)


def ending(answer: bytes) -> Script:
    """An answer, and the end of the connection."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return script


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"]
)
@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 300_000])
def test_an_answer_without_a_length_ends_with_its_connection(secrets, head, over_tls, body):
    async def check() -> None:
        served_by = secrets if over_tls else None
        async with served(ending(head + b"\r\n" + body), secrets=served_by) as (server, peer):
            for _ in range(2):
                assert (await get(server)).body == body
            assert peer.connections == 2

    run(check)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", id="a length"),
        pytest.param(CHUNKED + b"2\r\nab\r\n", id="chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnec", id="headers"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_answer_that_says_how_long_it_is_does_not_end_with_its_connection(answer):
    async def check() -> None:
        async with served(ending(answer)) as (server, _):
            with pytest.raises(DisconnectedError):
                await get(server)

    run(check)


def test_over_tls_who_cuts_the_connection_ends_no_list(secrets):
    """Else anybody on the way could shorten one, and what is missing in it would be gone."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(CHUNKED + b"2\r\nab\r\n")
        await writer.drain()
        writer.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    async def check() -> None:
        async with served(script, secrets=secrets) as (server, _):
            with pytest.raises(DisconnectedError):
                await get(server)

    run(check)


@pytest.mark.parametrize("head", [b"Content-Length: 5000\r\n\r\n", b"Connection: close\r\n\r\n"])
def test_an_answer_that_is_larger_than_is_wanted_is_given_up(head):
    async def check() -> None:
        async with served(ending(b"HTTP/1.1 200 OK\r\n" + head + b"x" * 5000)) as (server, _):
            with pytest.raises(TooLargeError, match="more than 1000 bytes"):
                await server.request("GET", "/", {}, None, 5.0, 1000)
            assert len((await get(server)).body) == 5000

    run(check)


def test_the_certificate_may_be_of_another_name_than_the_address(secrets):
    async def check() -> None:
        async with served(always(), secrets=secrets, tls_name="localhost") as (server, _):
            assert (await get(server)).body == b"ok"
        async with served(always(), secrets=secrets, tls_name="other.example.com") as (server, _):
            with pytest.raises(ssl.SSLCertVerificationError):
                await get(server)

    run(check)


# --- a proxy that the kubeconfig names


@pytest.mark.parametrize("wants", ["", "me:secret"])
def test_a_server_is_reached_by_the_proxy_and_trusted_by_its_own_certificate(secrets, wants):
    async def check() -> None:
        async with (
            proxied(wants) as proxy,
            served(always(), secrets=secrets, proxy=proxy.url) as (server, peer),
        ):
            token = {"Authorization": "Bearer secret-token"}
            for _ in range(2):
                assert (await server.request("GET", "/", token, None, 5)).body == b"ok"
            async with server.stream("/", token, idle=5) as (status, _, _chunks):
                assert status == 200
            assert len(proxy.asked) == peer.connections
            assert {place.rpartition(":")[0] for place in proxy.asked} == {"127.0.0.1"}
            assert not any(b"secret-token" in head for head in proxy.heads)

    run(check)


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("else.example", False)])
def test_a_name_of_the_certificate_counts_behind_a_proxy_too(secrets, name, trusted):
    async def check() -> None:
        async with (
            proxied() as proxy,
            served(always(), secrets=secrets, proxy=proxy.url, tls_name=name) as (server, _),
        ):
            if trusted:
                assert (await get(server)).status == 200
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await get(server)

    run(check)


def test_a_proxy_that_refuses_is_said_in_words(secrets):
    async def check() -> None:
        async with proxied("me:secret") as proxy:
            url = proxy.url.replace("me:secret", "me:wrong")
            async with served(always(), secrets=secrets, proxy=url) as (server, peer):
                with pytest.raises(DisconnectedError, match="the proxy answers 407"):
                    await get(server)
                assert not peer.connections

    run(check)


def test_a_proxy_that_is_not_there_is_no_way_around_it(secrets):
    async def check() -> None:
        async with served(always(), secrets=secrets, proxy="http://127.0.0.1:1") as (server, peer):
            with pytest.raises(OSError, match=r"127\.0\.0\.1"):
                await get(server)
            assert not peer.connections

    run(check)
