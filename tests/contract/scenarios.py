"""Conversations with an engine, recorded on a real one and replayed on the fake.

Each is a list of steps and ends with what became of the process.
``python -m tests.contract.record`` writes them to tests/data/real-engine.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from sglang_operator.testing import ports
from tests.contract.subject import LONG, TOKENS, Answer, Subject
from tests.contract.targets import ARGUMENTS

Entry = dict[str, Any]

_LONGEST_BODY = 3000  # characters that are kept of an answer
NOT_GENERATING = {
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
    "SGLANG_HEALTH_CHECK_TIMEOUT": "3",
}


class Recorder:
    """Steps of one conversation, in the order of their answers."""

    def __init__(self, engine: Subject) -> None:
        self.engine = engine
        self.entries: list[Entry] = []
        self._pending: dict[str, asyncio.Task[Answer]] = {}

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> None:
        """Ask and wait."""
        asked = self.engine.call(method, path, body, **options)
        await self._record({"request": f"{method} {path}", "body": body}, asked)

    async def begin(self, name: str, method: str, path: str, body: Any) -> None:
        """Ask without waiting, and record whether it has an answer after a second."""
        task = self._pending[name] = self.engine.later(method, path, body)
        await self.still(name, request=f"{method} {path}", body=body)
        if task.done():
            await self.end(name)

    async def still(self, name: str, **more: object) -> None:
        """Record whether a request that was begun still waits."""
        if (task := self._pending.get(name)) is None:
            return
        done, _ = await asyncio.wait({task}, timeout=1)
        self.entries.append({"begun": name, **more, "waits": not done})

    async def end(self, name: str) -> None:
        """Record the answer to a request that was begun."""
        if (task := self._pending.pop(name, None)) is not None:
            async with asyncio.timeout(60):
                await self._record({"ended": name}, task)

    async def give_up(self, name: str) -> None:
        """Close the connection of a request that was begun."""
        if (task := self._pending.pop(name, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.entries.append({"given up": name})

    async def death(self, seconds: float = 25) -> None:
        """Record the exit code, or that it lives."""
        assert self.engine.process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if self.engine.target.real else min(seconds, 3)):
                while self.engine.process.poll() is None:
                    await asyncio.sleep(0.05)
        code = self.engine.process.poll()
        entry: Entry = {"exit_code": None if code is None else 128 - code if code < 0 else code}
        if code is not None:
            entry["log_ends"] = self.engine.log[-2048:]
        self.entries.append(entry)

    async def close(self) -> None:
        """Give up the requests that nobody waited for."""
        for task in self._pending.values():
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    async def _record(self, entry: Entry, answer: Awaitable[Answer]) -> None:
        try:
            found = await answer
            entry |= {"status": found.status, "seconds": round(found.seconds, 2)}
            entry["answer"] = _shortened(found.text)
        except (aiohttp.ClientConnectionError, ConnectionError):
            entry["dropped"] = True
        except TimeoutError:
            entry["no_answer"] = True
        self.entries.append({k: v for k, v in entry.items() if v is not None})


def _shortened(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text[:_LONGEST_BODY]
    return found if len(text) <= _LONGEST_BODY else _keys(found)


def _keys(found: Any) -> Any:
    """Only the shape of a long answer: keys and types."""
    if isinstance(found, dict):
        return {key: _keys(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_keys(found[0])] if found else []
    return f"({type(found).__name__})"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is asked of an engine that was started with these."""

    talk: Callable[[Recorder], Awaitable[None]]
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    base: Sequence[str] = ARGUMENTS
    awaits: str = ""  # what it takes to record it, where that was not done yet
    alone: bool = False  # as the first process of a namespace of its own, as in a container


_SLEEP: tuple[str, str, Any] = ("POST", "/release_memory_occupation", {})
_WAKE: tuple[str, str, Any] = ("POST", "/resume_memory_occupation", {})
_PAUSE = ("POST", "/pause_generation", {"mode": "abort"})
_GO_ON: tuple[str, str, Any] = ("POST", "/continue_generation", {})


async def _information(say: Recorder) -> None:
    for path in (
        "/health",
        "/health_generate",
        "/ready",
        "/ping",
        "/no_such_path",
        "/model_info",
        "/get_model_info",
        "/server_info",
        "/get_weight_version",
        "/get_load",
        "/v1/loads",
        "/v1/models",
        "/metrics",
    ):
        await say("GET", path)
    await say("POST", "/generate", TOKENS)
    await say("POST", "/generate", {**TOKENS, "sampling_params": {"max_new_tokens": 2, "n": 2}})
    await say("POST", "/generate", {"text": "hello"})
    await say("POST", "/generate", {})
    await say("GET", "/generate")
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    await say("POST", "/v1/chat/completions", chat)
    await say("POST", "/v1/completions", {"model": "m", "prompt": "hello", "max_tokens": 2})
    await say("POST", "/update_weights_from_disk", {})
    await say("POST", "/pause_generation")
    await say("POST", "/release_memory_occupation")
    await say("POST", "/update_weight_version", {"new_version": "step-7"})
    await say("POST", "/update_weights_from_disk", {"model_path": "/missing"})
    await say(
        "POST", "/update_weights_from_disk", {"model_path": "/missing", "load_format": "auto"}
    )
    await say("POST", "/destroy_weights_update_group", {"group_name": "g"})
    await say("POST", "/get_weights_by_name", {"name": "lm_head.weight"})
    await say("POST", "/weights_checker", {"action": "nonsense"})
    await say("POST", "/weights_checker", {"action": "compare"})
    await say("POST", "/weights_checker", {"action": "checksum"})
    await say("POST", "/flush_cache")
    await say("POST", "/abort_request", {"rid": "unknown"})
    await say("GET", "/model_info")


async def _sleep_in_a_pause(say: Recorder) -> None:
    """A request that comes while an engine is paused and asleep."""
    await say(*_PAUSE)
    await say(*_SLEEP)
    await say("GET", "/health")
    await say.begin("while asleep", "POST", "/generate", TOKENS)
    await say("GET", "/health_generate")
    await say(*_WAKE)
    await say.still("while asleep")
    await say("POST", "/update_weight_version", {"new_version": "s", "abort_all_requests": False})
    await say(*_GO_ON)
    await say.end("while asleep")
    await say("POST", "/generate", TOKENS)
    await say("GET", "/health_generate")
    await say.death(1)


async def _given_up_asleep(say: Recorder) -> None:
    """A client that does not wait until the engine it asked is awake again."""
    await say(*_PAUSE)
    await say(*_SLEEP)
    await say.begin("while asleep", "POST", "/generate", TOKENS)
    await say.give_up("while asleep")
    await say("GET", "/health")
    await say(*_WAKE)
    await say(*_GO_ON)
    await say("POST", "/generate", TOKENS)
    await say.death(1)


async def _wake_without_memory(say: Recorder) -> None:
    """Somebody else on the GPU has what was released when the engine is to take it again."""
    await say(*_PAUSE)
    await say(*_SLEEP)
    with take_memory():
        await say(*_WAKE)
        await say.death()


async def _wake_after_the_pause(say: Recorder) -> None:
    """The wrong order: the pause ends while the engine is asleep, with a request waiting."""
    await say(*_PAUSE)
    await say(*_SLEEP)
    await say.begin("while asleep", "POST", "/generate", TOKENS)
    await say(*_GO_ON)
    await say.end("while asleep")
    await say.death()


async def _weights_only(say: Recorder) -> None:
    """A request while only the weights are back."""
    await say(*_SLEEP)
    await say("POST", "/resume_memory_occupation", {"tags": ["weights"]})
    await say("POST", "/generate", TOKENS)
    await say.death()


async def _release_twice(say: Recorder) -> None:
    await say(*_SLEEP)
    await say(*_SLEEP)
    await say.death(8)
    await say(*_WAKE)
    await say("POST", "/generate", TOKENS)
    await say.death(8)


async def _request_while_asleep(say: Recorder) -> None:
    await say(*_SLEEP)
    await say("POST", "/generate", TOKENS)
    await say.death()


async def _wrong_resume(say: Recorder) -> None:
    await say("POST", "/resume_memory_occupation", {})
    await say.death()


async def _busy_release(say: Recorder) -> None:
    await say.begin("long", "POST", "/generate", LONG)
    await say(*_SLEEP)
    await say.death()


async def _unknown_group(say: Recorder) -> None:
    body = {"names": ["lm_head.weight"], "dtypes": ["bfloat16"], "shapes": [[32000, 512]]}
    await say("POST", "/update_weights_from_distributed", {**body, "group_name": "nobody"})
    await say.death()


async def _group_that_never_comes(say: Recorder) -> None:
    """The rendezvous blocks the scheduler, not the HTTP server."""
    group = {"master_address": "127.0.0.1", "master_port": ports.free(), "rank_offset": 1}
    await say.begin(
        "group", "POST", "/init_weights_update_group", {**group, "world_size": 2, "backend": "gloo"}
    )
    await say.begin("generate", "POST", "/generate", TOKENS)
    await say("GET", "/model_info")
    await say("GET", "/health")
    await say("GET", "/server_info", seconds=2)
    await say("GET", "/v1/loads", seconds=2)
    await say("POST", "/flush_cache", seconds=2)
    await say.still("generate")
    await say.death(1)


async def _kept_alive(say: Recorder) -> None:
    """One connection for all: a request in a pause, and one after the keep-alive time."""
    await say(*_PAUSE)
    url = say.engine.url
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        async with session.get(url + "/model_info") as response:
            await response.read()
            say.entries.append({"kept alive": "GET /model_info", "status": response.status})
        task = asyncio.create_task(_post(session, url + "/generate", TOKENS))
        beyond = 7 if say.engine.target.real else 0.5  # real ones close after 5 s
        done, _ = await asyncio.wait({task}, timeout=beyond)
        say.entries.append({"kept alive": "POST /generate", "waits": not done})
        await say(*_GO_ON)
        say.entries.append({"kept alive": "POST /generate", "status": await task})
        await asyncio.sleep(beyond)
        status = await _post(session, url + "/generate", TOKENS)
        say.entries.append({"kept alive": "POST /generate after 7 s", "status": status})
    await say.death(1)


async def _post(session: aiohttp.ClientSession, url: str, body: Any) -> Any:
    try:
        async with session.post(url, json=body) as response:
            await response.read()
            return response.status
    except aiohttp.ClientConnectionError as error:
        return type(error).__name__


async def _held_update(say: Recorder) -> None:
    """An update that flushes the cache while requests are held in place."""
    await say.begin("long", "POST", "/generate", LONG)
    await say("POST", "/pause_generation", {"mode": "in_place"})
    await say.still("long")
    await say("POST", "/flush_cache", seconds=20)
    await say("GET", "/v1/loads", seconds=5)
    await say("POST", "/update_weights_from_tensor", tensors("lm_head.weight", 1.0), seconds=20)
    await say.death(10)


async def _buckets(say: Recorder) -> None:
    """Updates from tensors: the version and the checksum of what was sent change."""
    await say("POST", "/weights_checker", {"action": "snapshot"})
    bucket = tensors("lm_head.weight", 0.5)
    await say("POST", "/update_weights_from_tensor", {**bucket, "weight_version": "b-1"})
    await say("GET", "/model_info")
    await say("POST", "/weights_checker", {"action": "compare"})
    await say("POST", "/generate", TOKENS)
    await say("POST", "/update_weights_from_tensor", {**bucket, "load_format": "nonsense"})
    await say.death()


async def _drain(say: Recorder) -> None:
    """SIGTERM with a request that waits for the end of a pause."""
    await say(*_PAUSE)
    await say.begin("waiting", "POST", "/generate", TOKENS)
    say.engine.signal(15)
    await asyncio.sleep(1)
    await say("GET", "/health")
    await say.death(15)
    await say(*_GO_ON)
    await say.end("waiting")
    await say.death()


async def _group(say: Recorder) -> None:
    """Two buckets by a group, and what is left of it afterwards."""
    await say("POST", "/weights_checker", {"action": "snapshot"})
    loop = asyncio.get_running_loop()
    with make_trainer() as trainer:
        where = {"master_address": "127.0.0.1", "master_port": trainer.port, "group_name": "g"}
        ranks = {"rank_offset": 1, "world_size": 2, "backend": "gloo"}
        await say.begin("group", "POST", "/init_weights_update_group", {**where, **ranks})
        await loop.run_in_executor(None, trainer.wait, 60)
        await say.end("group")
        for name, version in (("model.norm.weight", "v-1"), ("lm_head.weight", "v-2")):
            shape = [32000, 512] if name == "lm_head.weight" else [512]
            body = {"names": [name], "dtypes": ["bfloat16"], "shapes": [shape], "group_name": "g"}
            sent = loop.run_in_executor(None, trainer.broadcast, [name], "0.25")
            await say(
                "POST", "/update_weights_from_distributed", {**body, "weight_version": version}
            )
            await sent
            await say("GET", "/model_info")
        await say("POST", "/weights_checker", {"action": "compare"})
        await say("POST", "/generate", TOKENS)
        await say("POST", "/destroy_weights_update_group", {"group_name": "g"})
        await say("POST", "/destroy_weights_update_group", {"group_name": "g"})
    await say.death(1)


async def _group_twice(say: Recorder) -> None:
    """A second trainer with the name of one that is gone: refused once both have met."""
    loop = asyncio.get_running_loop()
    for taken in (False, True, False):
        with make_trainer() as trainer:
            where = {"master_address": "127.0.0.1", "master_port": trainer.port, "group_name": "g"}
            ranks = {"rank_offset": 1, "world_size": 2, "backend": "gloo"}
            await say.begin("group", "POST", "/init_weights_update_group", {**where, **ranks})
            if not taken:
                await loop.run_in_executor(None, trainer.wait, 60)
            await say.end("group")
        if taken:  # its peer is gone
            await say("POST", "/destroy_weights_update_group", {"group_name": "g"})
    await say("POST", "/generate", TOKENS)
    await say.death(1)


async def _handle_of_another_gpu(say: Recorder) -> None:
    """A bucket in the memory of a GPU that the engine does not see; then one of its own."""
    await say("POST", "/update_weights_from_tensor", tensors("lm_head.weight", 0.5))
    body = tensors("lm_head.weight", 0.5) | {
        "serialized_named_tensors": [serialize_elsewhere("lm_head.weight", 0.5)]
    }
    await say("POST", "/update_weights_from_tensor", body)
    await say.death()


async def _idle_end(say: Recorder) -> None:
    """SIGTERM without a request."""
    say.engine.signal(15)
    await asyncio.sleep(0.3)
    await say("GET", "/health")
    await say.death()


def tensors(name: str, value: float) -> dict[str, Any]:
    """The body of /update_weights_from_tensor for one tensor, as a trainer on the GPU sends it.

    Set by whoever can make it (``record`` on a GPU); for the fake a bucket of its own.
    """
    return {"serialized_named_tensors": [serialize(name, value)], "flush_cache": True}


def _fake_bucket(name: str, value: float) -> str:
    from sglang_operator.testing.engine import weights

    return weights.bucket([name], str(value))


serialize: Callable[[str, float], str] = _fake_bucket


def _fake_bucket_elsewhere(name: str, value: float) -> str:
    from sglang_operator.testing.engine import weights

    return weights.bucket([name], str(value), device="GPU-of-the-trainer")


serialize_elsewhere: Callable[[str, float], str] = _fake_bucket_elsewhere


def _fake_trainer() -> Any:
    from sglang_operator.testing.engine import rendezvous

    return rendezvous.Trainer(2)


make_trainer: Callable[[], Any] = _fake_trainer
# All that is free on the GPU, taken; of the fake it is the scenario's settings that say so.
take_memory: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


SCENARIOS: Mapping[str, Scenario] = {
    "information": Scenario(talk=_information, arguments=["--enable-metrics"]),
    "sleep-in-a-pause": Scenario(talk=_sleep_in_a_pause, environment=NOT_GENERATING),
    "given-up-asleep": Scenario(talk=_given_up_asleep, environment=NOT_GENERATING),
    "wake-without-memory": Scenario(
        talk=_wake_without_memory, environment={"FAKE_SGLANG_TAKEN": "1"}
    ),
    "wake-after-the-pause": Scenario(talk=_wake_after_the_pause),
    "weights-only": Scenario(talk=_weights_only),
    "release-twice": Scenario(talk=_release_twice),
    "request-while-asleep": Scenario(talk=_request_while_asleep),
    "wrong-resume": Scenario(talk=_wrong_resume),
    "busy-release": Scenario(talk=_busy_release),
    "unknown-group": Scenario(talk=_unknown_group),
    "group-that-never-comes": Scenario(talk=_group_that_never_comes, environment=NOT_GENERATING),
    "kept-alive": Scenario(talk=_kept_alive),
    "held-update": Scenario(talk=_held_update),
    "buckets": Scenario(talk=_buckets),
    "group": Scenario(talk=_group),
    # What these two show was measured on SGLang 0.5.14, by other means than a recording.
    "group-twice": Scenario(talk=_group_twice, awaits="a GPU"),
    "handle-of-another-gpu": Scenario(
        talk=_handle_of_another_gpu,
        environment={"CUDA_VISIBLE_DEVICES": "0"},
        awaits="two GPUs, of which the engine sees the first",
    ),
    "first-process": Scenario(talk=_request_while_asleep, alone=True),
    "drain-in-a-pause": Scenario(talk=_drain),
    "idle-end": Scenario(talk=_idle_end),
}
