"""Clients that ask an engine all the while, and a judge of what they were answered."""

import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_operator.testing.gpu import model

SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, or why there is none."""

    status: int  # 0: the connection gave none
    seconds: float
    prompt: Sequence[int] = ()
    tokens: Sequence[int] = ()
    label: str | None = None
    reason: str = ""  # why the engine ended it
    text: str = ""


def request(url: str, prompt: Sequence[int], count: int) -> Reply:
    """Ask for so many tokens."""
    sampling = {"max_new_tokens": count, "temperature": 0, "ignore_eos": True}
    body = json.dumps({"input_ids": list(prompt), "sampling_params": sampling}).encode()
    sent = urllib.request.Request(
        f"{url}/generate", body, {"Content-Type": "application/json"}, method="POST"
    )
    begun = time.monotonic()
    try:
        with urllib.request.urlopen(sent, timeout=SECONDS) as answer:
            status, text = int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode(errors="replace")[:300]
    except OSError as error:
        status, text = 0, repr(error)[:300]
    seconds = time.monotonic() - begun
    if status != 200:
        return Reply(status=status, seconds=seconds, prompt=prompt, text=text)
    said = json.loads(text)
    meta: dict[str, Any] = said.get("meta_info", {})
    reason = meta.get("finish_reason")
    return Reply(
        status=status,
        seconds=seconds,
        prompt=prompt,
        tokens=said.get("output_ids") or (),
        label=meta.get("weight_version"),
        reason=str(reason.get("type", "")) if isinstance(reason, dict) else str(reason or ""),
    )


def together(calls: Iterable[Callable[[], Reply]]) -> list[Reply]:
    """All at once, each in a thread of its own (which has the network of this one)."""
    replies: list[Reply] = []

    def one(call: Callable[[], Reply]) -> None:
        replies.append(call())

    threads = [threading.Thread(target=one, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


class Clients:
    """Some that ask one after the other until the context ends."""

    def __init__(self, url: str, count: int, tokens: int) -> None:
        self._url = url
        self._tokens = tokens
        self._over = threading.Event()
        self.replies: list[Reply] = []
        self._threads = [threading.Thread(target=self._ask, args=[n]) for n in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        for turn in itertools.count():
            if self._over.is_set():
                return
            prompt = [2 + number, 3 + turn % 100, 5 + 7 * number]
            reply = request(self._url, prompt, self._tokens)
            self.replies.append(reply)
            if reply.status != 200:
                time.sleep(0.1)


def torn(reply: Reply, *, known: bool) -> str | None:
    """What is wrong with an answer: tokens of another step than the label's, or of two.

    ``known``: the tokens are those of the kit's own model, which tells its step by them.
    """
    if reply.status != 200 or not reply.tokens:
        return None
    if not (reply.label or "").startswith("step-"):
        return f"the label is {reply.label!r}"
    if not known:
        return None
    chain = [reply.prompt[-1], *reply.tokens]
    steps = {(after - before) % model.VOCABULARY for before, after in itertools.pairwise(chain)}
    expected = {int(str(reply.label).split("-")[1])}
    if steps != expected:
        return f"{reply.label}, with the tokens of the steps {sorted(steps)}"
    return None
