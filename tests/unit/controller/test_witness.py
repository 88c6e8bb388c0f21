"""kopf, as the second witness of pools: a stream that tells less than kopf hears is begun anew."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_operator.controller import witness
from sglang_operator.controller.witness import Witness


class Stream:
    """A stream of pools that has heard of everything up to a version."""

    def __init__(self, newest: int) -> None:
        self.resource = SimpleNamespace(name="sglanginferences in a")
        self.newest = newest
        self.ends = 0

    def begin_anew(self) -> bool:
        self.ends += 1
        return self.ends == 1


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(witness, "PATIENCE_SECONDS", 0.01)


def heard(stream: Any, *versions: int, then: int | None = None) -> Witness:
    """The witness after kopf heard of these versions, and the stream of one more by itself."""

    async def main() -> Witness:
        found = Witness({"a": stream}.get)
        for version in versions:
            found.heard("a", version)
        if then is not None:
            stream.newest = then
        await asyncio.sleep(0.1)
        return found

    return asyncio.run(main())


def test_a_stream_that_has_heard_as_much_is_left_alone():
    stream = Stream(7)
    assert heard(stream, 6, 7).anew == stream.ends == 0


def test_a_stream_that_is_behind_is_begun_anew_once(caplog):
    stream = Stream(7)
    assert heard(stream, 8, 12, 9).anew == stream.ends == 1
    assert "kopf has heard of version 12, this stream of none after 7" in caplog.text


def test_a_stream_that_was_only_a_moment_late_goes_on():
    stream = Stream(7)
    assert heard(stream, 8, 9, then=9).anew == stream.ends == 0


def test_one_that_is_behind_still_is_not_counted_as_begun_anew_twice():
    async def main() -> int:
        stream: Any = Stream(7)
        found = Witness({"a": stream}.get)
        for version in (8, 9):
            found.heard("a", version)
            await asyncio.sleep(0.1)
        assert stream.ends == 2
        return found.anew

    assert asyncio.run(main()) == 1


def test_of_a_namespace_that_is_not_watched_nothing_is_awaited():
    async def main() -> int:
        found = Witness(lambda namespace: None)
        found.heard("b", 8)
        await asyncio.sleep(0.05)
        return found.anew

    assert asyncio.run(main()) == 0
