"""An engine's life: load, listen, warm up, serve, drain."""

import argparse
import asyncio
import os
import signal
import sys
import time
from typing import NoReturn

import aiohttp
from aiohttp import web

from sglang_operator.engine import versions
from sglang_operator.testing.engine import death, failures, log
from sglang_operator.testing.engine import weights as weights_module
from sglang_operator.testing.engine.api import Api
from sglang_operator.testing.engine.behaviour import Behaviour
from sglang_operator.testing.engine.commands import Commands
from sglang_operator.testing.engine.control import Control, Faults
from sglang_operator.testing.engine.manager import UNHEALTHY, UP, Manager
from sglang_operator.testing.engine.nodes import BY_NCCL, Nodes
from sglang_operator.testing.engine.prefix_cache import PrefixCache
from sglang_operator.testing.engine.scheduler import (
    Request,
    Scheduler,
    SchedulerError,
    SchedulerExit,
)
from sglang_operator.testing.engine.settings import Settings

_KEEP_ALIVE_SECONDS = 5  # SGLANG_TIMEOUT_KEEP_ALIVE
_BACKLOG = 2048  # uvicorn's
_WARM_UP_PAUSE_SECONDS, _WARM_UP_ANSWER_SECONDS = 1.0, 5.0
_LAST_ANSWERS_SECONDS = 0.2


class Engine:
    """One process of SGLang, of rank 0 of an engine; ``nodes`` has what the other ranks do."""

    def __init__(self, args: argparse.Namespace, behaviour: Behaviour, settings: Settings) -> None:
        self._args = args
        self._behaviour = behaviour
        self._settings = settings
        self._running = False  # from the first request on signals are handled
        self._scheduler = Scheduler(settings.token_seconds, self._crashed)
        self._nodes = Nodes(args, hangs=self._scheduler.stall)
        self._manager = Manager(args, behaviour, self._scheduler)
        self._manager.touched = self._handle_signals
        layers = weights_module.config(args.model_path).get("num_hidden_layers", settings.layers)
        weights = weights_module.Weights(
            weights_module.names(int(layers)),
            dummy=args.load_format == "dummy",
            source=args.model_path,
        )
        self._scheduler.minds_waiting = behaviour.flush_minds_waiting
        self._scheduler.minds_grammars = behaviour.flush_minds_grammars
        self._scheduler.cache = PrefixCache(on=not getattr(args, "disable_radix_cache", False))
        self._scheduler.weights = weights.describe
        self._commands = Commands(args, behaviour, settings, self._scheduler, weights)
        self._faults = Faults(settings.answer_seconds)
        self._api = Api(self._manager, self._commands, behaviour, self._faults)

    async def run(self) -> None:
        """Until its end, which it does not return from."""
        await self._nodes.meet()
        self._commands.held.tell(self._commands.memory)
        await asyncio.sleep(self._settings.load_seconds)
        work = asyncio.create_task(self._scheduler.run())
        meeting = await self._meet_ranks()
        await self._listen(self._api.application(), self._args.port)
        if self._settings.control_port:
            control = Control(self._manager, self._commands, self._faults)
            await self._listen(control.application(), self._settings.control_port)
        watch = asyncio.create_task(self._watch())
        await self._warm_up()
        log.line("The server is fired up and ready to roll!")
        await self._manager.exiting.wait()
        await self._drain()
        work.cancel()
        watch.cancel()
        if meeting is not None:
            meeting.close()
        await self._nodes.dismiss()
        self._end()

    async def _meet_ranks(self) -> asyncio.Server | None:
        """The store of torch.distributed, at which the ranks of an engine meet, listens for ever.

        Where nobody named its port it has one that is free.
        """
        port: int | None = getattr(self._args, "nccl_port", None)
        if not port:
            return None

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        return await asyncio.start_server(silent, "0.0.0.0", port)

    async def _warm_up(self) -> None:
        if getattr(self._args, "checkpoint_engine_wait_weights_before_ready", False):
            await self._wait_for_weights()
        if not getattr(self._args, "skip_server_warmup", False):
            await asyncio.sleep(self._settings.warm_up_seconds)
            finished = asyncio.get_running_loop().create_future()
            request = Request(
                rid="warm-up", prompt=(10, 11, 12), max_new_tokens=8, finished=finished
            )
            async with self._manager.admitted([request]):
                await finished
        self._manager.status = UP

    async def _wait_for_weights(self) -> None:
        limit = int(os.environ.get("SGLANG_WAIT_WEIGHTS_READY_TIMEOUT", "120"))
        try:
            await asyncio.wait_for(self._manager.first_weights.wait(), limit)
        except TimeoutError:
            log.line(f"Weights are not ready after waiting {limit} seconds.")

    def _handle_signals(self) -> None:
        """From its first request on, SGLang handles SIGTERM (auto_create_handle_loop).

        Before it, SIGTERM is the end; as PID 1 of a container it is ignored by the kernel.
        """
        if self._running:
            return
        self._running = True
        self._started = time.monotonic()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminate)

    def _terminate(self) -> None:
        log.line("SIGTERM received. signum=None frame=None. Draining requests and shutting down...")
        self._manager.exiting.set()

    async def _drain(self) -> None:
        """Wait for the requests, without end (sigterm_watchdog)."""
        poll = self._settings.drain_poll_seconds
        await asyncio.sleep(poll - (time.monotonic() - self._started) % poll)
        while True:
            if self._manager.status == UNHEALTHY or self._manager.health_failed:
                log.line("Signal SIGTERM received while health check failed. Force exiting.")
                return
            if os.environ.get("SGL_FORCE_SHUTDOWN", "").lower() in ("true", "1"):
                log.line("Signal SIGTERM received while force shutdown flag set. Force exiting.")
                return
            open_requests = self._manager.open_requests
            log.line(f"Gracefully exiting... Remaining number of requests {open_requests}.")
            if not open_requests:
                return
            await asyncio.sleep(poll)

    def _end(self) -> NoReturn:
        if self._behaviour.drains_to_zero:
            sys.stderr.flush()
            os._exit(0)
        death.kill_tree()

    async def _watch(self) -> None:
        if await self._nodes.lost():
            self._crashed(SchedulerError(BY_NCCL), end_seconds=0.0)
            return
        await asyncio.sleep(self._settings.peer_seconds)
        self._crashed(SchedulerError("RuntimeError: [gloo] Connection closed by peer"))

    def _crashed(self, error: SchedulerError, end_seconds: float | None = None) -> None:
        if isinstance(error, SchedulerExit):
            death.scheduler_exited(str(error))
        else:
            frames = ("srt/managers/scheduler.py", "run_scheduler_process")
            trace = death.traceback(str(error), frames)
            death.scheduler_failed(trace, launching=not self._running)
        self._nodes.leave()
        seconds = self._settings.crash_seconds if end_seconds is None else end_seconds
        asyncio.get_running_loop().call_later(seconds, self._die)

    def _die(self) -> None:
        death.try_kill()
        self._api.give_up()
        asyncio.get_running_loop().call_later(_LAST_ANSWERS_SECONDS, os._exit, 0)

    async def _listen(self, app: web.Application, port: int) -> None:
        """Serve on a port; if it is taken this is the end, sooner or later."""
        runner = web.AppRunner(app, keepalive_timeout=_KEEP_ALIVE_SECONDS, access_log=None)
        await runner.setup()
        host = self._args.host
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        except OSError:
            failures.tell_port_in_use(host, port)
            await self._warm_up_of_another(port)

    async def _warm_up_of_another(self, port: int) -> None:
        """Uvicorn waits for SGLang's warm-up, which asks whoever has the port: 120 times.

        One that answers like an engine is the end at once, with uvicorn's exit code; one that does
        not lets SGLang kill itself once it has given up: 0.5.14 was still there after 130 s.
        """
        limit = aiohttp.ClientTimeout(total=_WARM_UP_ANSWER_SECONDS)
        path = versions.features(versions.parse(self._settings.version)).model_info_path
        said = "no answer"
        async with aiohttp.ClientSession(timeout=limit) as session:
            for _ in range(self._settings.warm_up_tries):
                await asyncio.sleep(_WARM_UP_PAUSE_SECONDS)
                try:
                    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                        if answer.status == 200:
                            os._exit(self._behaviour.port_in_use_code)
                        said = f"AssertionError: res=<Response [{answer.status}]>"
                except (aiohttp.ClientError, TimeoutError) as error:
                    said = f"requests.exceptions.{type(error).__name__}"
        failures.warm_up(said)
