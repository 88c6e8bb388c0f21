"""kopf is told who changed, whatever a namespace writes into its pools."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from kopf._cogs.clients.api import iter_jsonlines

from sglang_operator.api import names
from sglang_operator.controller import briefing, shell
from sglang_operator.kube import paths
from sglang_operator.kube.credentials import Credentials
from sglang_operator.testing import credentials as kit
from tests.unit.kube.connecting import proxied

POOLS = paths.pools("")
LARGE: dict[str, Any] = {"data_args": [{"": 0}] * 40_000}
DEEP = "[" * 20_000 + "]" * 20_000


def pool(name: str, version: int, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "rl", "uid": f"u-{name}", "resourceVersion": str(version)}
    return {
        "metadata": {**meta, "annotations": {"note": "x" * 200_000}, "managedFields": [LARGE]},
        "spec": LARGE,
        **more,
    }


def told(name: str, version: int) -> dict[str, Any]:
    meta = {"name": name, "namespace": "rl", "uid": f"u-{name}", "resourceVersion": str(version)}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta}


def identity(server: str, header: str | None = None, **tls: Any) -> Credentials:
    return Credentials(
        server=server, namespace="rl", authorization=lambda: header, **{"tls": None, **tls}
    )


async def log_in(credentials: Credentials) -> shell.Login:
    return await shell.Logins(credentials).another()


def serve(text: str, use: Callable[[aiohttp.ClientSession, str], Awaitable[Any]]) -> Any:
    """What ``use`` makes of kopf's session with a server that answers so; and what was accepted."""
    accepted: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        accepted.append(request.headers["Accept"])
        return web.Response(text=text, content_type="application/json")

    async def main() -> Any:
        app = web.Application()
        app.router.add_get("/{any:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        made = await log_in(identity(f"http://{host}:{port}"))
        try:
            return await use(made.aiohttp_session, made.server)
        finally:
            await made.aiohttp_session.close()
            await runner.cleanup()

    return asyncio.run(main()), accepted


async def listed(session: aiohttp.ClientSession, server: str) -> Any:
    async with await session.get(f"{server}{POOLS}?limit={briefing.PAGE}") as response:
        return await response.json()


async def watched(session: aiohttp.ClientSession, server: str) -> list[Any]:
    async with await session.get(f"{server}{POOLS}?watch=true") as response:
        return [json.loads(line) async for line in iter_jsonlines(response.content)]


def test_of_a_list_of_pools_kopf_sees_names_and_asks_for_no_more():
    body = {
        "metadata": {"resourceVersion": "9", "continue": "more"},
        "items": [pool("a", 3), pool("b", 4)],
    }
    found, (accepted,) = serve(json.dumps(body), listed)
    assert found["items"] == [told("a", 3), told("b", 4)]
    assert found["metadata"] == {"resourceVersion": "9", "continue": "more"}
    assert accepted.startswith("application/json;as=PartialObjectMetadataList;")


def test_a_pool_that_is_nested_too_deep_does_not_hide_the_others_from_kopf():
    body = {"metadata": {"resourceVersion": "9"}, "items": [pool("a", 3), pool("b", 4, x="DEEP")]}
    found, _ = serve(json.dumps(body).replace('"DEEP"', DEEP), listed)
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "b"]


def test_of_a_watch_kopf_sees_who_changed_and_what_the_server_says():
    gone = {"type": "ERROR", "object": {"kind": "Status", "metadata": {}, "code": 410}}
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}}
    events = [
        {"type": "ADDED", "object": pool("a", 3)},
        {"type": "MODIFIED", "object": pool("b", 4, x="DEEP")},
        {"type": "MODIFIED", "object": pool("a", 5)},
        bookmark,
        gone,
    ]
    text = "\n".join(json.dumps(event) for event in events).replace('"DEEP"', DEEP) + "\n"
    found, (accepted,) = serve(text, watched)
    changed = [event for event in found if event["type"] in ("ADDED", "MODIFIED")]
    assert {"type": "ADDED", "object": told("a", 3)} in changed
    assert {"type": "MODIFIED", "object": told("b", 4)} in changed
    assert {"type": "MODIFIED", "object": told("a", 5)} in changed
    assert sum(len(json.dumps(event)) for event in found) < 2_000
    assert found[-2]["object"]["metadata"]["resourceVersion"] == "8"
    assert found[-1] == gone
    assert accepted.startswith("application/json;as=PartialObjectMetadata;")


def test_what_is_not_about_pools_is_as_the_server_writes_it():
    async def discovery(session: aiohttp.ClientSession, server: str) -> Any:
        async with await session.get(f"{server}/apis") as response:
            return await response.json()

    found, (accepted,) = serve('{"groups": [{"name": "x"}]}', discovery)
    assert found == {"groups": [{"name": "x"}]}
    assert "PartialObjectMetadata" not in accepted


def test_kopf_reads_pools_page_by_page():
    assert shell._settings().watching.chunk_size == briefing.PAGE


@pytest.mark.parametrize(("before", "after", "same"), [("a", "a", True), ("a", "b", False)])
def test_a_refused_token_is_not_tried_again_by_kopf(before, after, same):
    """kopf compares what a login brings with what was refused."""

    async def main() -> bool:
        logins = []
        for token in (before, after):
            logins.append(await log_in(identity("http://127.0.0.1:9", f"Bearer {token}")))
        for made in logins:
            await made.aiohttp_session.close()
        return logins[0] == logins[1]

    assert asyncio.run(main()) is same


def test_kopf_goes_by_the_proxy_which_sees_no_token(tmp_path):
    made = kit.create(tmp_path / "kit")
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(made.server_cert, made.server_key)
    heads = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 None\r\n\r\n")
        await writer.drain()
        writer.close()

    async def main() -> list[bytes]:
        listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=theirs)
        server = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening, proxied() as proxy:
            found = identity(
                server,
                "Bearer the-token",
                tls=lambda: ssl.create_default_context(cafile=made.ca),
                proxy=proxy.url,
            )
            login = await log_in(found)
            async with login.aiohttp_session as session, session.get(server) as got:
                assert got.status == 204
            return proxy.heads

    asked = asyncio.run(main())
    assert len(asked) == 1
    assert b"the-token" not in asked[0]
    assert b"\r\nAuthorization: Bearer the-token\r\n" in heads[0]


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("else.example", False)])
def test_kopf_checks_the_certificate_against_the_name_in_the_kubeconfig(tmp_path, name, trusted):
    made = kit.create(tmp_path / "kit")
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(made.server_cert, made.server_key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 None\r\n\r\n")
        await writer.drain()
        writer.close()

    async def main() -> int:
        listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=theirs)
        server = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        found = identity(
            server,
            tls=lambda: ssl.create_default_context(cafile=made.ca),
            tls_server_name=name,
        )
        async with (
            listening,
            (await log_in(found)).aiohttp_session as session,
            session.get(server) as response,
        ):
            return response.status

    if trusted:
        assert asyncio.run(main()) == 204
    else:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            asyncio.run(main())
