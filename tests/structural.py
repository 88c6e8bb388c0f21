"""Whether an object is as a definition's structural schema has it, strictly: no field it lacks.

As much of OpenAPI as definitions of other projects use for what is written of them here; what it
meets and does not know it refuses to judge.  A real API server judges the same objects in
tests/integration/test_gang_definitions.py.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Json = Mapping[str, Any]
OWN = Path(__file__).parents[1] / "manifests" / "crd" / "sglanginferences.yaml"
# Ten times as fast, where PyYAML was built with libyaml: every process reads these to collect.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
}
_JUDGED = frozenset(
    {"type", "properties", "additionalProperties", "required", "items", "enum", "pattern"}
    | {"minimum", "maximum", "minLength", "maxLength", "anyOf", "x-kubernetes-int-or-string"}
    | {"description", "format", "default"}
)


@functools.cache
def definition(path: Path = OWN) -> dict[str, Any]:
    """The CustomResourceDefinition in this file, or the operator's own; nobody changes it."""
    found: dict[str, Any] = yaml.load(path.read_text(), Loader=LOADER)
    return found


def wrong(definition: Json, body: Json) -> list[str]:
    """What of this object its definition would not take, by path."""
    group, _, version = body["apiVersion"].partition("/")
    spec = definition["spec"]
    assert (spec["group"], spec["names"]["kind"]) == (group, body["kind"])
    (served,) = [v for v in spec["versions"] if v["name"] == version and v["served"]]
    schema = served["schema"]["openAPIV3Schema"]
    return list(_wrong(schema["properties"]["spec"], body.get("spec", {}), "spec"))


def _wrong(schema: Json, value: Any, path: str) -> Iterator[str]:
    unknown = schema.keys() - _JUDGED
    assert not unknown, f"{path}: {unknown} is not judged here"
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, (int, str)):
            yield f"{path}: neither a number nor a text"
    elif not isinstance(value, _TYPES[schema["type"]]):
        yield f"{path}: no {schema['type']}"
        return
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{path}: {value}"
    if isinstance(value, int) and not schema.get("minimum", value) <= value:
        yield f"{path}: {value}"
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        yield f"{path}: too long"
    if value not in schema.get("enum", [value]):
        yield f"{path}: {value}"
    if not isinstance(value, dict):
        return
    yield from (
        f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value
    )
    for name, below in value.items():
        known = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
        if known:
            yield from _wrong(known, below, f"{path}.{name}")
        else:
            yield f"{path}.{name}: unknown"
