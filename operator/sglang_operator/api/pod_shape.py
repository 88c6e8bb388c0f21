"""The form of a podTemplate: which fields it has, and of which type, by Kubernetes' own schema.

What comes out holds only what the schema has, or what the definition leaves open; a null counts
as absent, as it does for the API server.
"""

import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import errors, syntax
from sglang_operator.api.schemas import pod_template as schema

FIELD = "spec.podTemplate"
OPEN = "?"
_ANY = "*"
_MOST_STRANGE = 20  # fields of one map that are told of
_NAMES = {
    "string": "text",
    "boolean": "true or false",
    "int32": "a whole number",
    "int64": "a whole number",
    "quantity": syntax.QUANTITY,
}
_BITS = {"int32": 31, "int64": 63}

Node = Any  # of the schema: a type, a list of items, or a map of fields


def allowed(*path: str) -> frozenset[str]:
    """The fields at a place of the template."""
    node: Node = schema.FIELDS
    for name in path:
        node = node[name]
        node = node[0] if isinstance(node, list) else node
    return frozenset(node) - {OPEN}


def problems(template: object) -> Iterator[errors.Problem]:
    """What does not have the form."""
    yield from _problems(template, schema.FIELDS, FIELD, is_open=False)


def _problems(value: object, node: Node, where: str, *, is_open: bool) -> Iterator[errors.Problem]:
    if isinstance(node, str):
        if not _fits(value, node):
            yield syntax.mistyped(where, value, _NAMES[node])
    elif isinstance(node, list):
        if not isinstance(value, list):
            yield syntax.mistyped(where, value, "a list")
            return
        for index, item in enumerate(value):
            yield from _problems(item, node[0], f"{where}[{index}]", is_open=is_open)
    elif not isinstance(value, Mapping):
        yield syntax.mistyped(where, value, "a map")
    else:
        yield from _of_map(value, node, where, is_open=is_open or OPEN in node)


def _of_map(
    value: Mapping[Any, Any], node: Mapping[str, Node], where: str, *, is_open: bool
) -> Iterator[errors.Problem]:
    if _ANY not in node:
        strange = sorted(str(key) for key in value if _inner(node, key) is None)
        for name in itertools.islice(strange, _MOST_STRANGE):
            yield _strange(name, node, where, is_open=is_open)
    for key, item in value.items():
        inner = _inner(node, key)
        if item is not None and inner is not None:
            yield from _problems(item, inner, f"{where}.{key}", is_open=is_open)


def _strange(name: str, node: Mapping[str, Node], where: str, *, is_open: bool) -> errors.Problem:
    known = sorted(node.keys() - {OPEN})
    path, shown = f"{where}.{errors.shown(name)}", errors.shown(name)
    if not is_open:
        expected = ", ".join(known)
        return errors.POD_TEMPLATE(path, found=shown, expected=expected, advice="remove it")
    near = difflib.get_close_matches(name[:80], known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known)}"
    return errors.POD_FIELD_UNKNOWN(path, key=shown, version=schema.VERSION, advice=advice)


def _fits(value: object, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "quantity":
            return syntax.quantity(value) is not None
    return _whole(value) and abs(int(value)) < 1 << _BITS[kind]  # type: ignore[call-overload]


def _whole(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def kept(value: Any, node: Node = schema.FIELDS, *, is_open: bool = False) -> Any:
    """A template without nulls, and without what its schema does not have; of what does not
    have the form, as much as has.  What the definition leaves open stays: a newer Kubernetes may
    know it."""
    if isinstance(node, str):
        if not _fits(value, node):
            return None
        return int(value) if node in _BITS else value
    if isinstance(node, list):
        items = value if isinstance(value, list) else []
        return [kept(item, node[0], is_open=is_open) for item in items]
    is_open = is_open or OPEN in node
    fields = value if isinstance(value, Mapping) else {}
    found = {
        key: item if inner is None else kept(item, inner, is_open=is_open)
        for key, item in fields.items()
        if item is not None and ((inner := _inner(node, key)) is not None or is_open)
    }
    return {key: item for key, item in found.items() if item is not None}


def _inner(node: Mapping[str, Node], key: object) -> Node | None:
    """The schema of a field; None if there is none."""
    return None if key == OPEN else node.get(_ANY, node.get(key))  # type: ignore[call-overload]
