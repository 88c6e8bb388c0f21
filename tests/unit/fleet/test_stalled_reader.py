"""A recovery's load, at an engine one of whose clients has stopped to read its answer.

SGLang keeps back an update until no request is under way; one that nobody reads stays so after it
was ended.  A load that waits for it would be done after the operator is gone, over a later commit.
"""

import asyncio
import contextlib
import json
import socket
import time

from sglang_operator.fleet.client import EngineClient
from sglang_operator.testing.engine.process import FakeEngine

PROMPT = {
    "input_ids": list(range(60)),
    "stream": True,
    "return_logprob": True,
    "sampling_params": {"max_new_tokens": 200_000},
}
STORY = 60.0


@contextlib.contextmanager
def a_client_that_reads_nothing(url: str):
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect((host, int(port)))
        body = json.dumps(PROMPT).encode()
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        made.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        yield


async def load(url: str, pause: str, seconds: float) -> bool:
    """Whether a load is done within this time."""
    async with EngineClient(user_agent="operator") as client:
        loads = client.update_weights_from_disk(
            url, path="/ckpt/step-1", version="step-1", pause=pause, allowed=lambda: True
        )
        try:
            await asyncio.wait_for(loads, seconds)
        except TimeoutError:
            return False
        return True


def test_a_load_does_not_wait_for_a_client_that_reads_nothing():
    with FakeEngine([], version="0.5.14", load_seconds=0, token_seconds=0.00005) as engine:
        engine.wait_ready()
        with a_client_that_reads_nothing(engine.url):
            time.sleep(0.5)
            assert not asyncio.run(load(engine.url, "", 3.0)), "nobody paused it"
            assert asyncio.run(load(engine.url, "retract", STORY))
