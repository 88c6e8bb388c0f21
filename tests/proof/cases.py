"""Configurations to try: from SGLang's own annotations and choices, and from chance."""

import random
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from generators.schema.sglang import SGLang
from tests.proof import oracle
from tests.proof.oracle import Case

EXAMPLES = Path(__file__).parents[1] / "data" / "roll-examples"
BASE = {"mem_fraction_static": 0.7, "load_format": "dummy"}

_WORDS = ("word", "-x y=z", "--tp-size=7", "$(HOME) $$(A) $", "ü", "/models/a.json")
_MAP = {"a": 1, "b": [0.5, {"c": None, "d": True}], "$(HOME)": "$$"}
_GOOD: dict[Any, tuple[Any, ...]] = {
    bool: (True, False),
    int: (0, 1, -1, 4096),
    float: (0.5, 1.0, 3, -2.5, 1e-05),
    str: _WORDS,
    dict: (_MAP, {}),
    list: (["a"],),
}
# Values of every form, of which most fit nowhere: each is tried with each argument.
ANYTHING: tuple[Any, ...] = (
    *(True, False, 0, 7, 1.5, 8.0, 1e30, 10**30, "", "word", "7", "0.5", "32k", "4Ki", "true"),
    *("{}", "[1]", '{"a": 1}', "{", [], [1], [1, 2], ["a", "b"], [0.5], [True], ["-x"], [[1]]),
    *([{"a": 1}], {}, {"a": 1}, {"a": "/b"}, [{"lora_name": "a", "lora_path": "/b"}], ["n=/p"]),
)
# Where a value has to be more than of its type.
_SPECIAL: dict[str, tuple[Any, ...]] = {
    "cuda_graph_config": ({"decode": {"max_bs": 8}}, {}),
    "lora_paths": (["/a", "b=/c"], {"b": "/c"}),
    "mem_fraction_static": (0.1, 0.85),
    "tp_size": (2,),
    "pp_size": (1, 2),
    "dp_size": (1, 2),
    "attn_dp_size": (1, 2),
}
# Refused whatever the value is (explanation/roll.md, rule 2): tried, but not often.
OWNED = {
    *("model_path", "model", "host", "nnodes", "node_rank", "dist_init_addr", "nccl_init_addr"),
    *("base_gpu_id", "gpu_id_step", "config", "use_ray", "custom_sigquit_handler", "stat_loggers"),
    *("smg_grpc_mode", "api_key", "admin_api_key", "weight_version"),
}
_TYPOS = ("mem_fraction_statc", "max_model_len", "tensor_parallel", "x", "cuda_graph_max_bss")


def keys(sglang: SGLang) -> list[str]:
    """Every name that a version knows: fields, and flags with underscores."""
    flags = {
        flag.removeprefix("--").replace("-", "_")
        for action in sglang.parser._actions
        for flag in action.option_strings
        if flag.startswith("--") and flag != "--help" and not flag.startswith("--no-")
    }
    return sorted(flags | set(sglang.names))


def good(sglang: SGLang, key: str) -> list[Any]:
    """Values that SGLang's annotation of a field, and the choices of its parser, allow."""
    action = sglang.action(key)
    name = oracle.SPELLINGS.get(key, key)
    if name in _SPECIAL:
        return list(_SPECIAL[name])
    field = name if name in sglang.names or action is None else action.dest
    if action is None or action.nargs != 0:
        values = _by_hint(sglang.hints.get(field, str))
    else:
        values = [True, False]
    if action is not None and action.choices:
        listed = list(action.choices)
        return [listed] if action.nargs in ("+", "*") else listed
    return values


def _by_hint(hint: Any) -> list[Any]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [value for part in parts for value in _by_hint(part)]
    if origin is typing.Literal:
        return [part for part in parts if part is not None]
    if origin is list:
        items = [v for v in _by_hint(parts[0]) if not isinstance(v, str) or v[:1] != "-"]
        return [items[:1], items] if items else []
    return list(_GOOD.get(origin or hint, ()))


def singles(sglang: SGLang, most: int | None = None) -> Iterator[Case]:
    """Each argument with each value that it allows, or with the first few."""
    for key in keys(sglang):
        for value in good(sglang, key)[:most]:
            yield case(sglang, {**BASE, key: value}, gpus=4)


def anything(sglang: SGLang) -> Iterator[Case]:
    """Each argument with a value of each form."""
    for key in keys(sglang):
        for value in ANYTHING:
            yield case(sglang, {**BASE, key: value}, gpus=4)


def foreign(sglang: SGLang, others: Iterable[SGLang]) -> Iterator[Case]:
    """The names that only other versions have, with values that are right there."""
    own = set(keys(sglang))
    found = {key: good(other, key)[:1] for other in others for key in keys(other)}
    for key in sorted(found.keys() - own):
        for value in found[key]:
            yield case(sglang, {**BASE, key: value}, gpus=4)


def examples(sglang: SGLang) -> Iterator[Case]:
    """The workers on sglang in ROLL's own examples."""
    for path in sorted(EXAMPLES.glob("*.yaml")):
        for role in yaml.safe_load(path.read_text()).values():
            strategy = role.get("strategy_args", {}) if isinstance(role, dict) else {}
            if strategy.get("strategy_name") == "sglang":
                yield case(
                    sglang,
                    strategy["strategy_config"],
                    gpus=role.get("num_gpus_per_worker", 1),
                    dtype=role["model_args"]["dtype"],
                )


def chance(sglang: SGLang, seed: int) -> Iterator[Case]:
    """Random configurations without end; the same for the same seed."""
    dice = random.Random(f"{sglang.version} {seed}")
    names = [name for name in keys(sglang) if name not in OWNED or dice.random() < 0.1]
    while True:
        config: dict[str, Any] = dict(BASE)
        for name in dice.sample(names, dice.randint(1, 12)):
            config[_spelled(name, dice)] = _value(sglang, name, dice)
        if dice.random() < 0.05:
            config[dice.choice(_TYPOS)] = 1
        shuffled = list(config.items())
        dice.shuffle(shuffled)
        yield case(
            sglang,
            dict(shuffled),
            gpus=dice.choice((1, 2, 4, 8)),
            dtype=dice.choice((None, *oracle.DTYPES)),
            seed=dice.randint(0, 2**31),
            port=dice.randint(1024, 65535),
            replay="R3" if dice.random() < 0.1 else "disable",
            sampling=dice.choice((None, None, {"top_p": 0.99, "stop_token_ids": [1, 2]})),
        )


def _spelled(name: str, dice: random.Random) -> str:
    return name.replace("_", "-") if dice.random() < 0.2 and name[:1] != "_" else name


def _value(sglang: SGLang, name: str, dice: random.Random) -> Any:
    roll = dice.random()
    if roll < 0.05:
        return None
    if roll < 0.08:
        return dice.choice(ANYTHING)
    return dice.choice(good(sglang, name) or [None])


def case(sglang: SGLang, config: Mapping[str, Any], **more: Any) -> Case:
    """A case of this version."""
    return Case(version=sglang.version, config=config, fields=frozenset(sglang.names), **more)
