"""One object judged before it is applied, in the operator's own words.

``pool.resolve`` finds everything that is wrong with a spec; here each of its problems gets a place,
and what only the API server's structural check would refuse is added.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sglang_operator.api import errors, names, spec, spelling
from sglang_operator.api.errors import Problem
from sglang_operator.cli import file_errors, redaction, structure
from sglang_operator.cli.findings import Finding
from sglang_operator.cli.yaml_tree.nodes import Mark, YamlNode, locate, plain
from sglang_operator.pool import resolve as pools

# These are about the key, so they point at it; all others at the value.
_ABOUT_KEYS = frozenset(
    row.reason
    for row in (
        errors.ARGUMENT_UNKNOWN,
        errors.ARGUMENT_REMOVED,
        errors.ARGUMENT_OWNED,
        errors.ARGUMENT_DEPRECATED,
        errors.INFER_BATCH_SIZE,
        errors.SYSTEM_ENV_OWNED,
        errors.SYSTEM_ENV_REMOVED,
        errors.POD_TEMPLATE,
        errors.POD_FIELD_UNKNOWN,
        file_errors.UNKNOWN_FIELD,
    )
)
# What follows from a field that had to be left out, and would only confuse.
_CONSEQUENCES = {
    "num_gpus_per_worker": ("DeviceMapping", "Parallelism", "Replicas", "NotYet", "WeightSync"),
    "num_gpus_per_node": ("DeviceMapping", "NotYet"),
    "device_mapping": ("DeviceMapping", "Replicas"),
    "replicas": ("DeviceMapping",),
    "image": ("EngineVersion", "Argument", "RouterReplay", "Gate"),
    "engineVersion": ("EngineVersion", "Argument", "RouterReplay", "Gate"),
    "model_args": ("ModelMissing",),
    "strategy_args": ("SpecInvalid", "MemFraction"),
}
_OWNER = pools.Owner(name="", namespace="", uid=names.Uid(""), generation=0)
_OF_STRATEGY = frozenset({"strategy_name", "strategy_config"})
_GENERATED = "00000"  # what the API server appends to a generateName
_METADATA = frozenset(
    {
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
_TOP = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


def owner(body: YamlNode) -> pools.Owner:
    """The object as its children will know it; without a cluster it has no UID."""
    name = body.text("metadata", "name")
    if name is None and (generated := body.text("metadata", "generateName")):
        name = generated + _GENERATED
    return pools.Owner(
        name=name or "",
        namespace=body.text("metadata", "namespace") or "default",
        uid=names.Uid("00000000-0000-0000-0000-000000000000"),
        generation=1,
    )


def resolve(body: YamlNode) -> pools.Pool | pools.Refused:
    """What the operator makes of an object."""
    section = body.get("spec")
    raw = as_kept(section) if section is not None else {}
    return pools.resolve_pool(owner(body), raw)


def as_kept(section: YamlNode) -> dict[str, Any]:
    """A spec as the API server keeps it, which is what the operator sees."""
    raw = structure.pruned(plain(section), structure.spec_schema())
    return raw if isinstance(raw, dict) else {}


def judge(body: YamlNode, subject: str = "", lost: Sequence[str] = ()) -> list[Finding]:
    """Everything that is wrong with one SGLangInference.

    ``lost`` are the fields that are there under names which are refused.
    """
    found = [*_envelope(body)]
    section = body.get("spec")
    if section is None or not isinstance(section.value, dict):
        mark = section.mark if section is not None else body.mark
        found.append(Finding(mark=mark, problem=file_errors.FIELD_REQUIRED("spec", key="spec")))
    else:
        found += _judge_spec(body, section, lost)
    return [
        Finding(mark=item.mark, problem=_redacted(item.problem, body), subject=subject)
        for item in found
    ]


def _redacted(problem: Problem, body: YamlNode) -> Problem:
    return redaction.problem(problem, locate(body, problem.field).node)


def _judge_spec(body: YamlNode, section: YamlNode, lost: Sequence[str]) -> Iterator[Finding]:
    structural = structure.check(section)
    kept, left_out = _without(section)
    left_out += [*lost, *_misspelt(section)]
    resolved = pools.resolve_pool(owner(body), kept)
    problems = resolved.warnings if isinstance(resolved, pools.Pool) else resolved.problems
    said = []
    for problem in problems:
        if not _follows(problem, left_out):
            said.append(problem.field)
            yield Finding(mark=place(body, problem), problem=problem)
    for item in structural:
        if item.problem.field not in said:
            yield Finding(mark=item.mark, problem=_operators_words(section, item.problem))


def _misspelt(section: YamlNode) -> Iterator[str]:
    """The fields that are there under names which the structural check refuses."""
    strategy = section.mapping.get("strategy_args", section)
    for holder, known in ((section, spec.FIELDS), (strategy, _OF_STRATEGY)):
        for key in holder.mapping if holder.mapping.keys() - known else ():
            found = structure.near_field(str(key), sorted(known)) if key not in known else None
            if found is not None and found not in holder.mapping:
                yield "strategy_args" if known is _OF_STRATEGY else found


def _without(section: YamlNode) -> tuple[dict[str, object], list[str]]:
    """The spec without the fields whose type is wrong: they would hide everything else.

    A field that ``pool.checks`` judges itself stays, so that it is judged in its words.
    """
    raw = as_kept(section)
    left_out = list(dict.fromkeys(_top(problem) for problem in _misfits(raw)))
    return {key: value for key, value in raw.items() if key not in left_out}, left_out


def _misfits(raw: dict[str, object]) -> tuple[Problem, ...]:
    """The fields whose type is wrong, in the operator's words."""
    try:
        spec.parse(raw)
    except errors.InvalidError as error:
        return error.problems
    return ()


def _top(problem: Problem) -> str:
    """The field of the spec that a problem is in."""
    return problem.field.removeprefix("spec.").partition(".")[0].partition("[")[0]


def _follows(problem: Problem, left_out: list[str]) -> bool:
    """Whether a problem is there only because of fields that are left out."""
    return any(
        problem.reason.startswith(_CONSEQUENCES.get(name, ("\0",)))
        and (problem.reason != "SpecInvalid" or _top(problem) == name)
        for name in left_out
    )


def _operators_words(section: YamlNode, problem: Problem) -> Problem:
    """A wrong type as the operator would tell it, if it would."""
    name = _top(problem)
    value = section.get(name)
    if problem.reason != "SpecInvalid" or value is None:
        return problem
    told = _misfits({name: plain(value)})
    return next((item for item in told if item.field == problem.field), problem)


def place(body: YamlNode, problem: Problem) -> Mark:
    """Where a problem of the spec stands."""
    found = locate(body, problem.field)
    about_key = problem.reason in _ABOUT_KEYS or isinstance(found.node.value, (dict, list))
    return found.key if about_key or not found.complete else found.node.mark


def _envelope(body: YamlNode) -> Iterator[Finding]:
    """The object around the spec."""
    version = body.get("apiVersion")
    if version is None:
        yield Finding(
            mark=body.mark, problem=file_errors.FIELD_REQUIRED("apiVersion", key="apiVersion")
        )
    elif version.value != names.API_VERSION:
        found = errors.shown(version.value) if isinstance(version.value, str) else "not text"
        problem = file_errors.API_VERSION("apiVersion", found=found, expected=names.API_VERSION)
        yield Finding(mark=version.mark, problem=problem)
    yield from _unknown(body, _TOP, "the object")
    metadata = body.get("metadata")
    if metadata is not None and isinstance(metadata.value, dict):
        yield from _unknown(metadata, _METADATA, "metadata")
        for section in ("labels", "annotations"):
            yield from _texts(metadata.get(section), f"metadata.{section}")
    if body.get("metadata", "name") is None and body.get("metadata", "generateName") is None:
        mark = metadata.mark if metadata is not None else body.mark
        yield Finding(
            mark=mark, problem=file_errors.FIELD_REQUIRED("metadata.name", key="metadata.name")
        )


def _unknown(node: YamlNode, known: frozenset[str], parent: str) -> Iterator[Finding]:
    prefix = "" if parent == "the object" else f"{parent}."
    for key in node.mapping:
        if key not in known:
            name, listed = str(key), ", ".join(sorted(known))
            problem = file_errors.UNKNOWN_FIELD(
                f"{prefix}{name}",
                key=errors.shown(name),
                parent=parent,
                advice=_top_advice(name, parent, listed),
            )
            yield Finding(mark=node.keys[key], problem=problem)


def _top_advice(name: str, parent: str, listed: str) -> str:
    of_spec = spelling.respelt(name, structure.spec_schema()["properties"])
    if parent == "the object" and of_spec:
        return f"write it below spec: spec.{of_spec}"
    near = structure.near_field(name, listed.split(", "))
    return f"did you mean {near}?" if near else f"expected one of {listed}"


def _texts(node: YamlNode | None, path: str) -> Iterator[Finding]:
    """Labels and annotations are text."""
    for key, child in node.mapping.items() if node is not None else ():
        if not isinstance(child.value, str):
            found = errors.typed(plain(child))
            problem = file_errors.FIELD_STRUCTURE(
                f"{path}.{key}", found=found, expected="text, so in quotes"
            )
            yield Finding(mark=child.mark, problem=problem)
