"""The operator asks engines on a real control plane: once, and only those without a key."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from aiohttp import web

ADDRESS = "127.0.0.9"
pytestmark = pytest.mark.plane("1x8", ask_engines=True)


class Answering:
    """An HTTP server in a thread that says what an engine says of itself; counts who asks."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> "Answering":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, ADDRESS, 0).start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        usage = {"weight": 28.5, "kvcache": 0.25}
        return web.json_response(
            {
                "version": "0.5.9",
                "max_total_num_tokens": 4242,
                "internal_states": [{"memory_usage": usage}],
            }
        )


@pytest.fixture
def engine() -> Iterator[Answering]:
    with Answering() as engine:
        yield engine


def at(engine: Answering) -> dict[str, object]:
    """Parts of a spec whose engines all are this one server."""
    template = {"metadata": {"annotations": {"fake.sglang/pod-ip": ADDRESS}}}
    return {"network": {"port": engine.port}, "podTemplate": template, "replicas": 2}


def test_what_engines_run_with_is_recorded_and_asked_once(pool, engine):
    pool.apply(**at(engine))
    pool.wait_ready()
    said = pool.wait(lambda: pool.status.get("reported"), "what the engines say")
    assert said == {"engineVersion": "0.5.9", "maxTotalTokens": 4242}
    pool.wait(lambda: len(engine.asked) == 2, "both to be asked")
    warning = next(w for w in pool.status["warnings"] if w["reason"] == "EngineVersionReported")
    assert warning["field"] == "spec.engineVersion"
    pool.wait(lambda: pool.status["memory"]["worstEngine"] == "g0-1", "of equals the first")
    memory = pool.status["memory"]
    assert memory["reported"] == {"tokens": 4242, "weightsGiB": 28.5, "cacheGiB": 0.25}
    assert memory["planned"]["weightsGiB"] == pytest.approx(28.5, abs=0.1)
    assert memory["card"] == "H100-80GB"
    # Another pass asks nothing more.
    pool.patch({"rollout": {"maxUnavailable": 2}})
    pool.wait(pool.is_current, "another pass")
    assert engine.asked == ["/server_info", "/server_info"]
