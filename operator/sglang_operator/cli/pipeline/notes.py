"""What a conversion tells besides its objects: shared GPUs, who is left alone, what is left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from sglang_operator.api import names
from sglang_operator.api import texts as operator_texts
from sglang_operator.cli import check_object
from sglang_operator.cli.pipeline import roles
from sglang_operator.cli.pipeline.roles import SGLANG, Role
from sglang_operator.cli.yaml_tree.nodes import YamlNode
from sglang_operator.pool import resolve as pools
from sglang_operator.roll import device_mapping

POLICY = ("actor_infer",)  # gets its weights from
TRAINED = ("actor_train",)
_NODE = 8  # GPUs of a node, where ROLL's file does not say


@dataclass(kw_only=True)
class Converted:
    """One object that came out of a pipeline."""

    role: Role
    body: YamlNode
    left_out: tuple[str, ...]
    secrets: tuple[str, ...]  # variables whose values were not carried over

    @property
    def name(self) -> str:
        return self.body.text("metadata", "name") or ""


def secret_name(pool: str) -> str:
    """The Secret that an object is told to take its variables from."""
    return f"{pool}-env"


def notes(
    objects: Sequence[Converted], found: Sequence[Role], chosen: Sequence[Role]
) -> Iterable[str]:
    """What there is to tell besides what is wrong."""
    if not found:
        yield "the file has no role such as actor_infer; nothing to convert"
    elif not chosen:
        used = sorted({role.strategy for role in found if role.strategy})
        yield f"no role uses sglang (found: {', '.join(used) or 'no strategy'}); nothing to convert"
    for converted in objects:
        yield from _about(converted, found)
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


def _about(converted: Converted, found: Sequence[Role]) -> Iterable[str]:
    role = converted.role
    resolved = check_object.resolve(converted.body)
    if isinstance(resolved, pools.Pool):
        yield (
            f"{role.name} -> {names.KIND} {converted.name}: "
            f"{operator_texts.engines(len(resolved.engines))} of {resolved.gpus} GPUs, "
            f"SGLang {resolved.version}"
        )
    shared = roles.overlaps(role, list(found))
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
    if role.path == POLICY and any(other.path == TRAINED for other, _ in shared):
        yield (
            f"ROLL's side of a pool does not start while {role.name} shares ids with actor_train: "
            f"write in ROLL's file, under {role.name}: device_mapping: {_apart(converted, found)}; "
            "the object may stay as it is, because there ids only count"
        )
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


def _apart(converted: Converted, found: Sequence[Role]) -> str:
    """A mapping on nodes that no other role has, as the client names it (``client.colocated``)."""
    said = converted.body.get("spec", "num_gpus_per_node")
    node = said.value if said is not None and isinstance(said.value, int) else _NODE
    taken = chain.from_iterable(each.devices for each in found if each is not converted.role)
    return device_mapping.apart(len(converted.role.devices), taken, max(node, 1))
