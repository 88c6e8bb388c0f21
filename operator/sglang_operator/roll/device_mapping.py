"""ROLL's ``device_mapping``: a Python expression that lists global GPU ids, never evaluated.

ROLL calls ``eval`` on the text (``roll/configs/worker_config.py``).  Here it is parsed, and only
``list(range(a, b[, c]))``, ``[0, 1]``, ``list([0, 1])`` and sums of these are understood; every
bound is checked before a list is built.
"""

import ast
import collections
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from sglang_operator.api import errors, names

FIELD = "spec.device_mapping"
MAX_TEXT = 4096  # characters
MAX_GPUS = 8192
MAX_ID = 999_999

# What the grammar is made of; a digit before a letter is no number (and Python would warn).
_ALPHABET = re.compile(r"[\s0-9a-z_,+()\[\]-]*")
_DIGIT_BEFORE_LETTER = re.compile(r"[0-9]_?[a-z]")

_Ids = range | list[int]


class _GrammarError(Exception):
    """The text is no device_mapping."""


def parse(text: object) -> tuple[int, ...]:
    """ROLL's global GPU ids in list order.

    Raises :class:`errors.InvalidError` with the row that tells what is wrong.
    """
    terms = _terms(_checked(text))
    shown = errors.shown(text)
    for ids in terms:
        _check_bounds(ids, shown)
    if sum(map(len, terms)) > MAX_GPUS:
        raise _too_large(shown)
    found = tuple(number for ids in terms for number in ids)
    if not found:
        raise errors.InvalidError(errors.MAPPING_EMPTY(FIELD, found=shown))
    _check_unique(found)
    return found


def groups(ids: Sequence[int], per_worker: int) -> tuple[tuple[int, ...], ...]:
    """The GPU ids of each engine: consecutive slices of ``per_worker`` (at least 1), in order.

    Raises :class:`errors.InvalidError` if they do not come out even, as ROLL's assertion does.
    """
    count = len(ids)
    if count % per_worker:
        below = count - count % per_worker
        above = below + per_worker
        advice = f"{below} or {above}" if below else str(above)
        raise errors.InvalidError(
            errors.MAPPING_NOT_DIVISIBLE(FIELD, gpus=count, per_worker=per_worker, advice=advice)
        )
    return tuple(tuple(ids[i : i + per_worker]) for i in range(0, count, per_worker))


def node_rank(gpu: int, per_node: int) -> int:
    """The node of a global GPU id (ROLL ``roll/distributed/scheduler/resource_manager.py``)."""
    return gpu // per_node


def apart(count: int, taken: Iterable[int], per_node: int) -> str:
    """A mapping of so many GPUs on nodes that no id which is taken is on; contiguous, because
    ROLL's ModelUpdateGroup wants it so."""
    first = -(-(max(taken, default=-1) + 1) // per_node) * per_node
    return f"list(range({first},{first + count}))"


def describe(ids: Sequence[int]) -> str:
    """Ids for people: consecutive ones as a range, in the order given, e.g. ``0-7,12``."""
    return ",".join(_runs(ids))


def engine_name(ids: Sequence[int], nodes: int = 1) -> names.EngineName:
    """The name of the engine with these GPUs: part of its pods' names, different for each group.

    It spells the ids out (``g0-1``, ``g4-5x12-13``, ``g1x0``); ids that would be too long for a
    pod's name are named by their digest.
    """
    canonical, room = "x".join(_runs(ids)), names.longest_engine(nodes) - 1
    if len(canonical) <= min(room, names.MAX_ENGINE_NAME - 1):
        return names.EngineName(f"g{canonical}")
    digits = hashlib.sha256(canonical.encode()).hexdigest()
    return names.EngineName(f"h{digits[: min(room, 12)]}")


def shares(ids: Sequence[int], per_node: int) -> list[tuple[int, int]]:
    """On which node ranks these GPUs lie, and how many on each, in list order.

    ROLL takes the GPUs of an engine's first node for what each of its nodes has
    (``roll/distributed/strategy/sglang_strategy.py``).
    """
    found: list[tuple[int, int]] = []
    for gpu in ids:
        node = node_rank(gpu, per_node)
        if found and found[-1][0] == node:
            found[-1] = node, found[-1][1] + 1
        else:
            found.append((node, 1))
    return found


def spans(found: Sequence[tuple[int, int]]) -> int | None:
    """How many nodes ``shares`` are of, if each has as many GPUs; None if they are uneven."""
    nodes, counts = {node for node, _ in found}, {count for _, count in found}
    return len(found) if len(counts) == 1 and len(nodes) == len(found) else None


def _runs(ids: Sequence[int]) -> Iterator[str]:
    """Maximal runs of ids that ascend by one, as ``5`` or ``0-7``."""
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or ids[end] != ids[end - 1] + 1:
            first, last = ids[start], ids[end - 1]
            yield str(first) if first == last else f"{first}-{last}"
            start = end


def _checked(text: object) -> str:
    """The text, if it is one that is worth parsing."""
    if not isinstance(text, str):
        found = _kind(text)
        raise errors.InvalidError(errors.MAPPING_NOT_A_STRING(FIELD, found=found))
    shown = errors.shown(text)
    if "${" in text:
        raise errors.InvalidError(errors.MAPPING_UNRESOLVED(FIELD, found=shown))
    if not text.strip():
        raise errors.InvalidError(errors.MAPPING_EMPTY(FIELD, found=shown))
    if len(text) > MAX_TEXT:
        problem = errors.MAPPING_TOO_LONG(FIELD, length=len(text), limit=MAX_TEXT)
        raise errors.InvalidError(problem)
    return text


def _kind(value: object) -> str:
    """What YAML calls a value that is not a string."""
    kinds: tuple[tuple[str, type | tuple[type, ...]], ...] = (
        ("boolean", bool),
        ("number", (int, float)),
        ("list", (list, tuple)),
        ("map", dict),
        ("null", type(None)),
    )
    return next((word for word, type_ in kinds if isinstance(value, type_)), type(value).__name__)


def _terms(text: str) -> list[_Ids]:
    try:
        if not _ALPHABET.fullmatch(text) or _DIGIT_BEFORE_LETTER.search(text):
            raise _GrammarError
        return [_term(node) for node in _summands(ast.parse(text.strip(), mode="eval").body)]
    # Deep nesting ends in the parser's own recursion or memory limit.
    except (_GrammarError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = errors.MAPPING_GRAMMAR(FIELD, found=errors.typed(text))
        raise errors.InvalidError(problem) from error


def _summands(node: ast.expr) -> list[ast.expr]:
    """The terms of a sum, left to right; without recursion, because sums nest to the left."""
    found, waiting = [], [node]
    while waiting:
        top = waiting.pop()
        if isinstance(top, ast.BinOp) and isinstance(top.op, ast.Add):
            waiting += [top.left, top.right]
        else:
            found.append(top)
    return found[::-1]


def _term(node: ast.expr) -> _Ids:
    """``[..]``, ``list([..])`` or ``list(range(..))``."""
    if isinstance(node, ast.List):
        return [_integer(item) for item in node.elts]
    (argument,) = _arguments(node, "list")
    if isinstance(argument, ast.List):
        return [_integer(item) for item in argument.elts]
    return range(*map(_integer, _arguments(argument, "range")))


def _arguments(node: ast.expr, function: str) -> list[ast.expr]:
    """The positional arguments of a call of this very function."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name == function:
            if len(arguments) in {"list": (1,), "range": (1, 2, 3)}[function]:
                return arguments
    raise _GrammarError


def _integer(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
            if not isinstance(value, bool):
                return -value
    raise _GrammarError


def _check_bounds(ids: _Ids, shown: str) -> None:
    """Refuse ids out of bounds by looking at the ends of a range, never at all of it."""
    ends = (ids[0], ids[-1]) if isinstance(ids, range) and ids else ids
    lowest = min(ends, default=0)
    if isinstance(ids, range) and ids.step > 0:
        lowest = min(lowest, ids.start, ids.stop)
    if lowest < 0:
        raise errors.InvalidError(errors.MAPPING_NEGATIVE(FIELD, found=lowest))
    if max(ends, default=0) > MAX_ID:
        raise _too_large(shown)


def _too_large(shown: str) -> errors.InvalidError:
    return errors.InvalidError(
        errors.MAPPING_TOO_LARGE(FIELD, found=shown, limit=MAX_GPUS, id_limit=MAX_ID)
    )


def _check_unique(ids: tuple[int, ...]) -> None:
    repeated = sorted(gpu for gpu, count in collections.Counter(ids).items() if count > 1)
    if repeated:
        found = errors.shown(describe(repeated))
        raise errors.InvalidError(errors.MAPPING_DUPLICATE(FIELD, found=found))
