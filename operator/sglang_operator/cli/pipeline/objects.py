"""A ROLL pipeline as SGLangInference objects: one for each worker whose strategy is sglang.

What an engine depends on is carried over, with what ROLL's config classes fill in; a worker's
other fields mean nothing to an engine and are left out.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from sglang_operator.api import errors, names
from sglang_operator.cli import check_object, file_errors, structure
from sglang_operator.cli.findings import Finding, stop
from sglang_operator.cli.pipeline import (
    defaults,
    disjoint,
    misspelt,
    notes,
    recognition,
    roles,
    sharing,
)
from sglang_operator.cli.pipeline.notes import Converted
from sglang_operator.cli.pipeline.references import Resolver
from sglang_operator.cli.pipeline.roles import SGLANG, Role
from sglang_operator.cli.yaml_tree import emitting, nodes
from sglang_operator.cli.yaml_tree.nodes import Mark, YamlNode

# Of the worker, in the order in which ROLL's examples write them.
CARRIED = (
    "model_args",
    "generating_args",
    "strategy_args",
    "num_gpus_per_worker",
    "device_mapping",
    "router_replay",
)
# Of strategy_config, for ROLL's side: where the pool is.
PLACE = ("pool", "namespace")
OF_PIPELINE = ("num_gpus_per_node", "seed")
_NOT_A_LABEL = re.compile(r"[^a-z0-9]+")


@dataclass(kw_only=True)
class Conversion:
    """All that came out of one file."""

    objects: list[Converted] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)  # all of the pipeline
    root: YamlNode | None = None  # of the pipeline with its defaults


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may ask of a conversion."""

    roles: tuple[str, ...] = ()
    name: str | None = None
    namespace: str | None = None
    environment: bool = False
    disjoint: bool = False  # no id of its trainer's in a policy's object
    shared: bool = False  # a policy's engines on the GPUs that it has in common with its trainer


def convert(
    document: YamlNode, options: Options, folder: Path | None, expected: str = recognition.PIPELINE
) -> Conversion:
    """The objects of a pipeline, each judged as the operator would judge it.

    ``expected`` is what else the document might have been.
    """
    composed = defaults.compose(document, folder=folder)
    root = composed.root
    result = Conversion()
    if not roles.is_pipeline(root) or recognition.is_foreign(root):
        raise stop(document.mark, recognition.problem(_shown(document, root), expected))
    found = roles.find(root, environment=options.environment)
    result.root, result.roles = root, found
    chosen = _chosen(found, options, document.mark)
    misspelt_fields = [*misspelt.fields(root)]
    result.findings += (finding for finding, _ in misspelt_fields)
    lost = ["model_args" for _, field_ in misspelt_fields if field_.endswith("pretrain")]
    if not options.roles:
        result.findings += misspelt.strategies(root, environment=options.environment)
    if chosen:  # else nothing depends on what is missing
        result.findings += composed.findings
    taken: set[str] = set()
    for role in chosen:
        place = _Place.of(root, role, options)
        name = _name(role, options, len(chosen), taken, place)
        apart = _apart(root, role, found, options)
        converted, findings = _object(root, role, options, name, place, lost, apart)
        result.objects.append(converted)
        result.findings += findings
        if options.disjoint or options.shared:
            result.findings += disjoint.unclear(role, root, found, environment=options.environment)
    result.notes += notes.notes(
        result.objects, found, chosen, moved=options.disjoint, joins=options.shared
    )
    return result


def _shown(document: YamlNode, root: YamlNode) -> YamlNode:
    """What there is to say about: the whole of a map, and what is no map itself."""
    return root if isinstance(document.value, dict) else document


def _chosen(found: list[Role], options: Options, mark: Mark) -> list[Role]:
    if not options.roles:
        return [role for role in found if role.strategy == SGLANG and role.known]
    chosen = []
    for wanted in options.roles:
        role = next((role for role in found if role.name == wanted), None)
        if role is None or role.strategy != SGLANG:
            there = ", ".join(r.name for r in found if r.strategy == SGLANG) or "none"
            strategy = role.strategy or "no strategy" if role else "not there"
            problem = file_errors.UNRECOGNISED(
                wanted,
                found=f"that role {errors.shown(wanted)} is {strategy}",
                expected=f"a role with strategy {SGLANG}",
                advice=f"roles with strategy sglang: {there}",
            )
            raise stop(role.mark if role else mark, problem)
        chosen.append(role)
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where ROLL's side of a pool looks for it (client/roll_config.py)."""

    pool: YamlNode | None = None
    namespace: YamlNode | None = None

    @classmethod
    def of(cls, root: YamlNode, role: Role, options: Options) -> "_Place":
        resolver = Resolver(root, environment=options.environment)
        config = resolver.at(*role.path, "strategy_args", "strategy_config")
        found = ((key, config.get(key) if config is not None else None) for key in PLACE)
        return cls(**{key: node for key, node in found if node is not None and node.value})

    def name(self) -> str | None:
        return str(self.pool.value) if self.pool is not None else None


def _name(role: Role, options: Options, count: int, taken: set[str], place: _Place) -> str:
    """The object's name: as asked for, as ROLL's side looks for it, else that of its role as
    Kubernetes can have it."""
    if options.name is None and (named := place.name()) is not None:
        taken.add(named)
        return named
    own = "-".join(_NOT_A_LABEL.sub("-", part.lower()).strip("-") for part in role.path)
    name = own if options.name is None else options.name if count == 1 else f"{options.name}-{own}"
    if options.name is None:
        name = f"r-{name}" if not name[:1].isalpha() else name
        name = name[: names.MAX_POOL_NAME].rstrip("-")
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name[: names.MAX_POOL_NAME - 4]}-{number}", number + 1
    taken.add(unique)
    return unique


def _apart(root: YamlNode, role: Role, found: list[Role], options: Options) -> str | None:
    """The device_mapping with which ROLL's side starts, where it is another one."""
    resolver = Resolver(root, environment=options.environment)
    return disjoint.mapping(role, found, resolver.at("num_gpus_per_node"))


# --- one object


def _object(
    root: YamlNode,
    role: Role,
    options: Options,
    name: str,
    place: _Place,
    lost: list[str],
    apart: str | None,
) -> tuple[Converted, list[Finding]]:
    own = Resolver(root, environment=options.environment)
    written = own.at(*role.path)
    assert written is not None
    filled = roles.fill(role, written, own)
    section = filled.section
    if options.disjoint and apart is not None:
        mark = section.mapping["device_mapping"].mark
        section.put("device_mapping", YamlNode(mark, apart, {}, disjoint.OPTION))
    spec, secrets = _spec(section, own, name)
    if options.shared and apart is not None:
        mark = spec.mapping["device_mapping"].mark
        spec.put("placement", sharing.placement(mark))
    body = _body(role, options, name, spec, place)
    unknown = [*misspelt.worker(written, role.name, (*CARRIED, "system_envs"))]
    carried = [f for f in own.findings if _is_carried(f, role)]
    findings = [
        *(Finding(mark=f.mark, problem=f.problem, subject=role.name) for f in carried),
        *filled.findings,
        *(finding for finding, _ in unknown),
    ]
    lost = [*lost, *(field_ for _, field_ in unknown if field_)]
    # What could not be resolved is no value to judge.
    unresolved = {finding.mark for finding in carried}
    findings += [f for f in check_object.judge(body, role.name, lost) if f.mark not in unresolved]
    left_out = tuple(
        str(key)
        for key, node in section.mapping.items()
        if key not in (*CARRIED, "system_envs")
        and key in structure.roll_fields()
        and node.value is not None
    )
    converted = Converted(role=role, body=body, left_out=left_out, secrets=secrets, disjoint=apart)
    return converted, findings


def _is_carried(finding: Finding, role: Role) -> bool:
    """Whether an unresolved value is in a part of the section that an engine depends on."""
    field_ = finding.problem.field
    if not field_.startswith(f"{role.name}."):
        return True  # somewhere that the section refers to
    return field_.removeprefix(f"{role.name}.").partition(".")[0] in (*CARRIED, "system_envs")


def _spec(section: YamlNode, pipeline_: Resolver, name: str) -> tuple[YamlNode, tuple[str, ...]]:
    spec = YamlNode(section.mark, {})
    for key in CARRIED:
        node = section.get(key)
        if node is not None and node.value is not None:
            spec.put(key, _placeless(node) if key == "strategy_args" else node)
            spec.keys[key] = section.keys.get(key, node.mark)
    for key in OF_PIPELINE:
        node = pipeline_.at(key)
        if node is not None and node.value is not None:
            spec.put(key, YamlNode(node.mark, node.value, node.keys, node.origin or key))
    envs, secrets = _environment(roles.system_envs(section, pipeline_))
    if envs is not None and envs.value not in (None, {}):
        spec.put("system_envs", envs)
    if secrets is not None:
        spec.put("podTemplate", _secret_template(secrets, name))
    return spec, tuple(map(str, secrets.mapping)) if secrets is not None else ()


def _placeless(strategy: YamlNode) -> YamlNode:
    """strategy_args without what is ROLL's side's of strategy_config, and no engine's."""
    config = strategy.get("strategy_config")
    if config is None or not set(PLACE) & set(config.mapping):
        return strategy
    left: dict[nodes.Key, YamlNode] = {k: v for k, v in config.mapping.items() if k not in PLACE}
    rest = YamlNode(config.mark, left, config.keys, config.origin)
    entries = {**strategy.mapping, "strategy_config": rest}
    return YamlNode(strategy.mark, entries, strategy.keys, strategy.origin)


def _environment(envs: YamlNode | None) -> tuple[YamlNode | None, YamlNode | None]:
    """The variables that may stand in an object, and those that belong into a Secret."""
    if envs is None or not isinstance(envs.value, dict):
        return envs, None
    plain, secret = YamlNode(envs.mark, {}), YamlNode(envs.mark, {})
    for key, node in envs.mapping.items():
        hidden = isinstance(key, str) and errors.is_secret(key) and node.value not in (None, "")
        (secret if hidden else plain).put(key, node)
        (secret if hidden else plain).keys[key] = envs.keys[key]
    return plain, secret if secret.value else None


def _secret_template(secrets: YamlNode, pool: str) -> YamlNode:
    """A podTemplate that takes variables from a Secret instead of from the file."""
    variables = YamlNode(secrets.mark, [])
    for key, node in secrets.mapping.items():
        reference = {"name": notes.secret_name(pool), "key": key}
        value = {"name": key, "valueFrom": {"secretKeyRef": reference}}
        variables.items.append(nodes.of(value, node.mark, node.origin))
    container = nodes.of({"name": names.ENGINE_CONTAINER}, secrets.mark)
    container.put("env", variables)
    containers = YamlNode(secrets.mark, [container])
    spec = YamlNode(secrets.mark, {"containers": containers}, {"containers": secrets.mark})
    return YamlNode(secrets.mark, {"spec": spec}, {"spec": secrets.mark})


def _body(role: Role, options: Options, name: str, spec: YamlNode, place: _Place) -> YamlNode:
    mark = role.mark
    body = YamlNode(mark, {})
    ours = Mark(mark.file, 0, 0)  # nobody wrote it
    body.put("apiVersion", YamlNode(ours, names.API_VERSION))
    body.put("kind", YamlNode(ours, names.KIND))
    metadata = YamlNode(mark, {})
    if options.name is None and place.pool is not None:
        metadata.put("name", YamlNode(place.pool.mark, name))
    else:
        origin = "--name" if options.name else f"role {role.name}"
        metadata.put("name", YamlNode(mark, name, {}, origin))
    if options.namespace:
        metadata.put("namespace", YamlNode(mark, options.namespace, {}, "--namespace"))
    elif place.namespace is not None:
        metadata.put("namespace", YamlNode(place.namespace.mark, str(place.namespace.value)))
    body.put("metadata", metadata)
    body.put("spec", spec)
    return body


def document(converted: Converted, source: str) -> str:
    """An object as YAML; each value says where it came from."""
    head = f"# {converted.role.name} of {errors.shown(source)}, by kubectl sglang convert"
    return "\n".join([head, *emitting.lines(converted.body, _comment), ""])


def _comment(node: YamlNode) -> str:
    """The field that a value was taken from, if another one, and its file and line."""
    if node.mark.line == 0:
        return ""
    name = "stdin" if node.mark.file == "-" else Path(node.mark.file).name
    where = f"{errors.shown(name)}:{node.mark.line}"
    return f"{errors.shown(node.origin)}, {where}" if node.origin else where
