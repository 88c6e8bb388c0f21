"""How large an object may be before anybody looks at what it says.

The definition bounds single fields; these bound the whole, so that the work for one object has
an end (etcd takes objects of 1.5 MB, nested as deep as anybody likes).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import errors

MAX_DEPTH = 64
MAX_KEYS = 1024  # of one map; SGLang has some 500 arguments
MAX_ITEMS = 4096  # of one list
MAX_VALUES = 10_000  # of all maps and lists together
MAX_TEXT = 128 * 1024  # Linux takes no argument and no variable that is longer
MAX_CHARACTERS = 512 * 1024  # of all texts together
MAX_NAMESPACE = 32 * 2**20  # bytes of memory, of all pools of a namespace together
CROWDED = "older pools of its namespace take the room"  # the reason of one that is not kept whole
SPEC = "its spec "  # how the reason begins for which a spec was not even kept
_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


def problem(spec: Mapping[str, Any]) -> errors.Problem | None:
    """What is too large about it, if anything."""
    found = excess(spec)
    return None if found is None else _refused(found)


def _refused(found: str) -> errors.Problem:
    expected = f"at most {MAX_DEPTH}" if found == _DEEP else "at most that"
    advice = "take out what no engine needs"
    return errors.SPEC_SHAPE("spec", found=found, expected=expected, advice=advice)


def excess(spec: Mapping[str, Any]) -> str | None:
    """What is too large about it; found without recursion, and soon."""
    values = characters = 0
    level: list[Any] = [spec]
    for _ in range(MAX_DEPTH + 1):
        following: list[Any] = []
        for value in level:
            if isinstance(value, str):
                characters += len(value)
                if len(value) > MAX_TEXT:
                    return _too_large("a text", f"{MAX_TEXT // 1024} KiB")
            elif isinstance(value, Mapping | list):
                values += len(value)
                if isinstance(value, Mapping) and len(value) > MAX_KEYS:
                    return _too_large("a map", f"{MAX_KEYS} keys")
                if len(value) > MAX_ITEMS:
                    return _too_large("a list", f"{MAX_ITEMS} items")
                if values > MAX_VALUES:
                    return _too_large("maps and lists", f"{MAX_VALUES} keys and items together")
                following.extend(_parts(value))
        if characters > MAX_CHARACTERS:
            return _too_large("texts", f"{MAX_CHARACTERS // 1024} KiB together")
        if not following:
            return None
        level = following
    return _DEEP


def unreadable(why: str) -> errors.Problem:
    """An object that cannot be decoded, or is too large to be kept (``SPEC`` and what is)."""
    if why == CROWDED:
        return errors.SPEC_SHAPE(
            "",
            found="is not looked at: the older pools of its namespace take all of the "
            f"{MAX_NAMESPACE // 2**20} MiB of memory that the operator has for one namespace",
            expected="pools that are fewer, or smaller",
            advice="delete pools that nobody needs, take out what no engine needs, or use another "
            "namespace; the engines that run stay as they are",
        )
    if why.startswith(SPEC):
        return _refused(why.removeprefix(SPEC))
    return errors.SPEC_SHAPE(
        "",
        found=f"cannot be read: {why}",
        expected=f"at most {MAX_CHARACTERS // 1024} KiB and {MAX_VALUES} keys and items together, "
        f"numbers of 64 bits, and maps and lists nested at most {MAX_DEPTH} deep",
        advice="correct it; the engines that run stay as they are",
    )


def _parts(value: Mapping[str, Any] | list[Any]) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value
        yield from value.values()
    else:
        yield from value


def _too_large(what: str, limit: str) -> str:
    return f"has {what} of more than {limit}"
