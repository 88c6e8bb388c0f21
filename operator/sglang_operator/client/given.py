"""What a trainer gives, checked before anything is taken: the one place.

A version goes into annotations, a condition and every engine; a name into the path of a request.
What does not fit there fails half-way through a sync, in somebody else's words.
"""

import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping

from sglang_operator.api import bounds
from sglang_operator.client import texts
from sglang_operator.client.errors import InvalidArgument
from sglang_operator.weights import turn

MAX_DURATION = float(7 * 86_400)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_MAX_NAME = 253


def version(value: object, argument: str = "version") -> str:
    """A version as text; a step that trainers count is written as such."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return text(str(int(value)) if whole else value, argument)  # type: ignore[call-overload]


def text(value: object, argument: str, *, most: int = bounds.MAX_LABEL) -> str:
    """A line of text that is not empty.  Raises InvalidArgument."""
    if not isinstance(value, str):
        raise _wrong(argument, value, texts.EXPECTED_TEXT)
    if not value.strip():
        raise _wrong(argument, value, texts.EXPECTED_NOT_EMPTY)
    if not value.isprintable():
        raise _wrong(argument, value, texts.EXPECTED_PRINTABLE)
    if len(value) > most:
        raise _wrong(argument, value, texts.EXPECTED_SHORT.format(most=most, length=len(value)))
    return str(value)


def path(value: object, argument: str = "path") -> str:
    """A path, or the name of a model.  Raises InvalidArgument."""
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    return text(plain, argument, most=bounds.MAX_PATH)


def checkpoint(value: object) -> str:
    """A path, or nothing where there is no checkpoint.  Raises InvalidArgument."""
    return "" if isinstance(value, str) and value == "" else path(value, "checkpoint")


def name(value: object, argument: str) -> str:
    """The name of an object of Kubernetes.  Raises InvalidArgument."""
    found = text(value, argument, most=_MAX_NAME)
    if not _NAME.fullmatch(found):
        raise _wrong(argument, value, texts.EXPECTED_NAME)
    return found


def key(value: object, argument: str) -> str | None:
    """A key, or nothing.  Never shown.  Raises InvalidArgument."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise InvalidArgument(texts.WRONG_KEY.format(argument=argument, kind=type(value).__name__))
    return value


def tags(value: object, argument: str = "tags") -> tuple[str, ...]:
    """SGLang's memory tags, as a list or the like.  Raises InvalidArgument."""
    found = _each(value, argument, texts.EXPECTED_TAGS)
    if not found:
        raise _wrong(argument, value, texts.EXPECTED_TAGS)
    return found


def devices(value: object, argument: str = "devices") -> frozenset[int]:
    """GPU ids as ``device_mapping`` counts them, a range or the like.  Raises InvalidArgument.

    None that the Lease could not tell: read there, it would stand for all GPUs (``weights.turn``).
    """
    found: tuple[object, ...] = ()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        found = tuple(value)
    ids = [each for each in found if type(each) is int and 0 <= each < turn.MOST_ID]
    if not found or len(ids) < len(found):
        raise _wrong(argument, value, texts.EXPECTED_DEVICES)
    return frozenset(ids)


def groups(value: object, argument: str = "groups") -> tuple[str, ...]:
    """Names of process groups, as a list or the like, maybe none.  Raises InvalidArgument."""
    return _each(value, argument, texts.EXPECTED_GROUPS)


def _each(value: object, argument: str, expected: str) -> tuple[str, ...]:
    # A text is a list of letters to Python, and a mapping one of its keys.
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _wrong(argument, value, expected)
    found = (text(each, f"{argument}[{index}]") for index, each in enumerate(value))
    return tuple(dict.fromkeys(found))


def optional(check: Callable[[object, str], str], value: object, argument: str) -> str | None:
    """What may be left out, but is nothing else then."""
    return None if value is None else check(value, argument)


def seconds(value: object, argument: str, *, above: float = -1.0, most: float = math.inf) -> float:
    """A span of time.  Raises InvalidArgument."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    found = float(value) if fits else math.nan  # type: ignore[arg-type]
    if not (found >= 0 and above < found <= most):
        least = texts.EXPECTED_ABOVE.format(above=above) if above >= 0 else ""
        limit = texts.EXPECTED_AT_MOST.format(most=most) if most < math.inf else ""
        raise _wrong(argument, value, texts.EXPECTED_SECONDS + least + limit)
    return found


def port(value: object, argument: str) -> int:
    """A TCP port.  Raises InvalidArgument."""
    found: int
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    found = int(value) if whole else 0  # type: ignore[call-overload]
    if not 0 < found < 65_536:
        raise _wrong(argument, value, texts.EXPECTED_PORT)
    return found


def _wrong(argument: str, value: object, expected: str) -> InvalidArgument:
    found = repr(value)
    found = found if len(found) <= 80 else f"{found[:77]}..."
    kind = type(value).__name__
    return InvalidArgument(
        texts.WRONG_ARGUMENT.format(argument=argument, found=found, kind=kind, expected=expected)
    )
