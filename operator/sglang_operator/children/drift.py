"""Where a child differs from what it should be, in what decides who is served.  Pure.

What the server fills in and what others add stays alone: labels, annotations, affinity.  Whatever
chooses pods, ports or addresses, or that anybody serves them, is put right, whoever changed it, and
also where the desired object says nothing of it because the server's default is what is wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_operator.children import kinds
from sglang_operator.children.kind import ChildKind, Json

# Maps in which one key more is another choice of pods, in objects of whichever kind.  A path is of
# one key of the spec, and holds however deep the map below it is.  Nothing within a list can be
# named: a list that is longer is put right, one key more in an item of it goes unseen.
EXACT = frozenset({".spec.selector"})
HEADLESS = "None"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """The first place that differs, and what to merge into the object to put it right."""

    path: str
    body: Json
    immutable: bool = False  # only another object can be right


def drift(wanted: Json, found: Json) -> Drift | None:
    """How an object differs from the wanted one of its kind; None if in nothing that matters."""
    kind = kinds.of(kinds.kind_of(wanted))
    if is_headless(wanted) != is_headless(found):
        return Drift(path=".spec.clusterIP", body=wanted, immutable=True)
    content = _content(kind, wanted)
    path = difference(content, found)
    merged: dict[str, Any] = dict(wanted)
    if "spec" in content:
        strange = list(_strange(kind, wanted["spec"], found.get("spec") or {}))
        path = path or next(iter(strange), "")
        merged["spec"] = _cleared(wanted["spec"], found.get("spec") or {}, strange)
    labels = found.get("metadata", {}).get("labels") or {}
    if barred := [key for key in kind.barred_labels if key in labels]:
        path = path or f".metadata.labels.{barred[0]}"
        kept = {**wanted["metadata"]["labels"], **dict.fromkeys(barred)}
        merged["metadata"] = {**wanted["metadata"], "labels": kept}
    if retired := _retired(kind, wanted, found):
        path = path or f".data.{retired[0]}"
        merged["data"] = {**wanted["data"], **dict.fromkeys(retired)}
    return Drift(path=path, body=merged) if path else None


def _retired(kind: ChildKind, wanted: Json, found: Json) -> list[str]:
    """The keys of a ConfigMap that are to go."""
    data = found.get("data") or {}
    return [key for key in kind.retired if key not in wanted.get("data", {}) and key in data]


def is_headless(body: Json) -> bool:
    """Whether it is a Service that only names its pods."""
    spec = body.get("spec") or {}
    return spec.get("clusterIP") == HEADLESS


def _content(kind: ChildKind, body: Json) -> dict[str, Any]:
    """What of an object is compared: its kind and owner are part of finding it."""
    content = {key: body[key] for key in kind.compared if key in body}
    return {"metadata": {"labels": body["metadata"]["labels"]}, **content}


def _strange(kind: ChildKind, wanted: Json, found: Json) -> list[str]:
    """Fields that are set to what the default is not."""
    return [
        f".spec.{name}"
        for name, values in kind.defaults.items()
        if name not in wanted and found.get(name) is not None and found[name] not in values
    ]


def _cleared(wanted: Json, found: Json, strange: list[str]) -> dict[str, Any]:
    """The wanted spec as a merge patch: what must not be there is taken away."""
    cleared = {path.removeprefix(".spec."): None for path in strange}
    for path in EXACT:
        name = path.removeprefix(".spec.")
        if isinstance(wanted.get(name), Mapping) and isinstance(found.get(name), Mapping):
            cleared[name] = _without_more(wanted[name], found[name])
    return {**wanted, **cleared}


def _without_more(wanted: Json, found: Json) -> Any:
    """A map of choices as a merge patch that leaves nothing but these."""
    below = {
        key: _without_more(value, found[key])
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        else value
        for key, value in wanted.items()
    }
    return {**dict.fromkeys(found.keys() - wanted.keys()), **below}


def difference(wanted: Any, found: Any, path: str = "") -> str:
    """The first place where ``found`` lacks what is wanted, or "" if it has all of it.

    What the server or others added is not a difference, except inside lists, whose length counts,
    and where pods are chosen.  An empty list or mapping that is wanted is there when it is absent:
    the server drops it.
    """
    if found is None and wanted in ({}, []):
        return ""
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return path or "."
        for key, value in wanted.items():
            below = difference(value, found.get(key), f"{path}.{key}")
            if below:
                return below
        return _more(wanted, found, path)
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            return path or "."
        for index, value in enumerate(wanted):
            below = difference(value, found[index], f"{path}[{index}]")
            if below:
                return below
        return ""
    return "" if wanted == found else path or "."


def _more(wanted: Json, found: Json, path: str) -> str:
    """The first key more in a map that chooses pods."""
    if not any(path == exact or path.startswith(f"{exact}.") for exact in EXACT):
        return ""
    more = [key for key in found if key not in wanted and found[key] not in (None, {}, [])]
    return f"{path}.{min(more)}" if more else ""
