"""Log lines: whom they are about, that nobody else is named, and that nobody else writes any."""

import asyncio
import json
import logging

import pytest

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


FORGED = "2026-11-30 04:00:00,000 ERROR sglang_operator.kube: the Lease was taken by another"


@pytest.mark.parametrize(
    "end", ["\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\x1b[2K\x1b[1G"]
)
def test_others_words_begin_no_line_of_a_text_log(end, monkeypatch, capsys):
    """A webhook's refusal is logged, and so is an error that quotes it."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    logs.setup("info", logs.TEXT)
    log = logging.getLogger("sglang_operator.test")
    try:
        raise ValueError(f"denied: no{end}{FORGED}")
    except ValueError as error:
        log.warning("rl/pool: %s; next try", error)
        log.exception("a pass failed")
    written = capsys.readouterr().err
    assert "denied: no" in written
    assert "Traceback (most recent call last):" in written
    lines = written.splitlines()
    begun = [line for line in lines if not line.startswith("  ")]
    assert [line.split()[2] for line in begun] == ["WARNING", "ERROR"]
    assert "\x1b" not in written
