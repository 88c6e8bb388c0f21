"""The endpoints that trainers use: pauses, memory, groups, updates, versions."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from sglang_operator.testing.engine import bodies
from sglang_operator.testing.engine.behaviour import Behaviour
from sglang_operator.testing.engine.commands import Commands, Outcome
from sglang_operator.testing.engine.manager import Manager

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. (When there are running or "
    "waiting requests, the operation will not be performed.)\n"
)
_NOT_FLUSHED = "Flush cache failed.\n"


class TrainerApi:
    """Handlers; each reads its body, has the scheduler act and answers as SGLang does."""

    def __init__(self, manager: Manager, commands: Commands, behaviour: Behaviour) -> None:
        self._manager = manager
        self._commands = commands
        self._behaviour = behaviour
        self._scheduler = manager.scheduler

    def routes(self) -> dict[str, Mapping[str, Handler]]:
        """Path to method to handler, of all versions."""
        return {
            "/abort_request": {"POST": self._abort},
            "/begin_weight_update": {"POST": self._begin},
            "/continue_generation": {"POST": self._continue},
            "/destroy_weights_update_group": {"POST": self._destroy_group},
            "/end_weight_update": {"POST": self._end},
            "/flush_cache": {"GET": self._flush, "POST": self._flush},
            "/get_weights_by_name": {"GET": self._by_name, "POST": self._by_name},
            "/init_weights_update_group": {"POST": self._init_group},
            "/pause_generation": {"POST": self._pause},
            "/release_memory_occupation": {"GET": self._release, "POST": self._release},
            "/resume_memory_occupation": {"GET": self._resume, "POST": self._resume},
            "/update_weight_version": {"POST": self._set_version},
            "/update_weights_from_disk": {"POST": self._from_disk},
            "/update_weights_from_distributed": {"POST": self._from_distributed},
            "/update_weights_from_ipc": {"POST": self._from_ipc},
            "/update_weights_from_tensor": {"POST": self._from_tensor},
            "/weights_checker": {"POST": self._check} | self._checker_by_get(),
        }

    def _checker_by_get(self) -> dict[str, Handler]:
        return {"GET": self._check} if "checksum" in self._behaviour.checker_actions else {}

    # --- requests

    async def _abort(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, self._behaviour)
        if not self._behaviour.abort_all and "rid" not in body:
            raise bodies.invalid(self._behaviour, "rid", "Field required", "missing")
        everything = self._behaviour.abort_all and bool(body.get("abort_all"))
        self._manager.abort(str(body.get("rid") or ""), everything=everything)
        return web.Response()

    async def _pause(self, request: web.Request) -> web.Response:
        mode = "abort"
        if self._behaviour.pause_needs_body:
            mode = (await bodies.read(request, self._behaviour)).get("mode", "abort")
            if mode not in self._behaviour.pause_modes:
                text = "Input should be 'abort', 'retract' or 'in_place'"
                raise bodies.invalid(self._behaviour, "mode", text, "literal_error")
        await self._manager.pause_generation(mode)
        return web.json_response({"message": "Generation paused successfully.", "status": "ok"})

    async def _continue(self, request: web.Request) -> web.Response:
        if self._behaviour.pause_needs_body:
            await bodies.read(request, self._behaviour)
        await self._manager.continue_generation()
        return web.json_response({"message": "Generation continued successfully.", "status": "ok"})

    async def _flush(self, request: web.Request) -> web.Response:
        self._manager.touched()
        done = await self._scheduler.call(self._scheduler.flush)
        failed = _NOT_FLUSHED if self._behaviour.failed_flush_text else _FLUSHED
        return web.Response(text=_FLUSHED if done else failed, status=200 if done else 400)

    # --- memory: the answer has no content, as a function that returns nothing has in FastAPI

    async def _release(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, self._behaviour)
        await self._scheduler.call(lambda: self._commands.release(body.get("tags")))
        return web.json_response(None)

    async def _resume(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, self._behaviour)
        await self._scheduler.call(lambda: self._commands.resume(body.get("tags")))
        return web.json_response(None)

    # --- groups and updates

    async def _init_group(self, request: web.Request) -> web.Response:
        needed = {"master_address": str, "master_port": int, "rank_offset": int, "world_size": int}
        body = await bodies.read(request, self._behaviour, needed)
        self._manager.touched()
        return bodies.outcome(*await self._scheduler.call(lambda: self._commands.init_group(body)))

    async def _destroy_group(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, self._behaviour)
        name = str(body.get("group_name", "weight_update_group"))
        self._manager.touched()
        return bodies.outcome(
            *await self._scheduler.call(lambda: self._commands.destroy_group(name))
        )

    async def _begin(self, request: web.Request) -> web.Response:
        await bodies.read(request, self._behaviour)
        return bodies.outcome(*await self._scheduler.call(self._commands.begin))

    async def _end(self, request: web.Request) -> web.Response:
        await bodies.read(request, self._behaviour)
        return bodies.outcome(*await self._scheduler.call(self._commands.end))

    async def _from_distributed(self, request: web.Request) -> web.Response:
        needed: dict[str, type] = {"names": list, "dtypes": list, "shapes": list}
        if not self._behaviour.many_tensors:
            needed = {"name": str, "dtype": str, "shape": list}
        body = await bodies.read(request, self._behaviour, needed)
        return await self._update(body, lambda: self._commands.from_distributed(body))

    async def _from_tensor(self, request: web.Request) -> web.Response:
        needed: dict[str, type] = {"serialized_named_tensors": list}
        body = await bodies.read(request, self._behaviour, needed)
        return await self._update(body, lambda: self._commands.from_tensor(body))

    async def _from_ipc(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, self._behaviour, {"zmq_handles": dict})
        answer = await self._update(body, lambda: self._commands.from_ipc(body))
        if answer.status == 200:
            self._manager.first_weights.set()
        return answer

    async def _from_disk(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, self._behaviour, {"model_path": str})
        kind = str(body.get("load_format") or self._manager.args.load_format)
        answer = await self._update(
            body, lambda: self._commands.from_disk(body, kind), num_paused_requests=0
        )
        if answer.status == 200:
            self._manager.args.model_path = body["model_path"]
            self._manager.args.load_format = kind
        return answer

    async def _update(
        self, body: dict[str, Any], command: Callable[[], Awaitable[Outcome]], **more: object
    ) -> web.Response:
        if body.get("abort_all_requests"):
            self._manager.abort("", everything=True)

        async def ordered() -> Outcome:
            outcome: Outcome = await self._scheduler.call(command)
            return outcome

        success, message = await self._manager.updating(ordered)
        version = body.get("weight_version")
        if success and version is not None and self._behaviour.features.weight_version_flag:
            self._manager.weight_version = version
            message += f" Weight version updated to {version}."
        return bodies.outcome(success, message, **more)

    # --- what the weights are

    async def _set_version(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, self._behaviour, {"new_version": str})
        if body.get("abort_all_requests", True):
            self._manager.abort("", everything=True)
        version = body["new_version"]
        self._manager.weight_version = version
        message = f"Weight version updated to {version}"
        return bodies.outcome(True, message, new_version=version)

    async def _check(self, request: web.Request) -> web.Response:
        by_default = "checksum" in self._behaviour.checker_actions
        needed = {} if by_default else {"action": str}
        body = await bodies.read(request, self._behaviour, needed, optional=by_default)
        action = str(body.get("action", "checksum"))
        self._manager.touched()
        success, message, checksums = await self._scheduler.call(
            lambda: self._commands.check(action)
        )
        if checksums is None:
            return bodies.outcome(success, message)
        whole = self._commands.weights.checksum()
        ranks = [
            {
                "checksums": checksums,
                "per_gpu_checksum": whole,
                "parallelism_info": {"tp_rank": rank, "tp_size": self._manager.args.tp_size},
            }
            for rank in range(self._manager.args.tp_size)
        ]
        return bodies.outcome(success, message, ranks=ranks, per_engine_checksum=whole)

    async def _by_name(self, request: web.Request) -> web.Response:
        await bodies.read(request, self._behaviour, {"name": str})
        # Seen with Qwen2 on 0.5.14: the model's class lacks it (explanation/sglang.md).
        return bodies.refused("Get parameter by name failed")
