"""What the operator logs, as text or as one JSON object a line.

A line that is written during a pass carries the pool it is about: the pass says so once, in a
context variable, and every task that it starts inherits it.  Specs, bodies and headers are never
logged: they may hold secrets.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

from sglang_operator.observed.wire import Meta

CONTROLLER = "sglanginference"
TEXT = "text"
JSON = "json"
_TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_about: ContextVar[Meta | None] = ContextVar("pool that is in work", default=None)


@contextmanager
def about(pool: Meta) -> Iterator[None]:
    """Lines logged in here, and by tasks started in here, are about this pool."""
    token = _about.set(pool)
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(OrjsonFormatter):
    """Keys as controller-runtime's logs have them: ``ts``, ``level``, ``logger``, ``msg``."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "message": "msg"},
        )

    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        log_data["ts"] = round(record.created, 3)
        super().add_fields(log_data, record, message_dict)
        pool = _about.get()
        if pool is not None:
            log_data["controller"] = CONTROLLER
            log_data["namespace"] = pool.namespace
            log_data["name"] = pool.name
            log_data["uid"] = pool.uid
            log_data["generation"] = pool.generation


class TextFormatter(logging.Formatter):
    """One line for each record; those of a traceback follow, and are set in.

    Others' words are in messages: a webhook's, an engine's.  None begins a line of the log.
    """

    def __init__(self) -> None:
        super().__init__(_TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _on_one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _set_in(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _set_in(super().formatStack(stack_info))


def _on_one_line(text: str) -> str:
    """With what is no printable character in writing: a terminal acts on some of these."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _set_in(lines: str) -> str:
    return "\n".join(f"  {_on_one_line(line)}" for line in lines.splitlines())


def setup(level: str, form: str) -> None:
    """Send everything from this level on to standard error, in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == JSON else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("kopf").setLevel(logging.WARNING)
