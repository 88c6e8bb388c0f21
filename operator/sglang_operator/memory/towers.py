"""Vision towers of the models that read images.

Sizes are those of the modules in SGLang 0.5.14 (``models/qwen2_5_vl.py``, ``models/qwen3_vl.py``),
and what a config.json leaves out is what the model's config class fills in.
"""

from collections.abc import Mapping
from typing import Any

from sglang_operator.memory.shape import Tower

Config = Mapping[str, Any]

_MOST = 2**20  # of a size of a tower
_QWEN2_5 = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
_QWEN3 = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": (8, 16, 24),
}


def of(architecture: str, config: Config) -> Tower | None:
    """The tower of a model, None of one without."""
    given = config.get("vision_config")
    found = given if isinstance(given, Mapping) else {}
    if architecture == "Qwen2_5_VLForConditionalGeneration":
        whole = _sized({**_QWEN2_5, **found})
        return _tower(_gated(whole, _hidden(config)), whole)
    if architecture.startswith("Qwen3VL"):
        whole = _sized({**_QWEN3, **found})
        return _tower(_plain(whole, _hidden(config)), whole)
    if architecture.startswith("Qwen3_5"):
        whole = _sized({**_QWEN3, "deepstack_visual_indexes": (), **found})
        return _tower(_plain(whole, _hidden(config)), whole)
    return None


def _hidden(config: Config) -> int:
    text = config.get("text_config")
    return int((text if isinstance(text, Mapping) else config)["hidden_size"])


def _sized(vision: Config) -> Config:
    """The config, if its sizes are some."""
    for name in (*_QWEN2_5, "num_position_embeddings"):
        value = vision.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST:
            raise ValueError(f"vision_config.{name} is {str(value)[:40]}")
    return vision


def _tower(parameters: int, vision: Config) -> Tower:
    return Tower(
        parameters=parameters,
        layers=vision.get("num_hidden_layers"),
        hidden=vision.get("hidden_size"),
    )


def _patches(vision: Config) -> int:
    size: int = (
        vision["hidden_size"] * 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    )
    return size


def _gated(vision: Config, out: int) -> int:
    """Blocks with a gated MLP and RMS norms."""
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    attention = 4 * hidden * hidden + 4 * hidden
    mlp = 3 * hidden * inner + 2 * inner + hidden
    merged = hidden * vision["spatial_merge_size"] ** 2
    merger = hidden + merged * merged + merged + merged * out + out
    total: int = vision["depth"] * (attention + mlp + 2 * hidden) + merger + _patches(vision)
    return total


def _plain(vision: Config, out: int) -> int:
    """Blocks with a plain MLP and layer norms, learned positions, a merger at several depths."""
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    attention = 4 * hidden * hidden + 4 * hidden
    mlp = 2 * hidden * inner + inner + hidden
    merged = hidden * vision["spatial_merge_size"] ** 2
    merger = 2 * merged + merged * merged + merged + merged * out + out
    mergers = 1 + len(vision["deepstack_visual_indexes"])
    positions = vision["num_position_embeddings"] * hidden
    total: int = (
        vision["depth"] * (attention + mlp + 4 * hidden)
        + mergers * merger
        + positions
        + _patches(vision)
    )
    return total
