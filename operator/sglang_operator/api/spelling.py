"""Which known name was meant by one that nobody knows: another spelling of it, or a slip.

ROLL's names and SGLang's are in snake_case, Kubernetes' in camelCase, and flags have dashes: who
goes from one to the other takes the wrong spelling along.  Letters alone decide; likeness beyond a
slip offers names of another meaning.
"""

import functools
import re
from collections.abc import Iterable

_LONGEST_NAME = 80  # comparing names takes time with the square of their length
_NO_LETTER = re.compile(r"[^a-z0-9]+")


@functools.lru_cache(maxsize=8192)
def bare(name: str) -> str:
    """Its letters and digits, which all spellings of one name share."""
    return _NO_LETTER.sub("", name[: 2 * _LONGEST_NAME].lower())


def respelt(name: str, known: Iterable[str]) -> str | None:
    """The name that this is another spelling of: in camelCase, with dashes, in capitals."""
    letters = bare(name)
    return next((word for word in known if letters and bare(word) == letters), None)


def meant(name: str, known: Iterable[str]) -> str | None:
    """The one name that this is another spelling or a slip of; None if that is not plain."""
    words = list(known)
    if name in words or len(name) > _LONGEST_NAME:
        return None
    if found := respelt(name, words):
        return found
    letters = bare(name)
    most = _most_slips(letters)
    alike = [word for word in words if _is_alike(letters, bare(word), most)]
    near = sorted((distance(letters, bare(word)), word) for word in alike)
    if not near or near[0][0] > most or (len(near) > 1 and near[1][0] == near[0][0]):
        return None
    return near[0][1]


def _is_alike(one: str, other: str, most: int) -> bool:
    """Whether so few slips may be all that is between them, as far as that is told at a glance.

    A slip brings at most one new letter, and takes at most one away.
    """
    ours, theirs = {*one}, {*other}
    return (
        abs(len(one) - len(other)) <= most
        and len(ours - theirs) <= most
        and len(theirs - ours) <= most
    )


def _most_slips(letters: str) -> int:
    """Short names are near to each other without anybody having slipped."""
    return 0 if len(letters) < 5 else 1 if len(letters) < 9 else 2


def distance(one: str, other: str) -> int:
    """How many letters were dropped, added, changed, or exchanged with the next."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[-1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
