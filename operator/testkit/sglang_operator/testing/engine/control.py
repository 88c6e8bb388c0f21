"""Faults in an engine that runs: a second port, off unless ``FAKE_SGLANG_CONTROL_PORT`` is set.

``POST /fault`` with ``{"fault": "crash"}``; the faults are ``crash`` (``error``: the last line of
the traceback), ``exit`` (``code``), ``kill`` (SIGKILL), ``hang`` and ``resume`` (the scheduler
stops and goes on), ``slow`` (``seconds`` before every answer), ``unreadable`` (the next
checkpoint), ``taken`` and ``given`` (what it has released is somebody else's, and is not any more);
a follower has ``kill-scheduler`` alone (``nodes``).  ``GET /state`` says what the engine holds.  A
real engine has no such port: only tests may use it.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from aiohttp import web

from sglang_operator.testing.engine.commands import Commands
from sglang_operator.testing.engine.manager import Manager

_CRASH = "RuntimeError: CUDA error: an illegal memory access was encountered"


class Faults:
    """What is wrong with the engine at present."""

    def __init__(self, answer_seconds: float) -> None:
        self.answer_seconds = answer_seconds


class Control:
    """The second port's handlers."""

    def __init__(self, manager: Manager, commands: Commands, faults: Faults) -> None:
        self._manager = manager
        self._commands = commands
        self._faults = faults

    def application(self) -> web.Application:
        """The two paths."""
        app = web.Application()
        app.router.add_post("/fault", self._fault)
        app.router.add_get("/state", self._state)
        return app

    async def _fault(self, request: web.Request) -> web.Response:
        body = await request.json()
        faults: dict[str, Callable[[], object]] = {
            "crash": lambda: self._manager.scheduler.fail(body.get("error", _CRASH)),
            "exit": lambda: _soon(lambda: os._exit(int(body.get("code", 1)))),
            "kill": lambda: _soon(lambda: os.kill(os.getpid(), signal.SIGKILL)),
            "hang": self._manager.scheduler.stall,
            "resume": self._manager.scheduler.go_on,
            "slow": lambda: setattr(self._faults, "answer_seconds", float(body["seconds"])),
            "unreadable": lambda: setattr(self._commands, "unreadable", True),
            "taken": lambda: setattr(self._commands, "taken", True),
            "given": lambda: setattr(self._commands, "taken", False),
        }
        if body.get("fault") not in faults:
            return web.json_response({"error": f"faults: {', '.join(faults)}"}, status=400)
        faults[body["fault"]]()
        return web.json_response({})

    async def _state(self, request: web.Request) -> web.Response:
        state: dict[str, Any] = {
            "status": self._manager.status,
            "paused": self._manager.paused,
            "released": sorted(self._commands.released),
            "memory": self._commands.memory,
            "requests": self._manager.open_requests,
            "weight_version": self._manager.weight_version,
            "weights": self._commands.weights.describe(),
        }
        return web.json_response(state)


def _soon(end: Callable[[], object]) -> None:
    """After the answer is out."""
    asyncio.get_running_loop().call_later(0.05, end)
