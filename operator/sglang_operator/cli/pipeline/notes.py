"""What a conversion tells besides its objects: shared GPUs, who is left alone, what is left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_operator.api import names
from sglang_operator.api import texts as operator_texts
from sglang_operator.cli import check_object
from sglang_operator.cli.pipeline import disjoint, roles, sharing
from sglang_operator.cli.pipeline.roles import SGLANG, Role
from sglang_operator.cli.yaml_tree.nodes import YamlNode
from sglang_operator.pool import resolve as pools
from sglang_operator.roll import device_mapping


@dataclass(kw_only=True)
class Converted:
    """One object that came out of a pipeline."""

    role: Role
    body: YamlNode
    left_out: tuple[str, ...]
    secrets: tuple[str, ...]  # variables whose values were not carried over
    disjoint: str | None = None  # the mapping to write, where ids are shared with the trainer

    @property
    def name(self) -> str:
        return self.body.text("metadata", "name") or ""


def secret_name(pool: str) -> str:
    """The Secret that an object is told to take its variables from."""
    return f"{pool}-env"


def notes(
    objects: Sequence[Converted],
    found: Sequence[Role],
    chosen: Sequence[Role],
    *,
    moved: bool,
    joins: bool,
) -> Iterable[str]:
    """What there is to tell besides what is wrong.

    ``moved``: the objects have the mappings to write, as ``convert --disjoint`` was asked for;
    ``joins``: they are on their trainer's GPUs, as ``--shared`` was.
    """
    if not found:
        yield "the file has no role such as actor_infer; nothing to convert"
    elif not chosen:
        used = sorted({role.strategy for role in found if role.strategy})
        yield f"no role uses sglang (found: {', '.join(used) or 'no strategy'}); nothing to convert"
    for converted in objects:
        yield from _about(converted, found, moved=moved, joins=joins)
    others = [role for role in found if role.strategy and role not in chosen]
    for role in others:
        if role.strategy == SGLANG and not role.known:
            yield (
                f"{role.name} uses sglang but is no role that ROLL starts; left alone: "
                f"--role {role.name} converts it all the same"
            )
    alone = [f"{role.name} ({role.strategy})" for role in others]
    if alone:
        yield f"left alone, they stay ROLL's: {', '.join(alone)}"


def _about(
    converted: Converted, found: Sequence[Role], *, moved: bool, joins: bool
) -> Iterable[str]:
    role = converted.role
    resolved = check_object.resolve(converted.body)
    if isinstance(resolved, pools.Pool):
        yield (
            f"{role.name} -> {names.KIND} {converted.name}: "
            f"{operator_texts.engines(len(resolved.engines))} of {resolved.gpus} GPUs, "
            f"SGLang {resolved.version}"
        )
    shared = roles.overlaps(role, list(found))
    if joins:
        own = converted.disjoint is not None
        yield from sharing.notes(role, converted.name, joins=own)
        shared = [] if own else shared
    if shared:
        whose = ", ".join(
            f"{other.name} ({other.strategy or 'no strategy'}; GPUs "
            f"{device_mapping.describe(sorted(devices))})"
            for other, devices in shared
        )
        yield (
            f"{role.name} shares GPUs in ROLL with {whose}; in placement mode Count its engines "
            f"get {len(role.devices)} GPUs of their own, beside those of the trainer"
        )
    if not joins:
        yield from _disjoint(converted, moved=moved)
    if any(roles.sleeps(role, other) for other, _ in shared):
        yield (
            f"{role.name} sleeps in ROLL while the others train; with GPUs of its own it need not, "
            "so enable_memory_saver, which ROLL sets, stays off unless strategy_config has it"
        )
    if converted.left_out:
        yield f"{role.name}: left out, without effect on an engine: {', '.join(converted.left_out)}"
    if converted.secrets:
        secret = secret_name(converted.name)
        yield (
            f"{role.name}: {', '.join(converted.secrets)} may be secret, so the values are not "
            f"carried over; make a Secret {secret} with these keys"
        )
    model = converted.body.text("spec", "model_args", "model_name_or_path") or ""
    if model.startswith(("/", ".", "~")):
        yield f"{role.name}: the model is a path; mount it in the pods with podTemplate"


def _disjoint(converted: Converted, *, moved: bool) -> Iterable[str]:
    """With which ids ROLL's side starts, and whether the object has them."""
    role, trainer = converted.role, disjoint.trainer_of(converted.role)
    if converted.disjoint is not None:
        of_object = (
            f"the object has it too ({disjoint.OPTION})"
            if moved
            else "the object may stay as it is, because there ids only count "
            f"(convert {disjoint.OPTION} writes it there too)"
        )
        yield (
            f"ROLL's side of a pool with GPUs of its own does not start while {role.name} shares "
            f"ids with {trainer}: "
            f"write in ROLL's file, under {role.name}: device_mapping: {converted.disjoint}; "
            f"{of_object}. Or let its engines join the trainer on its GPUs: convert "
            f"{sharing.OPTION}"
        )
    elif moved:
        why = (
            f"it shares no id with {trainer}"
            if trainer
            else "no trainer hands it weights, so that its ids may be shared"
        )
        yield f"{disjoint.OPTION} changes nothing of {role.name}: {why}"
