"""What trainers order: memory, groups and updates of weights, as the scheduler does it.

Each returns (success, message) as SGLang's scheduler does, or raises what the scheduler dies of.
The texts are those of srt/model_executor/model_runner.py and srt/managers (0.5.2 to 0.5.23).
"""

import argparse
import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_operator.testing.engine import held, rendezvous
from sglang_operator.testing.engine import weights as weights_module
from sglang_operator.testing.engine.behaviour import KV_CACHE, WEIGHTS, Behaviour
from sglang_operator.testing.engine.scheduler import Scheduler, SchedulerError, SchedulerExit
from sglang_operator.testing.engine.settings import Settings

Outcome = tuple[bool, str]

_RELEASED = (
    "[torch_memory_saver.cpp] Cannot pause allocation that is not active. tag={tag} "
    "file=csrc/core.cpp func=pause"
)
# Of 0.0.10, with SGLang 0.5.14.
_NO_MEMORY = (
    "[torch_memory_saver.cpp] cuMemCreate CUDA_ERROR_OUT_OF_MEMORY (may not be an issue e.g. torch "
    "allocator will free cache and retry)\n"
    "[torch_memory_saver.cpp] cudaError error: 2 (out of memory)  file=csrc/core.cpp func=resume "
    "line=243"
)
_ONLINE = "Succeeded to update parameter online."
_PARTIAL = (
    "Failed to update parameter online: {error}. The full weights of the ModelRunner are partially "
    "updated. Please discard the whole weights."
)
# torch.distributed's own words; seen on SGLang 0.5.14.
_GROUP_EXISTS = (
    "Failed to initialize custom process group: The specified group name has already been created, "
    "please use a different group name."
)
_NO_GROUP = "Group {name} not in {known}. Please call `init_weights_update_group` first."
_OTHER_GPU = "Exception: Invalid device_uuid={device}"  # srt/utils/patch_torch.py
_NO_SESSION = "{what} must run between begin_weight_update() and end_weight_update()"
_NOT_FLUSHED = (
    "Weights were updated, but the cache was not flushed because requests are still running or "
    "queued. Retract or finish them, then call /flush_cache."
)


class Commands:
    """The scheduler's side of the endpoints that change an engine."""

    def __init__(
        self,
        args: argparse.Namespace,
        behaviour: Behaviour,
        settings: Settings,
        scheduler: Scheduler,
        weights: weights_module.Weights,
    ) -> None:
        self._args = args
        self._behaviour = behaviour
        self._settings = settings
        self._scheduler = scheduler
        self.weights = weights
        self.released: set[str] = set()
        self._groups: dict[str, rendezvous.Group] = {}
        self._created: set[str] = set()  # torch keeps names for the life of the process
        self._session = False
        self.unreadable = False  # the next checkpoint
        self.taken = settings.taken
        self.held = held.Held(settings.memory, settings.devices.split(","))

    # --- memory

    @property
    def _saves_memory(self) -> bool:
        return bool(getattr(self._args, "enable_memory_saver", False))

    def release(self, tags: Sequence[str] | None) -> None:
        """POST /release_memory_occupation; without --enable-memory-saver only remembered."""
        ignores = self._behaviour.release_ignores_queued and self._scheduler.paused
        if not (self._scheduler.flushable if ignores else self._scheduler.idle):
            raise SchedulerError(self._behaviour.busy_release)
        wanted = self._tags(tags)
        again = [tag for tag in tags or self._everything if tag in self.released]
        if again and self._saves_memory:
            raise SchedulerExit(_RELEASED.format(tag=again[0]))
        self.released |= wanted
        if KV_CACHE in wanted:
            self._scheduler.cache.clear()
        if self._saves_memory:
            self._scheduler.unmapped = set(self.released)
        self.held.tell(self.memory)

    def resume(self, tags: Sequence[str] | None) -> None:
        """POST /resume_memory_occupation; the end of an engine that never released.

        And of one whose memory somebody else has by now.
        """
        wanted = self._tags(tags)
        for tag in tags or self._everything:
            if tag not in self.released:
                raise SchedulerError(self._behaviour.wrong_resume.format(tag=tag))
        if self.taken and self._saves_memory:
            raise SchedulerExit(_NO_MEMORY)
        self.released -= wanted
        if self._saves_memory:
            self._scheduler.unmapped = set(self.released)
            kept = bool(getattr(self._args, "enable_weights_cpu_backup", False))
            if WEIGHTS in wanted and not kept:
                self.weights.lose()
        self.held.tell(self.memory)

    @property
    def memory(self) -> int:
        """Bytes that it holds of each of its GPUs: what is only remembered as released it keeps."""
        return held.by_tags(self.released if self._saves_memory else ())

    @property
    def _everything(self) -> tuple[str, ...]:
        return self._behaviour.tags or (WEIGHTS, KV_CACHE)

    def _tags(self, tags: Sequence[str] | None) -> set[str]:
        return set(tags) if tags and self._behaviour.tags else set(self._everything)

    # --- groups

    async def init_group(self, body: dict[str, Any]) -> Outcome:
        """POST /init_weights_update_group: blocks until all ranks are there."""
        ranks = [int(body["rank_offset"]) + rank for rank in range(self._args.tp_size)]
        name = body.get("group_name", "weight_update_group")
        hello = {"group": name, "ranks": ranks, "world_size": body["world_size"]}
        joining = rendezvous.join(body["master_address"], int(body["master_port"]), hello)
        try:
            group = await asyncio.wait_for(joining, self._settings.rendezvous_seconds)
        except TimeoutError:
            return False, (
                "Failed to initialize custom process group: Timed out after "
                f"{self._settings.rendezvous_seconds:g} seconds waiting for clients."
            )
        if name in self._created:  # torch says so once all have met, and not before
            group.leave()
            return False, _GROUP_EXISTS
        self._groups[self._key(name)] = group
        self._created.add(name)
        return True, "Succeeded to initialize custom process group."

    def destroy_group(self, name: str) -> Outcome:
        """POST /destroy_weights_update_group."""
        group = self._groups.pop(name, None)
        if group is None:
            return False, "The group to be destroyed does not exist."
        group.leave()
        self._created.discard(name)
        return True, "Succeeded to destroy custom process group."

    def _key(self, name: str) -> str:
        return name if self._behaviour.many_tensors else ""  # 0.4.6 has one group

    # --- updates

    def begin(self) -> Outcome:
        """POST /begin_weight_update (from 0.5.21)."""
        if self._session:
            return False, (
                "a weight-update session is already open; call end_weight_update() first"
            )
        self._session = True
        return True, "Success"

    def end(self) -> Outcome:
        """POST /end_weight_update."""
        if not self._session:
            return False, "no weight-update session is open; call begin_weight_update() first"
        self._session = False
        return True, "Success"

    async def from_distributed(self, body: dict[str, Any]) -> Outcome:
        """POST /update_weights_from_distributed: waits for rank 0's broadcast."""
        if refusal := self._without_session("update_weights_from_distributed"):
            return refusal
        name = self._key(body.get("group_name", "weight_update_group"))
        if name not in self._groups:
            return self._unknown_group(name)
        self._need_mapped_weights()
        await self._take_time()
        received = await self._receive(self._groups[name])
        wanted = body["names"] if self._behaviour.many_tensors else [body["name"]]
        if received["names"] is not None and set(received["names"]) != set(wanted):
            error = f"broadcast of {received['names']} for {wanted}"
            return False, _PARTIAL.format(error=error)
        self.weights.update(received["names"] and wanted, received["stamp"])
        text = _ONLINE if self._behaviour.many_tensors else _one_tensor(wanted)
        return self._flushed(body, text)

    async def from_tensor(self, body: dict[str, Any]) -> Outcome:
        """POST /update_weights_from_tensor: the content came with the request."""
        if refusal := self._without_session("update_weights_from_tensor"):
            return refusal
        kind = body.get("load_format")
        known = [None, "direct"]
        known += ["flattened_bucket"] if self._behaviour.flattened_buckets else []
        known += list(getattr(self._args, "custom_weight_loader", None) or [])
        if kind not in known:
            raise SchedulerError(f"NotImplementedError: Unknown load_format={kind}")
        for serialized in body["serialized_named_tensors"][:1]:
            device = weights_module.device(str(serialized))
            if device and device not in self._settings.devices.split(","):
                raise SchedulerError(_OTHER_GPU.format(device=device))
        self._need_mapped_weights()
        await self._take_time()
        for serialized in body["serialized_named_tensors"][:1]:  # one for each rank, all the same
            self.weights.update(*weights_module.opened(str(serialized)))
        return self._flushed(body, "Success")

    async def from_disk(self, body: dict[str, Any], load_format: str) -> Outcome:
        """POST /update_weights_from_disk."""
        if load_format == "dummy":
            address = f"0x{secrets.randbits(47):x}"
            loader = f"<sglang.srt.model_loader.loader.DummyModelLoader object at {address}>"
            return False, f"Failed to get model loader: {loader}."
        path = body["model_path"]
        if self._settings.models == "strict" and not Path(path).is_dir():
            return False, (
                f"Failed to get weights iterator: Cannot find any model weights with `{path}`."
            )
        if self.unreadable:
            self.unreadable = False
            return False, "Failed to get weights iterator: [Errno 5] Input/output error."
        self._need_mapped_weights()
        await asyncio.sleep(self._settings.update_seconds + self._settings.read_seconds)
        self.weights.update(None, path)
        return self._flushed(body, "Succeeded to update model weights.")

    async def from_ipc(self, body: dict[str, Any]) -> Outcome:
        """POST /update_weights_from_ipc: the sockets of the handles stand for the content."""
        self._need_mapped_weights()
        await self._take_time()
        handles = body["zmq_handles"]
        self.weights.update(None, "ipc:" + ",".join(str(handles[key]) for key in sorted(handles)))
        return self._flushed(body, "IPC weight update completed successfully")

    async def _receive(self, group: rendezvous.Group) -> dict[str, Any]:
        """The broadcast; NCCL's watchdog ends a process whose peer does not come."""
        try:
            async with asyncio.timeout(self._settings.nccl_seconds):
                if (received := await group.receive()) is not None:
                    return received
                await asyncio.Event().wait()  # rank 0 is gone: nothing comes any more
        except TimeoutError:
            pass
        raise SchedulerError(
            "torch.distributed.DistBackendError: [Rank 1] Watchdog caught collective operation "
            "timeout: WorkNCCL(OpType=BROADCAST)"
        )

    def _without_session(self, what: str) -> Outcome | None:
        if self._behaviour.features.begin_end_weight_update and not self._session:
            return False, _NO_SESSION.format(what=what)
        return None

    def _unknown_group(self, name: str) -> Outcome:
        text = _NO_GROUP.format(name=name, known=list(self._groups))
        if not self._behaviour.many_tensors:
            text = "model update group must be initialized"
        if self._behaviour.unknown_group_kills:
            raise SchedulerError(f"AssertionError: {text}")
        return False, f"Failed to receive weights: {text}"

    def _need_mapped_weights(self) -> None:
        if WEIGHTS in self._scheduler.unmapped:
            raise SchedulerError(
                "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
            )

    async def _take_time(self) -> None:
        if self._settings.update_seconds:
            await asyncio.sleep(self._settings.update_seconds)

    def _flushed(self, body: dict[str, Any], message: str) -> Outcome:
        if not body.get("flush_cache", True) or self._scheduler.flush():
            return True, message
        if self._behaviour.failed_flush_kills:
            raise SchedulerError("AssertionError: Cache flush failed after updating weights")
        return False, _NOT_FLUSHED

    # --- the weights checker

    def check(self, action: str) -> tuple[bool, str, dict[str, str] | None]:
        """POST /weights_checker: success, message and, for checksum, all checksums."""
        if action not in self._behaviour.checker_actions:
            return False, f"Unsupported action={action!r}", None
        if action == "checksum":
            return True, "Success.", self.weights.checksums()
        if action == "snapshot":
            self.weights.snapshot()
        elif action == "reset_tensors":
            self.weights.reset()
        elif (error := self.weights.compare()) != "":
            return False, error or "", None  # an assertion without words: no snapshot
        return True, "Success.", None


def _one_tensor(names: Sequence[str]) -> str:
    return f"Succeeded to update parameter {names[0]} online."
