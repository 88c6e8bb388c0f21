"""ROLL's arithmetic, written down again from ROLL's source and from nothing of ours.

``roll/configs/base_config.py`` and ``worker_config.py`` (what a worker's config becomes),
``roll/distributed/scheduler/resource_manager.py`` (which GPUs on which nodes),
``roll/distributed/strategy/sglang_strategy.py`` (what SGLang's Engine is given).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


@dataclass(frozen=True)
class Worker:
    """One worker as ROLL starts it."""

    rank: int
    gpus: tuple[int, ...]
    places: tuple[tuple[int, int], ...]  # node rank and GPU rank of each
    engine: dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    """The file as ROLL's start script has it, but for Hydra's defaults."""
    config = OmegaConf.load(path)
    loaded: Any = OmegaConf.to_container(config, resolve=True)
    return dict(loaded)


def workers(config: dict[str, Any], role: str = "actor_infer") -> list[Worker]:
    """The workers of a role of a PPO pipeline."""
    worker = config[role]
    # eval is what ROLL does; these are our own files.
    mapping = list(
        eval(worker["device_mapping"], {"__builtins__": {}}, {"list": list, "range": range})
    )
    per_worker = worker.get("num_gpus_per_worker", 1)
    assert len(mapping) % per_worker == 0
    world_size = len(mapping) // per_worker
    per_node = config.get("num_gpus_per_node", 8)
    found = []
    for rank in range(world_size):
        size = len(mapping) // world_size
        group = mapping[rank * size : (rank + 1) * size]
        places = tuple((gpu // per_node, gpu % per_node) for gpu in group)
        found.append(Worker(rank, tuple(group), places, _engine(config, role, group)))
    return found


def model(config: dict[str, Any], role: str) -> str | None:
    """PPOConfig: if one of the three has none, all get the pipeline's."""
    trio = ["actor_train", "actor_infer", "reference"]
    named = [config.get(r, {}).get("model_args", {}).get("model_name_or_path") for r in trio]
    if role in trio and None in named:
        return config.get("pretrain")
    own: str | None = config[role].get("model_args", {}).get("model_name_or_path")
    if role == "critic" and own is None:
        return config.get("reward_pretrain")
    return own


def _engine(config: dict[str, Any], role: str, group: list[int]) -> dict[str, Any]:
    worker = config[role]
    given = dict(worker["strategy_args"]["strategy_config"])
    tp_size = given.pop("tensor_parallel_size", len(group))
    given.pop("pipeline_parallel_size", 1)
    dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    given.setdefault("enable_memory_saver", True)
    given.update(
        {
            "model_path": model(config, role),
            "dtype": dtype.get(worker.get("model_args", {}).get("dtype", "bf16"), "auto"),
            "random_seed": config.get("seed", 42),
            "skip_tokenizer_init": True,
            "mem_fraction_static": given["mem_fraction_static"],
            "trust_remote_code": True,
            "tp_size": tp_size,
            "log_level": given.get("log_level", "info"),
            "log_level_http": given.get("log_level_http", "warning"),
            "disable_custom_all_reduce": given.get("disable_custom_all_reduce", True),
            "nnodes": 1,
            "node_rank": 0,
            "enable_return_routed_experts": worker.get("router_replay", {}).get("mode", "disable")
            != "disable",
        }
    )
    return given


def environment(config: dict[str, Any], role: str) -> dict[str, str]:
    """BaseConfig: the pipeline's variables under the worker's."""
    return {**config.get("system_envs", {}), **config[role].get("system_envs", {})}


def sampling(config: dict[str, Any], role: str = "actor_infer") -> dict[str, Any]:
    """RLVRConfig: what it overwrites in the arguments of actor_infer."""
    sequence = config.get("sequence_length")
    prompt = config.get("prompt_length", 1024)
    if sequence is None:
        sequence = config["response_length"] + prompt
    return {
        **config[role]["generating_args"],
        "num_return_sequences": config.get("num_return_sequences_in_group", 1),
        "max_new_tokens": sequence - prompt,
    }
