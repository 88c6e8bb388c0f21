"""What the client makes of answers, and where its credentials come from."""

import asyncio
import errno
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sglang_operator.kube import authorization
from sglang_operator.kube.authorization import Authorization
from sglang_operator.kube.client import ApiClient, Lane
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.errors import (
    ApiError,
    ApiTooLargeError,
    ApiUnreachableError,
)


def identity(port: int, tls: Callable[[], ssl.SSLContext] | None = None) -> Credentials:
    return Credentials(
        server=f"http{'s' if tls else ''}://127.0.0.1:{port}",
        namespace="default",
        tls=tls,
        authorization=lambda: None,
    )


def ask(answer: bytes, question: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    """What the client makes of exactly these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def story() -> Any:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        nobody = identity(listening.sockets[0].getsockname()[1])
        async with listening, ApiClient(nobody, user_agent="test") as client:
            return await question(client)

    return asyncio.run(story())


async def get(client: ApiClient) -> bytes:
    return await client.request("GET", "/x", timeout=5.0)


async def watch(client: ApiClient) -> bytes:
    async with client.stream("/x", {}, idle=5.0) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("question", [get, watch])
@pytest.mark.parametrize("status", [301, 302, 304, 307, 308])
def test_a_redirect_is_no_success(question, status):
    head = f"HTTP/1.1 {status} Moved\r\nLocation: https://login.example.com/\r\n"
    length = "" if status == 304 else "Content-Length: 0\r\n"
    with pytest.raises(ApiError) as raised:
        ask(f"{head}{length}\r\n".encode(), question)
    assert raised.value.status == status
    assert "refers to https://login.example.com/: no redirect is followed" in str(raised.value)


POD = "/api/v1/namespaces/rl/pods/p"


def of(kind: str, name: str, message: str = "not found", reason: str = "NotFound") -> bytes:
    details = {"name": name, "kind": kind}
    return json.dumps({"reason": reason, "message": message, "details": details}).encode()


@pytest.mark.parametrize(
    ("method", "path", "body", "missing"),
    [
        pytest.param("GET", POD, of("pods", "p"), True, id="the object"),
        pytest.param("PATCH", f"{POD}/status", of("pods", "p"), True, id="by its status"),
        pytest.param("GET", "/api/v1/nodes/n", of("nodes", "n"), True, id="of no namespace"),
        pytest.param("GET", POD, b"404 page not found\n", False, id="a kind not served"),
        pytest.param("GET", POD, b"default backend - 404", False, id="a load balancer"),
        pytest.param("GET", POD, b"", False, id="nothing"),
        pytest.param("GET", POD, b'{"reason":"NotFound"}', False, id="about nobody"),
        pytest.param("GET", POD, of("pods", "p", reason=""), False, id="without a reason"),
        pytest.param("GET", POD, of("pods", "other"), False, id="another object"),
        pytest.param("GET", POD, of("nodes", "p"), False, id="another kind"),
        pytest.param("POST", POD[:-2], of("namespaces", "rl"), False, id="the namespace"),
        pytest.param(
            "DELETE",
            POD,
            of("pods", "p", 'admission webhook "x" denied the request: not found'),
            False,
            id="a webhook",
        ),
    ],
)
def test_an_object_is_missing_only_by_the_word_of_the_api_server_about_it(
    method, path, body, missing
):
    head = f"HTTP/1.1 404 Not Found\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with pytest.raises(ApiError) as raised:
        ask(head + body, lambda client: client.request(method, path, timeout=5.0))
    assert raised.value.status == 404
    assert raised.value.missing is missing


def test_a_watch_may_end_with_its_connection():
    assert ask(b"HTTP/1.0 200 OK\r\n\r\n{}\n", watch) == b"{}\n"


def test_what_is_larger_than_is_wanted_is_told_apart():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"
    with pytest.raises(ApiTooLargeError, match="more than 3 bytes"):
        ask(answer, lambda client: client.request("GET", "/x", most=3))


# --- whether another start of this process could help


def refused_by(error: OSError) -> ApiUnreachableError:
    """What the client makes of a connection that ends so."""

    async def story() -> ApiUnreachableError:
        client = ApiClient(identity(1), user_agent="test")
        async with client:

            async def fail(*_: Any, **__: Any) -> Any:
                raise error

            client._lanes[Lane.WORK].request = fail  # type: ignore[method-assign]
            with pytest.raises(ApiUnreachableError) as raised:
                await get(client)
            return raised.value

    return asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), False),
        (OSError(errno.EHOSTUNREACH, "no route"), False),
        (socket.gaierror(socket.EAI_AGAIN, "no such host"), False),
        (TimeoutError(), False),
        (ssl.SSLCertVerificationError("expired"), False),
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.ENOMEM, "no memory"), True),
        (authorization.CredentialsError("no answer in 20 s"), True),
    ],
)
def test_what_this_process_has_run_out_of_is_told_from_what_others_lack(error, own):
    assert refused_by(error).own is own


# --- credentials that come from a plugin


def test_a_plugin_that_takes_its_time_does_not_hold_up_the_loop(monkeypatch):
    monkeypatch.setattr(authorization, "FRESH_SECONDS", 0.0)
    release, asked = threading.Event(), []

    def plugin() -> str:
        asked.append(threading.current_thread())
        if len(asked) > 1:
            release.wait(10)
        return f"Bearer {len(asked)}"

    async def story() -> None:
        found = Authorization(plugin)
        assert await found.header() == "Bearer 1"
        begun = time.monotonic()
        for _ in range(100):  # while the plugin hangs
            assert await found.header() == "Bearer 1"
        assert time.monotonic() - begun < 5
        assert len(asked) == 2
        assert threading.main_thread() not in asked
        release.set()
        async with asyncio.timeout(10):
            while await found.header() == "Bearer 1":
                await asyncio.sleep(0.005)

    try:
        asyncio.run(story())
    finally:
        release.set()


def test_a_plugin_that_never_answers_is_an_error_in_time(monkeypatch):
    monkeypatch.setattr(authorization, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(authorization, "GIVEN_UP_SECONDS", 0.0)
    release, asked = threading.Event(), []

    def plugin() -> None:
        asked.append(1)
        release.wait(10)

    async def story() -> None:
        found = Authorization(plugin)
        for _ in range(2 * authorization.MOST_THREADS):
            with pytest.raises(OSError, match=r"credentials: no answer in 0\.05 s"):
                await found.header()

    try:
        asyncio.run(story())
    finally:
        release.set()
    assert len(asked) == authorization.MOST_THREADS


@pytest.mark.parametrize("error", [ValueError("of s3cret"), SystemExit(3), OSError("no such file")])
def test_a_plugin_that_fails_is_an_error_of_the_request_and_asked_again(error):
    answers = [error, None]

    def plugin() -> str:
        found = answers.pop(0)
        if found is not None:
            raise found
        return "Bearer x"

    async def story() -> None:
        found = Authorization(plugin)
        with pytest.raises(OSError, match=r"credentials|no such") as raised:
            await found.header()
        assert "s3cret" not in str(raised.value)
        assert await found.header() == "Bearer x"

    asyncio.run(story())
