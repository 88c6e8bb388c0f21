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

    field: str  # as messages name fields: podTemplate.spec.containers[0].image
    was: Any
    now: Any
    name: str  # what the value is called: its key, or the ``name`` that stands beside it


def changes(was: Any, now: Any, field: str = "", name: str = "") -> Iterator[Change]:
    """Where two specs differ, value by value."""
    if was == now:
        return
    if isinstance(was, Mapping | None) and isinstance(now, Mapping | None) and (was or now):
        was, now = was or {}, now or {}
        beside = now.get("name", was.get("name"))
        for key in {**was, **now}:
            called = beside if key == "value" and isinstance(beside, str) else str(key)
            path = f"{field}.{key}" if field else str(key)
            yield from changes(was.get(key), now.get(key), path, called)
    elif isinstance(was, list | None) and isinstance(now, list | None) and (was or now):
        was, now = was or [], now or []
        for at in range(max(len(was), len(now))):
            old, new = (each[at] if at < len(each) else None for each in (was, now))
            yield from changes(old, new, f"{field}[{at}]", name)
    else:
        yield Change(field=field, was=was, now=now, name=name)
