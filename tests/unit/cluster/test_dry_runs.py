"""Pods are tried in their namespace's turn."""

import asyncio
import time
from typing import Any

import orjson
import pytest

from sglang_operator.cluster.dry_runs import UNKNOWN, DryRuns
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.cluster.writer import Writer
from sglang_operator.kube.client import Lane
from sglang_operator.kube.errors import ApiError
from sglang_operator.kube.window import LIMIT, SLOW_OF_ONE


class Client:
    """Dry runs in one namespace never end."""

    def __init__(self) -> None:
        self.hanging = 0

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        if "/hangs/" in path:
            self.hanging += 1
            await asyncio.Event().wait()
        return b'{"metadata": {"name": "p", "uid": "uid-p", "resourceVersion": "1"}}'


def test_tries_that_hang_are_their_namespaces_own_burden():
    """They took every connection: writes of all other pools waited half a minute."""

    async def story() -> int:
        client = Client()
        writer = Writer(client, Lane.WORK)  # type: ignore[arg-type]
        trials = DryRuns(client, writer)  # type: ignore[arg-type]
        tried = [asyncio.create_task(trials.pod(PoolKey("hangs", f"p{n}"), {})) for n in range(300)]
        await asyncio.sleep(0.7)  # they have given way
        async with asyncio.timeout(2):
            assert await trials.pod(PoolKey("well", "p"), {}) is None
            await writer.send("PATCH", "well", "/namespaces/well/x", {}, "", {})
        for task in tried:
            task.cancel()
        await asyncio.gather(*tried, return_exceptions=True)
        return client.hanging

    assert asyncio.run(story()) <= LIMIT + SLOW_OF_ONE


class Refusing:
    """It says of each pod what a policy would; the pod that stands is another."""

    def __init__(self, of_the_new: str, of_what_stands: str) -> None:
        self.words = [of_the_new, of_what_stands]

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        if method == "GET":
            return orjson.dumps({"metadata": {}, "spec": {}})
        text = f'admission webhook "a" denied the request: {self.words.pop(0)}'
        raise ApiError(403, "Forbidden", text, None)


def tried(of_the_new: str, of_what_stands: str) -> object:
    """What is known of a pod that is refused in these words, as the one that stands is."""
    client = Refusing(of_the_new, of_what_stands)
    trials = DryRuns(client, Writer(client, Lane.WORK))  # type: ignore[arg-type]
    return asyncio.run(trials.pod(PoolKey("rl", "pool"), {"metadata": {"name": "new"}}, "old"))


@pytest.mark.parametrize(
    "quoted",
    ["1" * 65536 + "x", "1." * 32768 + "x", "1.1" * 20000 + "m" * 9, "1k" * 32768 + "_"],
    ids=["digits", "dots", "decimals", "units"],
)
def test_what_a_policy_quotes_of_a_pod_is_looked_through_in_no_time(quoted):
    """A run of digits before a letter took minutes, in one step of the loop."""
    begun = time.process_time()
    assert tried(quoted, quoted) is UNKNOWN
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("new", "stands", "alike"),
    [
        ("4 more GPUs than 2.5 of 8", "2 more GPUs than 10 of 8", True),
        ("at most 16Gi, not 512m", "at most 8k, not 1", True),
        ("no pool-7", "no pool-19", True),
        ("no image 7b here", "no image 19b here", False),
        ("no seed", "no more pods", False),
    ],
)
def test_words_are_alike_but_for_the_numbers_in_them(new, stands, alike):
    assert (tried(new, stands) is UNKNOWN) is alike
