"""The HTTP interface of an engine of one version: which paths there are, and who may use them."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from sglang_operator.engine import versions
from sglang_operator.testing.engine import auth, metrics, weights
from sglang_operator.testing.engine.behaviour import Behaviour
from sglang_operator.testing.engine.commands import Commands
from sglang_operator.testing.engine.control import Faults
from sglang_operator.testing.engine.generation import Generation
from sglang_operator.testing.engine.manager import STARTING, Manager
from sglang_operator.testing.engine.trainer_api import TrainerApi

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LARGEST_BODY = 1 << 30  # bytes; buckets of weights come in one
_SWITCH = "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"
_PREFERRED = versions.parse("0.4.10")
_GONE = (
    "Endpoint '/get_weight_version' or '/weight_version' is deprecated. Please use '/model_info' "
    "instead."
)


class Api:
    """The handlers that are no trainer's business, and the table of all."""

    def __init__(
        self, manager: Manager, commands: Commands, behaviour: Behaviour, faults: Faults
    ) -> None:
        self._manager = manager
        self._behaviour = behaviour
        self._faults = faults
        self._args = manager.args
        self._generation = Generation(manager, behaviour)
        self._trainer = TrainerApi(manager, commands, behaviour)
        self._open: set[asyncio.Task[Any]] = set()
        self._ending = False
        self._config = weights.config(manager.args.model_path)
        self._health_timeout = float(os.environ.get("SGLANG_HEALTH_CHECK_TIMEOUT", "20"))
        switched_off = os.environ.get(_SWITCH, "true").lower() in ("false", "0", "no", "n")
        self._generates = behaviour.health_generates and not (
            switched_off and behaviour.features.health_without_generation
        )

    def application(self) -> web.Application:
        """Everything that this version has, and nothing else."""
        app = web.Application(middlewares=[self._guard], client_max_size=_LARGEST_BODY)
        for path, methods in self._routes().items():
            for method, handler in methods.items():
                app.router.add_route(method, path, handler)
        return app

    def _routes(self) -> dict[str, Mapping[str, Handler]]:
        found: dict[str, Mapping[str, Handler]] = {
            "/health": {"GET": self._health},
            "/health_generate": {"GET": self._health_generate},
            "/ready": {"GET": self._ready},
            "/ping": {"GET": self._ping},
            "/get_model_info": {"GET": self._model_info},
            "/model_info": {"GET": self._model_info},
            "/get_server_info": {"GET": self._server_info},
            "/server_info": {"GET": self._server_info},
            "/get_load": {"GET": self._get_load},
            "/get_weight_version": {"GET": self._weight_version},
            "/weight_version": {"GET": self._weight_version},
            "/v1/models": {"GET": self._models},
            "/generate": {"POST": self._generation.generate, "PUT": self._generation.generate},
            **self._trainer.routes(),
        }
        routes = {path: found[path] for path in self._behaviour.endpoints if path in found}
        for path in self._behaviour.endpoints - set(found):
            # aiohttp's pattern for a rest with slashes in it
            routes[path.replace(":path}", ":.+}")] = {"*": self._not_simulated}
        if self._behaviour.loads:
            routes["/v1/loads"] = {"GET": self._loads}
        if getattr(self._args, "enable_metrics", False):
            routes["/metrics"] = {"GET": self._metrics}
        return routes

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        may = auth.allowed(
            self._behaviour,
            request.path,
            request.headers.get("Authorization", ""),
            api_key=self._args.api_key,
            admin_api_key=getattr(self._args, "admin_api_key", None),
        )
        if not may:
            return web.json_response({"error": "Unauthorized"}, status=401)
        if self._faults.answer_seconds:
            await asyncio.sleep(self._faults.answer_seconds)
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            return await handler(request)
        except asyncio.CancelledError:
            if not self._ending:
                raise
            return web.Response(text="Internal Server Error", status=500)
        except web.HTTPNotFound:
            return web.json_response({"detail": "Not Found"}, status=404)
        except web.HTTPMethodNotAllowed as error:
            body = {"detail": "Method Not Allowed"}
            return web.json_response(body, status=405, headers={"Allow": error.headers["Allow"]})
        finally:
            self._open.discard(task)

    def give_up(self) -> None:
        """Answer 500 to all open requests: the end of a process that SIGKILL does not end.

        Seen on 0.5.14 as PID 1: uvicorn shuts down on the SystemExit that follows.
        """
        self._ending = True
        for task in self._open:
            task.cancel()

    # --- probes

    async def _health(self, request: web.Request) -> web.Response:
        if not self._behaviour.health_generates:
            return web.Response()
        if self._manager.exiting.is_set() or self._manager.status == STARTING:
            return web.Response(status=503)
        return await self._generating() if self._generates else web.Response()

    async def _health_generate(self, request: web.Request) -> web.Response:
        if self._behaviour.health_generates and (
            self._manager.exiting.is_set() or self._manager.status == STARTING
        ):
            return web.Response(status=503)
        return await self._generating()

    async def _generating(self) -> web.Response:
        healthy = await self._manager.health_generate(self._health_timeout)
        return web.Response(status=200 if healthy else 503)

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self._manager.ready else 503)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response()

    # --- what it is

    async def _model_info(self, request: web.Request) -> web.Response:
        info: dict[str, Any] = {
            "model_path": self._args.model_path,
            "tokenizer_path": self._args.tokenizer_path,
            "is_generation": True,
        }
        if self._behaviour.version >= _PREFERRED:
            info["preferred_sampling_params"] = self._args.preferred_sampling_params
        if self._behaviour.features.weight_version_flag:
            info["weight_version"] = self._manager.weight_version
        if "/model_info" in self._behaviour.endpoints:
            info |= {
                "has_image_understanding": False,
                "has_audio_understanding": False,
                "model_type": self._config.get("model_type"),
                "architectures": self._config.get("architectures"),
            }
        return web.json_response(info)

    async def _server_info(self, request: web.Request) -> web.Response:
        self._manager.touched()
        internal: dict[str, Any] = await self._manager.scheduler.call(
            lambda: {"last_gen_throughput": 0.0}
        )
        if told := metrics.memory_usage(self._behaviour):
            internal = {**internal, "memory_usage": told}
        return web.json_response(
            {
                **vars(self._args),
                "max_total_num_tokens": metrics.loads(self._manager)["max_total_num_tokens"],
                "internal_states": [internal],
                "version": str(self._behaviour.version),
            }
        )

    async def _weight_version(self, request: web.Request) -> web.Response:
        if self._behaviour.weight_version_endpoint == "gone":
            body = {"object": "error", "message": _GONE, "type": "404", "param": None, "code": 404}
            return web.json_response(body, status=404)
        return web.json_response({"weight_version": self._manager.weight_version})

    async def _models(self, request: web.Request) -> web.Response:
        name = self._args.served_model_name
        card = {"id": name, "object": "model", "owned_by": "sglang", "root": name}
        return web.json_response({"object": "list", "data": [card]})

    # --- load

    async def _get_load(self, request: web.Request) -> web.Response:
        load = await self._seen(lambda: metrics.load(self._manager, self._behaviour))
        return web.json_response([load])

    async def _seen(self, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if self._behaviour.loads_from_snapshot:
            return look()
        return await self._manager.scheduler.call(look)

    async def _loads(self, request: web.Request) -> web.Response:
        loads = await self._seen(lambda: metrics.loads(self._manager))
        return web.json_response(
            {
                "timestamp": datetime.now(UTC).isoformat(),
                "version": str(self._behaviour.version),
                "loads": [loads],
            }
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=metrics.render(self._manager, self._behaviour))

    async def _not_simulated(self, request: web.Request) -> web.Response:
        message = (
            f"SGLang {self._behaviour.version} has {request.path}; this fake engine does not "
            "simulate it"
        )
        return web.json_response({"error": {"message": message}}, status=501)
