"""POST /generate: one request, several samples, streams, and what an answer says."""

import asyncio
import json
import socket
import time
import uuid
from typing import Any

from aiohttp import web

from sglang_operator.testing.engine import bodies
from sglang_operator.testing.engine.behaviour import Behaviour
from sglang_operator.testing.engine.manager import Manager
from sglang_operator.testing.engine.scheduler import Request
from sglang_operator.testing.engine.weights import STALE

_LOOK_SECONDS = 1.0  # how often a client that has gone is noticed
_NO_TOKENIZER = (
    "The engine initialized with skip_tokenizer_init=True cannot accept text prompts. Please "
    "provide input_ids or re-initialize the engine with skip_tokenizer_init=False."
)
_FORMS = ("json_schema", "regex", "ebnf", "structural_tag")
_NO_PROMPT = "Either text, input_ids or input_embeds should be provided."


class Generation:
    """Answers to /generate."""

    def __init__(self, manager: Manager, behaviour: Behaviour) -> None:
        self._manager = manager
        self._behaviour = behaviour
        self._text = not getattr(manager.args, "skip_tokenizer_init", False)

    async def generate(self, http: web.Request) -> web.StreamResponse:
        """POST or PUT /generate."""
        body = await bodies.read(http, self._behaviour)
        if problem := self._problem(body):
            return bodies.refused(problem)
        requests = self._requests(body)
        first = _prompt_of(body, requests)
        begun = time.monotonic()
        if body.get("stream"):
            return await self._stream(http, requests, first, begun)
        async with self._manager.admitted(requests, first):
            for request in requests:
                if not await self._finished(http, request):
                    return bodies.refused("Request is disconnected from the client side.")
            logprobs = bool(body.get("return_logprob"))
            answers = [self._answer(request, begun, logprobs) for request in requests]
        single = not _batched(body) and len(answers) == 1
        return web.json_response(answers[0] if single else answers)

    def _problem(self, body: dict[str, Any]) -> str:
        if body.get("text") is not None and not self._text:
            return _NO_TOKENIZER
        return _NO_PROMPT if body.get("text") is None and body.get("input_ids") is None else ""

    def _requests(self, body: dict[str, Any]) -> list[Request]:
        prompts = _prompts(body)
        sampling = _sampling(body)
        samples = [prompt for prompt in prompts for _ in range(_samples(body))]
        loop = asyncio.get_running_loop()
        ids = _ids(body, len(samples))
        return [
            Request(
                rid=ids[i],
                prompt=prompt,
                max_new_tokens=int(sampling.get("max_new_tokens", 128)),
                finished=loop.create_future(),
                grammar=any(sampling.get(form) for form in _FORMS),
            )
            for i, prompt in enumerate(samples)
        ]

    async def _finished(self, http: web.Request, request: Request) -> bool:
        """Wait for the end; false if the client has gone, with which the request is aborted."""
        while not request.finished.done():
            await asyncio.wait({request.finished}, timeout=_LOOK_SECONDS)
            if http.transport is None or http.transport.is_closing():
                self._manager.abort(request.rid, everything=False)
                return False
        return True

    async def _stream(
        self, http: web.Request, requests: list[Request], first: Request | None, begun: float
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        try:
            async with self._manager.admitted(requests, first):
                for index, request in enumerate(requests):
                    await self._events(response, request, index if len(requests) > 1 else -1, begun)
            await response.write(b"data: [DONE]\n\n")
        except ConnectionError:
            for request in requests:
                self._manager.scheduler.abort(request.rid, everything=False)
        return response

    async def _events(
        self, response: web.StreamResponse, request: Request, index: int, begun: float
    ) -> None:
        sent = -1
        while sent < request.generated or not request.finished.done():
            await request.progress.wait()
            request.progress.clear()
            if request.generated == sent and not request.finished.done():
                continue
            sent = request.generated
            answer = self._answer(request, begun)
            if index >= 0:
                answer["index"] = index
            await response.write(b"data: " + json.dumps(answer).encode() + b"\n\n")
            if request.finished.done():
                return

    def _answer(self, request: Request, begun: float, logprobs: bool = False) -> dict[str, Any]:
        weights = dict(request.weights)
        if request.stale:
            weights["state"] = STALE
        ids = request.output_ids(weights["checksum"] + (STALE if request.stale else ""))
        meta: dict[str, Any] = {
            "id": request.rid,
            "finish_reason": request.finished.result() if request.finished.done() else None,
            "prompt_tokens": len(request.prompt),
        }
        if self._behaviour.features.weight_version_flag:
            meta["weight_version"] = self._manager.weight_version
        if self._behaviour.retractions:
            meta[self._behaviour.retractions] = request.retractions
        if logprobs:  # of no prompt token, as long as logprob_start_len is not given
            meta["input_token_logprobs"] = []
            meta["output_token_logprobs"] = [[_logprob(i), i, None] for i in ids]
        meta |= {
            "completion_tokens": len(ids),
            "cached_tokens": request.cached_tokens,
            "e2e_latency": time.monotonic() - begun,
        }
        text = {"text": "".join(f" t{i}" for i in ids)} if self._text else {}
        told = {**weights, "host": socket.gethostname()}
        return {**text, "output_ids": ids, "meta_info": meta, "fake_weights": told}


def _logprob(token: int) -> float:
    """That of a token: the same whenever it is asked for, and between -1 and 0."""
    return -(token % 997) / 997


def _sampling(body: dict[str, Any]) -> dict[str, Any]:
    sampling = body.get("sampling_params") or {}
    if isinstance(sampling, list):
        return sampling[0] if sampling else {}
    return sampling if isinstance(sampling, dict) else {}


def _samples(body: dict[str, Any]) -> int:
    return int(_sampling(body).get("n", 1))


def _ids(body: dict[str, Any], count: int) -> list[str]:
    """What each request is called.  Several samples of a prompt get names of their own, which no
    client knows (tokenizer_manager.py, regenerate_rid)."""
    given = body.get("rid")
    if isinstance(given, str) and given and _batched(body):
        given = [f"{given}_{i}" for i in range(count)]
    names = [given] if isinstance(given, str) else list(given or [])
    if _samples(body) > 1:
        names = []
    return [names[i] if i < len(names) and names[i] else uuid.uuid4().hex for i in range(count)]


def _prompt_of(body: dict[str, Any], requests: list[Request]) -> Request | None:
    """What is sent first where there are several samples: their prompt alone."""
    if _samples(body) == 1 or not requests:
        return None
    return Request(
        rid=uuid.uuid4().hex,
        prompt=requests[0].prompt,
        max_new_tokens=0,
        finished=asyncio.get_running_loop().create_future(),
    )


def _batched(body: dict[str, Any]) -> bool:
    ids = body.get("input_ids")
    return isinstance(body.get("text"), list) or bool(ids and isinstance(ids[0], list))


def _prompts(body: dict[str, Any]) -> list[tuple[int, ...]]:
    if (ids := body.get("input_ids")) is not None:
        rows = ids if ids and isinstance(ids[0], list) else [ids]
        return [tuple(map(int, row)) for row in rows]
    texts = body["text"] if isinstance(body["text"], list) else [body["text"]]
    return [tuple(text.encode()) or (0,) for text in texts]
