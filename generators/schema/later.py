"""Arguments that a parser takes as text, and that SGLang reads as JSON later.

Which they are stands here, by name; whether a version reads one so is seen in its own source.  An
argument of the table that a version has and reads in no way that is known stops the generator:
somebody has to look.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from generators.schema.wheel_interpreter import WheelInterpreter
from sglang_operator.engine.schemas import Argument, Json


@dataclass(frozen=True, kw_only=True)
class Later:
    """Where a version reads an argument, and what else it may be than JSON."""

    modules: tuple[str, ...]  # below sglang.srt
    reads: str  # what their source has where it is read
    json: Json
    at_file: str = ""  # what it has where @file is read
    in_all: bool = True  # whether each version that has the argument reads it


_HICACHE = (
    "mem_cache.hiradix_cache",
    "managers.cache_controller",
    "mem_cache.hybrid_cache.hybrid_cache_controller",
)
_DEEPEP = ("layers.moe.ep_moe.token_dispatcher", "layers.moe.token_dispatcher.deepep")
_IB_DEVICES = Later(
    modules=("distributed.device_communicators.mooncake_transfer_engine",),
    reads=r"def parse_ib_device_config\(",
    json={"reads": "braces"},
    in_all=False,
)
_SPARSE = Later(
    modules=("mem_cache.sparsity.factory",),
    reads=r"json\.loads\(extra_config_str\)",
    json={"reads": "text"},
)
LATER: Mapping[str, Later] = {
    "json_model_override_args": Later(
        modules=("configs.model_config",),
        reads=r"json\.loads\(model_override_args\)",
        json={"reads": "text"},
    ),
    "model_loader_extra_config": Later(
        modules=("configs.load_config",),
        reads=r"loads\(model_loader_extra_config\)",
        json={"reads": "text", "empty": True},
    ),
    "kv_events_config": Later(
        modules=("disaggregation.kv_events",),
        reads=r"model_validate_json\(cli_value\)",
        json={"reads": "text", "empty": True},
    ),
    "preferred_sampling_params": Later(
        modules=("managers.tokenizer_manager",),
        reads=r"json\.loads\(server_args\.preferred_sampling_params\)",
        json={"reads": "text", "empty": True},
    ),
    "hicache_storage_backend_extra_config": Later(
        modules=_HICACHE,
        reads=r"json\.loads\(storage_backend_extra_config\)",
        json={"reads": "text", "empty": True},
        at_file=r"storage_backend_extra_config\.startswith\(.@.\)",
    ),
    "hisparse_config": _SPARSE,
    "hierarchical_sparse_attention_extra_config": _SPARSE,
    "modelexpress_config": Later(
        modules=("server_args", "arg_groups.overrides"),
        reads=r"json\.loads\((self\.modelexpress_config|raw)\)",
        json={"reads": "text"},
    ),
    "init_expert_location": Later(
        modules=("eplb.expert_location", "managers.expert_location"),
        reads=r"json\.loads\(data\)",
        json={"reads": "text", "words": ("trivial",), "endings": (".pt", ".json")},
    ),
    "deepep_config": Later(
        modules=_DEEPEP,
        reads=r"load_json_config\(config_str\)",
        json={"reads": "braces"},
    ),
    "watermark_config": Later(
        modules=("sampling.watermarking.config",),
        reads=r"json\.loads\(payload\)",
        json={"reads": "braces"},
    ),
    "disaggregation_ib_device": _IB_DEVICES,
    "mooncake_ib_device": _IB_DEVICES,
}


def add(interpreter: WheelInterpreter, key: str, argument: Argument) -> None:
    """Say of an argument how it is read, if it is one of the table and its type is text."""
    later = LATER.get(key)
    if later is None or argument.get("type") != "str":
        return
    sources = [interpreter.source(f"sglang.srt.{module}") or "" for module in later.modules]
    if not any(re.search(later.reads, source) for source in sources):
        if later.in_all:
            raise ValueError(f"{interpreter.version}: {key} is read in a way that is not known")
        return
    argument["json"] = later.json.copy()
    if later.at_file:
        there = any(re.search(later.at_file, source) for source in sources)
        argument["json"]["at_file"] = there
