"""kopf's logins go by the identity of all other requests: what is refused is asked for anew."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from aiohttp import web

from sglang_operator.api import names
from sglang_operator.backoff import Backoff
from sglang_operator.controller import shell
from sglang_operator.kube import paths
from sglang_operator.kube.credentials import Credentials

SECONDS = 30.0  # for a step on a busy machine


class Cluster:
    """An API server that takes one token, and tells of one pool at each watch."""

    def __init__(self) -> None:
        self.token = "one"
        self.version = 1
        self.refused: list[str] = []
        self._watches: list[asyncio.Event] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.server = ""

    def __enter__(self) -> "Cluster":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def rotate(self, token: str) -> None:
        """Another token counts from now on, and what is watched ends."""

        def end() -> None:
            self.token, self.version = token, self.version + 1
            for watch in self._watches:
                watch.set()

        self._loop.call_soon_threadsafe(end)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/api", self._core)
        app.router.add_get("/api/v1", self._core_resources)
        app.router.add_get("/apis", self._groups)
        app.router.add_get(f"/apis/{names.GROUP}/{names.VERSION}", self._resources)
        app.router.add_get(paths.pools(""), self._pools)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.server = f"http://{host}:{port}"

    async def _stop(self) -> None:
        for watch in self._watches:
            watch.set()
        await self._runner.cleanup()

    def _check(self, request: web.Request) -> None:
        found = request.headers.get("Authorization", "")
        if found != f"Bearer {self.token}":
            self.refused.append(found)
            status = {"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "no"}
            raise web.HTTPUnauthorized(text=json.dumps(status), content_type="application/json")

    async def _core(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({"kind": "APIVersions", "versions": ["v1"]})

    async def _core_resources(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({"resources": [_resource("namespaces", "Namespace", False)]})

    async def _groups(self, request: web.Request) -> web.Response:
        self._check(request)
        version = {"groupVersion": names.API_VERSION, "version": names.VERSION}
        group = {"name": names.GROUP, "versions": [version], "preferredVersion": version}
        return web.json_response({"kind": "APIGroupList", "groups": [group]})

    async def _resources(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({"resources": [_resource(names.PLURAL, names.KIND, True)]})

    async def _pools(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        meta = {"name": "pool", "namespace": "rl", "uid": "u", "resourceVersion": str(self.version)}
        if "watch" not in request.query:
            listed = {"resourceVersion": str(self.version)}
            return web.json_response({"metadata": listed, "items": [{"metadata": meta}]})
        over = asyncio.Event()
        self._watches.append(over)
        response = web.StreamResponse()
        await response.prepare(request)
        event = {"type": "MODIFIED", "object": {"metadata": meta}}
        await response.write(json.dumps(event).encode() + b"\n")
        await over.wait()
        return response


def _resource(plural: str, kind: str, namespaced: bool) -> dict[str, Any]:
    verbs = ["get", "list", "watch", "patch"]
    known = {"name": plural, "singularName": plural[:-1], "kind": kind, "verbs": verbs}
    return {**known, "namespaced": namespaced}


class Plugin:
    """It gives a token, which is kept until somebody forgets it, as one that names no end is."""

    def __init__(self) -> None:
        self.next = self.kept = "one"
        self.slow = threading.Event()
        self.slow.set()
        self.threads: set[str] = set()

    def header(self) -> str:
        self.threads.add(threading.current_thread().name)
        self.slow.wait(SECONDS)
        return f"Bearer {self.kept}"

    def forget(self) -> None:
        self.kept = self.next


def until(check: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def cluster():
    with Cluster() as made:
        yield made


@pytest.fixture
def plugin():
    return Plugin()


@pytest.fixture
def kopf(cluster, plugin, monkeypatch):
    """kopf, which is not started again; the versions that it heard of."""
    monkeypatch.setattr(shell, "BACKOFF", Backoff(1000.0, 1000.0))
    credentials = Credentials(
        server=cluster.server,
        namespace="rl",
        tls=None,
        authorization=plugin.header,
        forget=plugin.forget,
    )
    heard: list[int] = []
    supervised = shell.SupervisedKopf(credentials, (), lambda _, version: heard.append(version))
    supervised.start()
    yield heard
    plugin.slow.set()
    supervised.stop(SECONDS)
    assert not supervised._thread.is_alive()


def test_a_token_that_is_refused_is_asked_for_anew_and_kopf_goes_on(cluster, plugin, kopf):
    """It ended, and was given the same token for as long as nobody else forgot it."""
    until(lambda: 1 in kopf)
    plugin.next = "two"
    cluster.rotate("two")
    until(lambda: 2 in kopf)
    assert "Bearer one" in cluster.refused


def test_a_plugin_that_takes_its_time_holds_up_nothing_of_kopf(cluster, plugin, kopf):
    until(lambda: 1 in kopf)
    assert plugin.threads
    assert "kopf" not in plugin.threads
