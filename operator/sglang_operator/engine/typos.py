"""Which name was meant by one that a version does not have: only what a slip explains.

Likeness of letters alone offers names of another meaning (``min_…`` for ``max_…``, ``disable_…``
for ``enable_…``), which is worse than none.
"""

import difflib
import functools

from sglang_operator.api.spelling import distance
from sglang_operator.engine import schema, versions

# Of so many unknown names it is said what they might mean; who has more has another problem.
MOST_SUGGESTED = 8
_MOST = 3  # names that are offered
_SIMILARITY = 0.75
_LONGEST_NAME = 80  # comparing names takes time with the square of their length
_SHARE = 0.6  # of a name, that its beginning has to be
_OPPOSITES = {"enable_": "disable_", "disable_": "enable_"}


def similar(version: versions.Version, name: str) -> tuple[str, ...]:
    """The names in a known version that this one is a slip of, the likeliest first.

    It costs a millisecond: whoever asks for many names asks for the first few.
    """
    return _similar(version, name[:_LONGEST_NAME])


@functools.lru_cache(maxsize=1024)
def _similar(version: versions.Version, name: str) -> tuple[str, ...]:
    candidates = list(schema.load(str(version)).keys)
    words = _vocabulary(version)
    found = difflib.get_close_matches(name, candidates, 2 * _MOST, _SIMILARITY)
    return tuple(near for near in found if _is_slip(name, near, words))[:_MOST]


def opposite(known: schema.Schema, name: str) -> str | None:
    """The argument of the opposite meaning, where a version has that one alone."""
    for prefix, other in _OPPOSITES.items():
        if name.startswith(prefix):
            argument = known.argument(other + name.removeprefix(prefix))
            return argument.key if argument is not None and argument.is_flag else None
    return None


@functools.lru_cache(maxsize=32)
def _vocabulary(version: versions.Version) -> frozenset[str]:
    """The words that a version's names are made of."""
    return frozenset(word for key in schema.load(str(version)).keys for word in key.split("_"))


def _is_slip(name: str, near: str, vocabulary: frozenset[str]) -> bool:
    ours, theirs = name.split("_"), near.split("_")
    if sorted(ours) == sorted(theirs):
        return True  # in another order
    if len(ours) == len(theirs):
        pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if one != other]
        return all(_is_slip_of_word(one, other, vocabulary) for one, other in pairs)
    if _begins(ours, theirs) or _begins(theirs, ours):
        return min(len(name), len(near)) >= _SHARE * max(len(name), len(near))
    return distance(name, near) <= _most_slips(name)


def _is_slip_of_word(word: str, meant: str, vocabulary: frozenset[str]) -> bool:
    if word.startswith(meant) or meant.startswith(word):
        return True  # len for length, loras for lora
    return word not in vocabulary and distance(word, meant) <= _most_slips(word)


def _most_slips(text: str) -> int:
    return 1 if len(text) < 5 else 2


def _begins(words: list[str], others: list[str]) -> bool:
    return others[: len(words)] == words
