"""Names that look like an unknown one, found as CEL can: by the pairs of letters they share.

The operator goes by difflib's ratio, which CEL has not.  Of pairs and triples, with the ends
marked, pairs at this share agree best with it.
"""

from collections.abc import Iterable

MARK = "."  # of both ends, so that these count too
WIDTH = 2
SHARE = 65  # per cent of the pairs of both names
MOST = 3
LONGEST = 80  # characters of the unknown name that are looked at


def nearest(word: str, names: Iterable[str]) -> list[str]:
    """Up to three names, the likeliest first; what ``expressions`` says in CEL."""
    scored = ((share(word, name), name) for name in names)
    found = sorted((100 - score, name) for score, name in scored if score >= SHARE)
    return [name for _, name in found[:MOST]]


def share(word: str, name: str) -> int:
    """How much of both names is in the other, in per cent."""
    marked, other = MARK + word[:LONGEST] + MARK, MARK + name + MARK
    pairs = [marked[i : i + WIDTH] for i in range(len(marked) - WIDTH + 1)]
    common = sum(pair in other for pair in pairs)
    return 200 * common // (len(pairs) + len(other) - WIDTH + 1)
