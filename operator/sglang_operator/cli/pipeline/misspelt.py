"""What ROLL would drop in silence, or not understand, though it is plain what was meant.

ROLL's loader takes the fields that it knows and forgets the rest: a misspelt role has no engines,
and a misspelt field its default.
"""

from collections.abc import Collection, Iterator

from sglang_operator.api import errors, spelling
from sglang_operator.cli import file_errors, structure
from sglang_operator.cli.findings import Finding
from sglang_operator.cli.pipeline import roles
from sglang_operator.cli.pipeline.references import Resolver
from sglang_operator.cli.yaml_tree.nodes import Mark, YamlNode, plain

# Fields of the pipeline that engines depend on.
_FIELDS = (
    "pretrain",
    "reward_pretrain",
    "student_pretrain",
    "teacher_pretrain",
    "seed",
    "num_gpus_per_node",
    "system_envs",
    "num_return_sequences_in_group",
    "response_length",
    "prompt_length",
    "sequence_length",
)
_OF_PIPELINE = frozenset({*roles.ROLES, *roles.GROUPS, *_FIELDS})
_STRATEGY_ARGS = "strategy_args"
_STRATEGY_NAME, _STRATEGY_CONFIG = "strategy_name", "strategy_config"


def fields(root: YamlNode) -> Iterator[tuple[Finding, str]]:
    """Misspelt roles and fields of the pipeline that engines depend on, each with its name."""
    absent = _OF_PIPELINE - set(root.mapping)
    for key, node in root.mapping.items():
        if key in _OF_PIPELINE or not isinstance(key, str):
            continue
        found = spelling.meant(key, sorted(absent)) or spelling.respelt(key, _OF_PIPELINE)
        if found is not None and isinstance(node.value, dict) is _is_map(found):
            row = file_errors.PIPELINE_FIELD_MISSPELT
            advice = f"did you mean {found}?" if found in absent else f"remove it: {found} is there"
            problem = row(key, key=errors.shown(key), advice=advice)
            yield Finding(mark=root.keys[key], problem=problem), found


def _is_map(field: str) -> bool:
    return field == "system_envs" or field not in _FIELDS


def strategies(root: YamlNode, *, environment: bool) -> Iterator[Finding]:
    """Workers of whom it cannot be told whether their strategy is sglang."""
    for path, mark in roles.known_paths(root):
        resolver = Resolver(root, environment=environment)
        section = resolver.at(*path)
        if section is not None and section.value is not None:
            yield from _strategy(section, ".".join(path), mark, resolver.findings)


def _strategy(
    section: YamlNode, role: str, mark: Mark, unresolved: list[Finding]
) -> Iterator[Finding]:
    arguments, problem = _inside(section, role, _STRATEGY_ARGS)
    name = None
    if arguments is not None:
        name, problem = _inside(arguments, f"{role}.{_STRATEGY_ARGS}", _STRATEGY_NAME)
    doubtful = name or arguments or section
    told = [finding for finding in unresolved if finding.mark == doubtful.mark]
    if told and not isinstance(doubtful.value, dict):
        yield from (_about(role, finding) for finding in told)
    elif problem is not None:
        yield _about(role, problem)
    elif name is not None and name.value is not None:
        yield from _named(name, role)


def _inside(holder: YamlNode, path: str, field: str) -> tuple[YamlNode | None, Finding | None]:
    """What a map has under a name, or why that cannot be told."""
    if not isinstance(holder.value, dict):
        return None, _no_map(holder, path)
    if field in holder.mapping:
        return holder.mapping[field], None
    for key in holder.mapping:
        if _meant(key, (field,)):
            row = file_errors.ROLL_FIELD_MISSPELT
            return None, Finding(
                mark=holder.keys[key], problem=_misspelt(row, path, str(key), field)
            )
    return None, None


def _no_map(holder: YamlNode, path: str) -> Finding | None:
    if holder.value is None:
        return None
    found = errors.typed(plain(holder))
    return Finding(
        mark=holder.mark, problem=file_errors.FIELD_STRUCTURE(path, found=found, expected="a map")
    )


def _named(name: YamlNode, role: str) -> Iterator[Finding]:
    field = f"{role}.{_STRATEGY_ARGS}.{_STRATEGY_NAME}"
    if not isinstance(name.value, str):
        found = errors.typed(plain(name))
        problem = file_errors.FIELD_STRUCTURE(field, found=found, expected="text such as sglang")
    elif spelling.meant(name.value, (roles.SGLANG,)):
        found = errors.shown(name.value)
        advice = "write it so"
        problem = errors.FIELD_RANGE(field, found=found, expected=roles.SGLANG, advice=advice)
    else:
        return
    yield Finding(mark=name.mark, problem=problem, subject=role)


def _about(role: str, finding: Finding) -> Finding:
    return Finding(mark=finding.mark, problem=finding.problem, subject=role)


def worker(section: YamlNode, role: str, carried: Collection[str]) -> Iterator[tuple[Finding, str]]:
    """Unknown fields of a worker, each with the carried field that it stands for, if any."""
    known = structure.roll_fields()
    for key in section.mapping:
        if key in known:
            continue
        name = str(key)
        if name in (_STRATEGY_NAME, _STRATEGY_CONFIG):
            row, shown = file_errors.ROLL_FIELD_MISSPELT, errors.shown(name)
            problem = row(f"{role}.{name}", key=shown, advice=f"write it below {_STRATEGY_ARGS}")
            yield Finding(mark=section.keys[key], problem=problem, subject=role), _STRATEGY_ARGS
            continue
        found = structure.near_field(name, known)
        is_lost = found in carried and found not in section.mapping
        if found is not None and is_lost:
            problem = _misspelt(file_errors.ROLL_FIELD_MISSPELT, role, name, found)
        else:
            shown = errors.shown(name)
            advice = structure.roll_advice(name)
            problem = file_errors.ROLL_FIELD(f"{role}.{name}", key=shown, advice=advice)
        lost = found if found is not None and is_lost else ""
        yield Finding(mark=section.keys[key], problem=problem, subject=role), lost


def _meant(key: object, known: Collection[str]) -> str | None:
    return spelling.meant(key, sorted(known)) if isinstance(key, str) else None


def _misspelt(row: errors.Row, parent: str, key: str, found: str) -> errors.Problem:
    return row(f"{parent}.{key}", key=errors.shown(key), advice=f"did you mean {found}?")
