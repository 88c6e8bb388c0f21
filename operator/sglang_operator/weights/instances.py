"""Lists of instances as they stand in a weights Lease, in as few words as they need.

All annotations of the Lease of a large pool would else be more than the API server takes.

Standard library only.
"""

from collections.abc import Iterable, Mapping

MAX_INSTANCES = 4096
_ALL, _BUT = "*", "-"


def words(text: str, most: int = MAX_INSTANCES) -> tuple[str, ...]:
    """The words between commas; of more than ``most`` the first."""
    return tuple([word for word in text.split(",")[:most] if word]) if text else ()


def shortened(named: frozenset[str], of: frozenset[str]) -> list[str]:
    """These beside others that are told anyway: most often they are the same."""
    kept = of - named
    if len(kept) >= len(of & named):
        return sorted(named)
    return [_ALL, *sorted(_BUT + each for each in kept), *sorted(named - of)]


def expanded(words: Iterable[str], of: frozenset[str]) -> frozenset[str]:
    """The same, read."""
    named = frozenset(words)
    if _ALL not in named:
        return named
    but = frozenset(each[len(_BUT) :] for each in named if each.startswith(_BUT))
    own = frozenset(each for each in named if not each.startswith(_BUT)) - {_ALL}
    return (of - but) | own


def told_by(transaction: str, named: frozenset[str], of: Iterable[str]) -> str:
    """Instances that only this transaction names: who does not know of them leaves them there."""
    return f"{transaction}:{','.join(shortened(named, frozenset(of)))}" if named else ""


def by(
    transaction: str, notes: Mapping[str, str], annotation: str, of: Iterable[str]
) -> frozenset[str]:
    """The same, read; none that another transaction has named."""
    said = notes.get(annotation)
    if not said:
        return frozenset()
    told, _, named = said.rpartition(":")
    return expanded(words(named) if transaction and told == transaction else (), frozenset(of))
