"""The roles of a ROLL pipeline: who runs on which GPUs with what, and what ROLL fills in.

What is done here to a worker's section is what the pipeline's config class does to it before any
worker starts (ROLL ``roll/configs/base_config.py`` and ``roll/pipeline/*/*_config.py``).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sglang_operator.api import errors, spelling
from sglang_operator.cli import file_errors
from sglang_operator.cli.findings import Finding
from sglang_operator.cli.pipeline.references import Resolver
from sglang_operator.cli.yaml_tree import nodes
from sglang_operator.cli.yaml_tree.nodes import Mark, YamlNode
from sglang_operator.roll import device_mapping

SGLANG = "sglang"
ROLES = (
    "actor_train",
    "actor_infer",
    "critic",
    "reference",
    "reward",
    "reward_model",
    "student",
    "student_train",
    "student_infer",
    "teacher",
    "sft_train",
)
GROUPS = ("rewards", "teacher")  # maps of roles
# Fields by which a file is known to be ROLL's, though it may have no role that starts.
_PIPELINE_FIELDS = frozenset(
    {"pretrain", "exp_name", "rollout_batch_size", "num_gpus_per_node", "student_pretrain", *ROLES}
)
_COLOCATED = ("actor_train", "student_train", "reference", "critic")  # they put engines to sleep
_RLVR = ("rewards", "num_return_sequences_in_group", "reward_model")
_AGENTIC = ("train_env_manager", "val_env_manager", "custom_envs")


@dataclass(frozen=True, kw_only=True)
class Role:
    """One role of the pipeline."""

    path: tuple[str, ...]
    mark: Mark
    strategy: str | None  # None: it runs on CPUs
    devices: frozenset[int]  # empty also where the mapping is not understood
    known: bool = True  # by ROLL

    @property
    def name(self) -> str:
        return ".".join(self.path)


def is_pipeline(root: YamlNode) -> bool:
    """Whether this looks like a ROLL config."""
    fields = [key for key in root.mapping if isinstance(key, str)]
    return any(spelling.respelt(key, _PIPELINE_FIELDS) is not None for key in fields)


def find(root: YamlNode, *, environment: bool = False) -> list[Role]:
    """All roles, in the order of the file."""
    resolver = Resolver(root, environment=environment)  # what it finds is told elsewhere
    return [
        _role(resolver, path, mark, known)
        for path, mark, known in _sections(root, resolver)
        if resolver.at(*path) is not None
    ]


def known_paths(root: YamlNode) -> Iterator[tuple[tuple[str, ...], Mark]]:
    """The places of the roles that ROLL knows."""
    resolver = Resolver(root, environment=False)
    for path, mark, known in _sections(root, resolver):
        if known:
            yield path, mark


def _sections(root: YamlNode, resolver: Resolver) -> Iterator[tuple[tuple[str, ...], Mark, bool]]:
    for key in root.mapping:
        if not isinstance(key, str):
            continue
        mark = root.keys[key]
        section = root.mapping[key]
        if key in ROLES and not (key in GROUPS and _is_group(resolver, key)):
            yield (key,), mark, True
        elif key in GROUPS:
            found = resolver.at(key)
            for name in found.mapping if found is not None else ():
                if isinstance(name, str):
                    yield (key, name), section.keys.get(name, mark), True
        elif section.get("strategy_args", "strategy_name") is not None:
            yield (key,), mark, False


def _is_group(resolver: Resolver, key: str) -> bool:
    """Whether it is a map of workers, and no worker."""
    found = resolver.at(key)
    children = found.mapping.values() if found is not None else ()
    return not (found is not None and "strategy_args" in found.mapping) and any(
        "strategy_args" in child.mapping for child in children
    )


def _role(resolver: Resolver, path: tuple[str, ...], mark: Mark, known: bool) -> Role:
    strategy = resolver.at(*path, "strategy_args", "strategy_name")
    mapping = resolver.at(*path, "device_mapping")
    name = strategy.value if strategy is not None else None
    try:
        devices = device_mapping.parse(mapping.value) if mapping is not None else ()
    except errors.InvalidError:
        devices = ()
    return Role(
        path=path,
        mark=mark,
        strategy=name if isinstance(name, str) else None,
        devices=frozenset(devices),
        known=known,
    )


def overlaps(role: Role, others: list[Role]) -> list[tuple[Role, frozenset[int]]]:
    """The roles that share GPUs with this one, and which."""
    return [
        (other, role.devices & other.devices)
        for other in others
        if other.path != role.path and role.devices & other.devices
    ]


def sleeps(role: Role, shared_with: Role) -> bool:
    """Whether ROLL has this role's engines release their memory for the sake of the other."""
    return role.name in ("actor_infer", "student_infer") and shared_with.name in _COLOCATED


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A worker's section with what the pipeline's config class puts into it."""

    section: YamlNode
    findings: tuple[Finding, ...] = ()


def fill(role: Role, section: YamlNode, pipeline: Resolver) -> Filled:
    """The section as its worker gets it."""
    filled = YamlNode(section.mark, dict(section.mapping), dict(section.keys), section.origin)
    findings = [*_fill_model(role, filled, pipeline)]
    _fill_generation(role, filled, pipeline)
    return Filled(section=filled, findings=tuple(findings))


# --- the model


def _fill_model(role: Role, section: YamlNode, pipeline: Resolver) -> Iterator[Finding]:
    """``pretrain`` for the trio of a PPO pipeline if one of them has no model of its own."""
    own = section.get("model_args", "model_name_or_path")
    source, lacking = _source(role, pipeline)
    given = pipeline.at(source) if source and lacking is not None else None
    if given is None or given.value is None:
        return
    if own is not None and own.value is not None and own.value != given.value:
        found, pretrain = errors.shown(own.value), errors.shown(given.value)
        problem = file_errors.MODEL_REPLACED(
            "spec.model_args.model_name_or_path", found=found, pretrain=pretrain, roles=lacking
        )
        yield Finding(mark=own.mark, problem=problem, subject=role.name)
    arguments = section.get("model_args")
    base = arguments if arguments is not None else YamlNode(section.mark, {})
    if isinstance(base.value, dict) or base.value is None:
        copy = YamlNode(base.mark, {}, {}, base.origin)
        copy.put(
            "model_name_or_path",
            YamlNode(given.mark, given.value, given.keys, given.origin or source),
        )
        for key, child in base.mapping.items():
            if key != "model_name_or_path":
                copy.put(key, child)
                copy.keys[key] = base.keys[key]
        section.put("model_args", copy)


def _source(role: Role, pipeline: Resolver) -> tuple[str, str | None]:
    """The field that gives the model, and the role because of which ROLL takes it."""
    name = role.name
    distills = pipeline.peek("student") is not None
    if name in ("student", "teacher") and distills:
        return f"{name}_pretrain", _lacking(pipeline, ("student",), ("teacher",))
    trio = _trio(pipeline)
    if role.path in trio:
        return "pretrain", _lacking(pipeline, *trio)
    if name == "critic":
        return "reward_pretrain", _lacking(pipeline, ("critic",))
    return "", None


def _trio(pipeline: Resolver) -> tuple[tuple[str, ...], ...]:
    """Actor, its engines and the reference, under the names of on-policy distillation too."""
    teacher = pipeline.peek("teacher")
    reference: tuple[str, ...] = ("reference",)
    if teacher is not None and pipeline.peek("reference") is None:
        first = next((key for key in teacher.mapping if isinstance(key, str)), "")
        single = not first or "strategy_args" in teacher.mapping or "model_args" in teacher.mapping
        reference = ("teacher",) if single else ("teacher", first)
    if pipeline.peek("student_infer") is not None:
        return ("student_train",), ("student_infer",), reference
    return ("actor_train",), ("actor_infer",), reference


def _lacking(pipeline: Resolver, *paths: tuple[str, ...]) -> str | None:
    """The first of these roles that names no model."""
    for path in paths:
        model = pipeline.peek(*path, "model_args", "model_name_or_path")
        if model is None or model.value is None:
            return ".".join(path)
    return None


# --- sampling


def _fill_generation(role: Role, section: YamlNode, pipeline: Resolver) -> None:
    """What RLVR and agentic pipelines set in the arguments of their engines."""
    if role.name not in ("actor_infer", "student_infer"):
        return
    arguments = section.get("generating_args")
    if any(pipeline.peek(key) is not None for key in _AGENTIC):
        if arguments is None:
            arguments = pipeline.at("train_env_manager", "generating_args")
        values = {"num_return_sequences": (1, "agentic pipelines", section.mark)}
    elif any(pipeline.peek(key) is not None for key in _RLVR):
        values = dict(_rlvr_generation(section, pipeline))
    else:
        return
    if arguments is None or not isinstance(arguments.value, dict):
        return
    copy = YamlNode(arguments.mark, dict(arguments.value), dict(arguments.keys), arguments.origin)
    for key, (value, origin, mark) in values.items():
        known = copy.mapping.get(key)
        if known is None or known.value != value:
            copy.put(key, YamlNode(mark, value, {}, origin))
    section.put("generating_args", copy)


def _rlvr_generation(
    section: YamlNode, pipeline: Resolver
) -> Iterator[tuple[str, tuple[int, str, Mark]]]:
    group = pipeline.at("num_return_sequences_in_group")
    if group is None:
        yield "num_return_sequences", (1, "ROLL's default", section.mark)
    elif _whole(group):
        name = "num_return_sequences_in_group"
        yield "num_return_sequences", (int(str(group.value)), name, group.mark)
    response, sequence = pipeline.peek("response_length"), pipeline.peek("sequence_length")
    prompt = pipeline.peek("prompt_length")
    if sequence is not None and _whole(sequence) and (prompt is None or _whole(prompt)):
        length = int(str(prompt.value)) if prompt is not None else 1024  # ROLL's default
        origin = "sequence_length - prompt_length"
        yield "max_new_tokens", (int(str(sequence.value)) - length, origin, sequence.mark)
    elif sequence is None and response is not None and _whole(response):
        yield "max_new_tokens", (int(str(response.value)), "response_length", response.mark)


def _whole(node: YamlNode) -> bool:
    return isinstance(node.value, int) and not isinstance(node.value, bool)


def system_envs(section: YamlNode, pipeline: Resolver) -> YamlNode | None:
    """The worker's variables, and the pipeline's where it does not set the same."""
    general, own = pipeline.at("system_envs"), section.get("system_envs")
    if own is not None and own.value is not None and not isinstance(own.value, dict):
        return own
    if general is not None and not isinstance(general.value, dict | None):
        return YamlNode(general.mark, general.value, general.keys, general.origin or "system_envs")
    if general is None or not general.mapping:
        return own
    merged = YamlNode(own.mark if own is not None else general.mark, {})
    for source, origin in ((general, "system_envs"), (own, "")):
        for key, child in source.mapping.items() if source is not None else ():
            merged.put(key, YamlNode(child.mark, child.value, child.keys, child.origin or origin))
            if source is not None:
                merged.keys[key] = source.keys[key]
    return merged


def plain(node: YamlNode | None) -> object:
    """A value as Python has it, nothing as None."""
    return nodes.plain(node) if node is not None else None
