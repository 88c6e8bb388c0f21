"""A test of the contract: one coroutine, run on every target that it concerns, all at once."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from tests.contract.subject import Subject
from tests.contract.targets import ARGUMENTS, Target, targets

Test = Callable[[Subject], Awaitable[None]]


def contract(
    *,
    since: str = "0.4.6.post5",
    until: str = "",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    base: Sequence[str] = ARGUMENTS,
    ready: bool = True,
    shared: bool = False,
    fake_only: str = "",
) -> Callable[[Test], Callable[[], None]]:
    """Make a coroutine with an engine a test.

    ``since`` and ``until`` (not included) bound the versions; ``shared``: the test leaves the
    engine as it was, so that one may serve many tests; ``ready``: wait for that before the test;
    ``fake_only`` says why nothing real can be asked.
    """

    def decorate(test: Test) -> Callable[[], None]:
        # No functools.wraps: pytest would take the engine for a fixture.
        def run() -> None:
            concerned = [t for t in targets() if _concerns(t, since, until)]
            if not concerned:
                pytest.skip("not in this version")
            if concerned[0].real and fake_only:
                pytest.skip(fake_only)
            if concerned[0].url and not shared:
                pytest.skip("starts an engine of its own")
            asyncio.run(_all(concerned, one))

        async def one(target: Target) -> None:
            if shared:
                await test(await _kept(target).ready())
                return
            async with Subject(target, arguments, environment, base=base) as engine:
                await test(await engine.ready() if ready else engine)

        functools.update_wrapper(run, test, updated=())
        del run.__wrapped__  # type: ignore[attr-defined]
        return run

    return decorate


def _concerns(target: Target, since: str, until: str) -> bool:
    return target.since(since) and not (until and target.since(until))


async def _all(concerned: Sequence[Target], test: Callable[[Target], Awaitable[None]]) -> None:
    results = await asyncio.gather(*map(test, concerned), return_exceptions=True)
    failed = []
    for target, result in zip(concerned, results, strict=True):
        if isinstance(result, BaseException):
            result.add_note(f"SGLang {target.version}")
            failed.append(result)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise BaseExceptionGroup(f"{len(failed)} versions", failed)


_subjects: dict[str, Subject] = {}


def _kept(target: Target) -> Subject:
    """The engine that serves all tests that share; started anew if it has ended."""
    key = str(target.version)
    found = _subjects.get(key)
    if found is not None and found.process is not None and found.process.poll() is not None:
        found.stop()
        found = None
    if found is None:
        _subjects[key] = Subject(target, ("--enable-metrics",)).start()
    return _subjects[key]


def stop_all() -> None:
    """End the engines that were shared."""
    for subject in _subjects.values():
        subject.stop()
    _subjects.clear()
