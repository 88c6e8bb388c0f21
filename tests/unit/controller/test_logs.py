"""Log lines as JSON: whom they are about, and that nobody else is named."""

import asyncio
import json
import logging

from sglang_operator.controller import logs
from sglang_operator.observed.wire import Meta

POOL = Meta(namespace="rl", name="actor-infer", uid="u-1", generation=3)
OTHER = Meta(namespace="rl", name="judge", uid="u-2", generation=1)
ABOUT = ("controller", "namespace", "name", "uid", "generation")


def _line(
    message: str, *arguments: object, error: BaseException | None = None
) -> dict[str, object]:
    record = logging.LogRecord(
        "sglang_operator.test",
        logging.WARNING,
        "file.py",
        1,
        message,
        arguments,
        (type(error), error, error.__traceback__) if error else None,
    )
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    line: dict[str, object] = json.loads(text)
    return line


def test_a_line_has_the_keys_of_controller_runtime():
    line = _line("%d pools", 3)
    assert line["level"] == "WARNING"
    assert line["logger"] == "sglang_operator.test"
    assert line["msg"] == "3 pools"
    assert isinstance(line["ts"], float)
    assert not {*ABOUT} & {*line}


def test_a_line_in_a_pass_is_about_its_pool():
    with logs.about(POOL):
        line = _line("x")
    assert [line[key] for key in ABOUT] == ["sglanginference", "rl", "actor-infer", "u-1", 3]
    assert "namespace" not in _line("x")


def test_tasks_inherit_the_pool_and_passes_do_not_mix():
    async def a_pass(pool: Meta) -> dict[str, object]:
        with logs.about(pool):
            await asyncio.sleep(0)
            task = asyncio.create_task(asyncio.to_thread(_line, "x"))
        return await task

    async def both() -> list[dict[str, object]]:
        return list(await asyncio.gather(a_pass(POOL), a_pass(OTHER)))

    assert [line["name"] for line in asyncio.run(both())] == ["actor-infer", "judge"]


def test_an_exception_stays_on_the_line():
    try:
        raise ValueError("no\nway")
    except ValueError as error:
        line = _line("x", error=error)
    assert "ValueError" in str(line["exc_info"])
