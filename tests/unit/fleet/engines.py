"""A small HTTP server in the place of an engine: it answers what a test tells it to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

# A status, a body, the whole answer; None: no answer.
Answer = dict[str, Any] | list[Any] | int | str | web.Response | None


class Engine:
    """``answers`` by path, to be changed at any time; ``asked`` keeps method, path and body."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.url = ""
        self.busy = 0  # requests that are being answered
        self.busiest = 0
        self.slow = 0.0  # seconds that each answer takes
        self.headers: list[dict[str, str]] = []

    def times(self, path: str) -> int:
        """How often this path was asked."""
        return sum(asked == path for _, asked, _ in self.asked)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.method, request.path_qs, body))
        self.headers.append(dict(request.headers))
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            if self.slow:
                await asyncio.sleep(self.slow)
            answer = self.answers.get(request.path, 404)
            if answer is None:
                await asyncio.sleep(60)
        finally:
            self.busy -= 1
        if isinstance(answer, web.Response):
            return answer
        if isinstance(answer, int):
            return web.Response(status=answer)
        if isinstance(answer, str):
            return web.Response(text=answer)
        if isinstance(answer, dict) and "status" in answer:
            return web.json_response(answer["body"], status=answer["status"])
        return web.json_response(answer)


@asynccontextmanager
async def an_engine(**answers: Answer) -> AsyncIterator[Engine]:
    """An engine on 127.0.0.1 for as long as the block runs; ``model_info`` answers /model_info."""
    engine = Engine()
    engine.answers = {f"/{name}": answer for name, answer in answers.items()}
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    engine.url = f"http://{host}:{port}"
    try:
        yield engine
    finally:
        await runner.cleanup()


async def eventually(check: Callable[[], Any], what: str, seconds: float = 5.0) -> Any:
    """Wait until this holds."""
    async with asyncio.timeout(seconds):
        while not (found := check()):
            await asyncio.sleep(0.005)
    assert found, what
    return found
