"""What a document is that is no ROLL pipeline, and what whoever gave it can do.

Only the names of its fields are looked at: those of the frameworks that train with SGLang besides
ROLL, of Helm, of SGLang's own configuration, and of a ROLL worker without its role.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sglang_operator.api import errors, names, spelling
from sglang_operator.cli import file_errors, structure
from sglang_operator.cli.pipeline import roles
from sglang_operator.cli.yaml_tree.nodes import YamlNode

PIPELINE = "a ROLL pipeline config"
EITHER = f"a {names.KIND} or {PIPELINE}"
_GIVE = "give the file that ROLL's start script reads: it has roles such as actor_infer"
_BY_HAND = (
    f"convert reads ROLL's alone: write a {names.KIND} for its engines, as the page on slime, "
    "miles and AReaL shows"
)
_OWN_ENGINES = (
    "convert reads ROLL's alone; verl starts its engines itself, and takes none of a pool"
)
_OF_ROLL_ALONE = frozenset({"pretrain", "actor_infer", "actor_train", "student_infer"})
_MOST_SHOWN = 4  # names of fields


@dataclass(frozen=True, kw_only=True)
class _Family:
    """A kind of file, known by any of these fields, or by all of those together."""

    found: str
    advice: str
    any_of: frozenset[str] = frozenset()
    all_of: frozenset[str] = frozenset()

    def fits(self, keys: frozenset[str]) -> bool:
        return bool(self.any_of & keys) or (bool(self.all_of) and self.all_of <= keys)


def _family(found: str, advice: str, any_of: str = "", all_of: str = "") -> _Family:
    return _Family(
        found=found,
        advice=advice,
        any_of=frozenset(any_of.split()),
        all_of=frozenset(all_of.split()),
    )


_FAMILIES = (
    _family(
        "the fields of one worker, without its role",
        "give the whole pipeline file, or write them below spec of a SGLangInference",
        any_of="strategy_args strategy_config strategy_name device_mapping num_gpus_per_worker",
    ),
    _family("a config of verl", _OWN_ENGINES, any_of="actor_rollout_ref"),
    _family(
        "a config of AReaL", _BY_HAND, any_of="allocation_mode gconfig", all_of="trial_name rollout"
    ),
    _family(
        "a config of slime or miles",
        _BY_HAND,
        any_of="rollout_num_gpus rollout_num_gpus_per_engine actor_num_gpus_per_node "
        "hf_checkpoint megatron_to_hf_mode server_groups",
    ),
    _family("a config of NeMo-RL", _BY_HAND, any_of="grpo", all_of="policy cluster"),
    _family("a config of SkyRL", _BY_HAND, all_of="trainer generator"),
    _family(
        "a config of a trainer without engines",
        _GIVE,
        any_of="finetuning_type trl",
        all_of="output_dir learning_rate",
    ),
    _family(
        "a Helm values file",
        _GIVE,
        any_of="replicaCount imagePullSecrets nodeSelector serviceAccount fullnameOverride",
        all_of="image resources",
    ),
    _family("a Docker Compose file", _GIVE, any_of="services"),
    _family("objects of Kubernetes", "give them to lint or apply", any_of="items"),
)


def problem(document: YamlNode, expected: str = PIPELINE) -> errors.Problem:
    """What a document is that cannot be converted."""
    found, advice = _what(document)
    return file_errors.UNRECOGNISED("", found=found, expected=expected, advice=advice)


def is_foreign(root: YamlNode) -> bool:
    """Whether it is another framework's, though some of its names are ROLL's too."""
    keys = frozenset(key for key in root.mapping if isinstance(key, str))
    foreign = (family for family in _FAMILIES if family.advice in (_BY_HAND, _OWN_ENGINES))
    return not _OF_ROLL_ALONE & keys and any(family.fits(keys) for family in foreign)


def is_object(document: YamlNode) -> bool:
    """Whether it is meant for the API server."""
    return "kind" in document.mapping or "apiVersion" in document.mapping


def named(document: YamlNode) -> str:
    """A document in a few words."""
    if not is_object(document) and roles.is_pipeline(document):
        return PIPELINE
    if is_object(document):
        kind = errors.shown(document.text("kind") or "without a kind")
        return f"a {kind}" if kind == names.KIND else f"the Kubernetes object {kind}"
    return _what(document)[0]


def _what(document: YamlNode) -> tuple[str, str]:
    if is_object(document):
        return named(document), _of_object(document)
    if not isinstance(document.value, dict):
        return _of_no_map(document.value), _GIVE
    if not document.value:
        return "an empty map", _GIVE
    keys = frozenset(key for key in document.mapping if isinstance(key, str))
    keys |= {field for key in keys if (field := spelling.respelt(key, _WORKER))}
    for item in document.mapping["sglang"].items if "sglang" in keys else ():
        keys |= frozenset(map(str, item.mapping))  # slime's --sglang-config
    family = next((family for family in _FAMILIES if family.fits(keys)), None)
    if family is not None:
        return family.found, family.advice
    if _are_arguments(document.mapping):
        return "arguments of SGLang", (
            f"write them into spec.strategy_args.strategy_config of a {names.KIND}"
        )
    return f"a map of {_listed(document)}", _GIVE


_WORKER = _FAMILIES[0].any_of


def _of_object(document: YamlNode) -> str:
    kind = document.text("kind")
    if kind == names.KIND:
        return "it needs no conversion: lint, render or apply it"
    if kind == "ConfigMap":
        return "give the file that is in its data, if that is ROLL's"
    if kind in ("List", f"{names.KIND}List"):
        return "objects need no conversion: lint or apply them"
    return _GIVE


def _of_no_map(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "text" if isinstance(value, str) else "nothing" if value is None else "a single value"


def _are_arguments(fields: Collection[object]) -> bool:
    """Whether most of the names are arguments of SGLang."""
    known = sum(isinstance(key, str) and structure.is_argument(key) for key in fields)
    return 2 * known > len(fields)


def _listed(document: YamlNode) -> str:
    shown = [errors.shown(str(key)) for key in document.mapping]
    more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    return ", ".join(shown[:_MOST_SHOWN]) + more
