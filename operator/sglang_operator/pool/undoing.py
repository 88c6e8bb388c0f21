"""Going back to a stored revision: no more of the spec changes than its hash asks for.  Pure.

What is stored of a revision is how the spec was when that began, and it stays so: edits that
restart no engine (the weights gate between two that close it, an argument that no engine is started
with) came later, and are not undone by who undoes a rollout.  Which these are is asked of the hash.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_operator.pool import revision
from sglang_operator.pool.resolve import Owner, Pool, Refused, resolve_pool

Path = tuple[str, ...]
_ABSENT = object()
_AS_ONE = ("podTemplate",)  # the hash is of all that is in it


@dataclass(frozen=True, kw_only=True)
class Undone:
    """The spec with a stored revision's part, and the pool that it describes."""

    spec: dict[str, Any]
    pool: Pool


def undone(owner: Owner, raw: Mapping[str, Any], part: Mapping[str, Any]) -> Undone | Refused:
    """The spec that has the revision of this part again, with all of ``raw`` that it can keep."""
    spec = revision.with_part(raw, part)
    pool = resolve_pool(owner, spec)
    if isinstance(pool, Refused):
        return pool
    return _keeping(Undone(spec=spec, pool=pool), raw, ())


def _keeping(found: Undone, raw: Mapping[str, Any], path: Path) -> Undone:
    """The same with what ``raw`` has at this path, or as much below it as keeps the revision."""
    was, now = _at(raw, path), _at(found.spec, path)
    if was == now:
        return found
    spec = _with(found.spec, path, was)
    pool = resolve_pool(found.pool.owner, spec)
    if isinstance(pool, Pool) and pool.base_revision == found.pool.base_revision:
        return Undone(spec=spec, pool=pool)
    if isinstance(was, Mapping) and isinstance(now, Mapping) and path != _AS_ONE:
        for key in {**now, **was}:
            found = _keeping(found, raw, (*path, key))
    return found


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree.get(key, _ABSENT) if isinstance(tree, Mapping) else _ABSENT
    return tree


def _with(tree: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy with this value at the path, or without what is there."""
    if not path:
        return dict(value)
    first, *rest = path
    copied = dict(tree)
    if rest:
        copied[first] = _with(tree[first], tuple(rest), value)
    elif value is _ABSENT:
        copied.pop(first, None)
    else:
        copied[first] = value
    return copied


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value that differs; None where there is none."""

    # As messages name fields, items that have names by these: podTemplate.spec.volumes[a].hostPath
    field: str
    was: Any
    now: Any
    # What the values are called: their key, the ``name`` beside them, the flag before them.  Where
    # items changed places these may be two, and one of them that of the other value.
    names: frozenset[str]


def changes(
    was: Any, now: Any, field: str = "", names: frozenset[str] = frozenset()
) -> Iterator[Change]:
    """Where two specs differ, value by value.

    Items of a list that all have a name of their own are held against those of the same name.
    """
    if was == now:
        return
    if isinstance(was, Mapping | None) and isinstance(now, Mapping | None) and (was or now):
        was, now = was or {}, now or {}
        for key in {**was, **now}:
            path = f"{field}.{key}" if field else str(key)
            called = _names_of(key, was, now)
            yield from changes(was.get(key), now.get(key), path, called)
    elif isinstance(was, list | None) and isinstance(now, list | None) and (was or now):
        yield from _of_lists(was or [], now or [], field, names)
    else:
        yield Change(field=field, was=was, now=now, names=names)


def _names_of(key: Any, *maps: Mapping[str, Any]) -> frozenset[str]:
    """What the value under this key is called in either of these."""
    beside = {each.get("name") for each in maps} if key == "value" else set()
    return frozenset({str(key), *(name for name in beside if isinstance(name, str))})


def _of_lists(
    was: list[Any], now: list[Any], field: str, names: frozenset[str]
) -> Iterator[Change]:
    old, new = _by_name(was), _by_name(now)
    if old is None or new is None:
        for at in range(max(len(was), len(now))):
            one, other = (each[at] if at < len(each) else None for each in (was, now))
            flags = {each[at - 1] for each in (was, now) if at and _is_flag(each, at - 1)}
            yield from changes(one, other, f"{field}[{at}]", names | flags)
        return
    for name in {**old, **new}:
        yield from changes(old.get(name), new.get(name), f"{field}[{name}]", names)
    # A variable may be made of those before it.
    first, then = [n for n in old if n in new], [n for n in new if n in old]
    if first != then:
        yield Change(field=f"{field} (order)", was=first, now=then, names=frozenset())


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """The items by their names; None unless each has one of its own."""
    named = {
        item["name"]: item
        for item in items
        if isinstance(item, Mapping) and isinstance(item.get("name"), str)
    }
    return named if len(named) == len(items) else None


def _is_flag(items: list[Any], at: int) -> bool:
    return at < len(items) and isinstance(items[at], str) and items[at].startswith("-")
