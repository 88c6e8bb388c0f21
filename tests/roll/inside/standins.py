"""What stands in for what is not here: GPUs, megatron, and the address of the node.

``install`` runs at the start of every process of a run, before anything of ROLL is imported.  It
also writes down which of ROLL's modules each process imports, and what stood in for others.
"""

import importlib.abc
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

NODE = os.environ.get("ROLL_NODE", "127.0.0.1")
_WATCHED = ("roll", "megatron", "mcore_adapter", "sglang")


def install() -> None:
    """Once in a process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        # Named by gem, which ROLL's environments are made of, for data sets that nobody asks for.
        stand_in("reasoning_gym", factory=types.SimpleNamespace(DATASETS={}))


def record(name: str, origin: str) -> None:
    """This process has this module, from there."""
    with Path(os.environ["ROLL_MODULES"]).open("a") as modules:
        modules.write(f"{name}\t{origin}\n")


def stand_in(name: str, **contents: Any) -> types.ModuleType:
    """A module of this name with these contents, and its parents where there are none."""
    parent, _, last = name.rpartition(".")
    if parent and parent not in sys.modules:
        stand_in(parent)
    module = types.ModuleType(name)
    vars(module).update(contents)
    if not contents:
        module.__path__ = []
    sys.modules[name] = module
    if parent:
        setattr(sys.modules[parent], last, module)
    if contents:
        record(name, "stand-in")
    return module


class _Finder(importlib.abc.MetaPathFinder):
    """Sees each import of ROLL's; some modules are changed as soon as they are there."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in _WATCHED or self._asking:
            return None
        if name == _REPLAY:
            _replay()
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            return None
        finally:
            self._asking = False
        if spec is None:
            return None
        if name.startswith("roll.") and spec.origin and not spec.submodule_search_locations:
            record(name, "real")
        if spec.loader is not None and name in _CHANGED:
            spec.loader = _Changing(spec.loader, _CHANGED[name])
        return spec


class _Changing(importlib.abc.Loader):
    def __init__(self, loader: Any, change: Callable[[Any], None]) -> None:
        self._loader = loader
        self._change = change

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        created: types.ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: types.ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)


def _platform(module: Any) -> None:
    """ROLL's CPU platform, on which Ray counts GPUs; as a node without GPUs it has no ``init``."""
    from roll.platforms.cpu import CpuPlatform

    class RaysGpus(CpuPlatform):
        ray_device_key = "GPU"
        device_control_env_var = "CUDA_VISIBLE_DEVICES"
        ray_experimental_noset = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"

        @staticmethod
        def device_count() -> int:
            return int(os.environ["ROLL_GPUS"])

    RaysGpus.random = types.SimpleNamespace(get_rng_state_all=list)
    for name in _MEMORY:
        setattr(RaysGpus, name, staticmethod(_nothing))
    module.current_platform = RaysGpus()
    record("roll.platforms.current_platform", "stand-in")


# What torch.cuda says of memory, and torch.cpu does not.
_MEMORY = (
    "device_memory_used",
    "empty_cache",
    "max_memory_allocated",
    "max_memory_reserved",
    "memory_allocated",
    "memory_reserved",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_peak_memory_stats",
)


def _nothing(*_: Any) -> int:
    return 0


def _network(module: Any) -> None:
    """ROLL asks a route to the internet for the node's address; here everything is on loopback."""
    module.get_node_ip = lambda: NODE
    record("roll.utils.network_utils.get_node_ip", "stand-in")


_CHANGED: dict[str, Callable[[Any], None]] = {
    "roll.platforms": _platform,
    "roll.utils.network_utils": _network,
}


class _Named(types.ModuleType):
    """A module of which names are imported, and nothing is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


# ROLL's schedulers take one function of it, which says how wide the number of an expert is.
_REPLAY = "roll.third_party.megatron.router_replay_utils"
_MEGATRONS = (
    "parallel_state",
    "pipeline_parallel.schedules",
    "pipeline_parallel.utils",
    "tensor_parallel",
    "transformer.transformer_config",
    "transformer.transformer_layer",
    "transformer.transformer_block",
    "transformer.moe.router_replay",
    "transformer.module",
    "packed_seq_params",
    "distributed",
)


def _replay() -> None:
    for name in (f"megatron.core.{each}" for each in _MEGATRONS):
        if name not in sys.modules:
            stand_in(name)
            sys.modules[name].__class__ = _Named
            record(name, "stand-in")


def megatron() -> None:
    """Where a trainer's process says that it is a stage of a pipeline, of one tensor rank each."""

    def stage() -> int:
        return int(os.environ["RANK"])

    def zero(*_: Any, **__: Any) -> int:
        return 0

    def alone(*_: Any, **__: Any) -> None:
        return None  # no group: nothing to gather

    def stages() -> Any:
        import torch.distributed as dist

        return dist.group.WORLD

    stand_in(
        "megatron.core.mpu",
        get_data_parallel_rank=zero,
        get_tensor_model_parallel_rank=zero,
        get_expert_model_parallel_rank=zero,
        get_expert_data_parallel_rank=zero,
        get_pipeline_model_parallel_rank=stage,
        get_pipeline_model_parallel_group=stages,
        get_tensor_model_parallel_group=alone,
        get_expert_tensor_parallel_group=alone,
        get_expert_model_parallel_group=alone,
        model_parallel_is_initialized=lambda: True,
    )
    stand_in("mcore_adapter.models.converter.model_converter", ModelConverter=Converter)
    stand_in("mcore_adapter.models.model_factory", McaGPTModel=object)


class Converter:
    """Names are the same on both sides."""

    def __init__(self, config: Any, **_: Any) -> None:
        self.mca_config = config
        self.dist_converter = self

    def is_expert_parallel_weight(self, name: str) -> bool:
        return ".experts." in name

    def preprocess_layer_index(self, name: str, vp_stage: int = 0) -> str:
        return name

    def convert_to_hf(self, weights: dict[str, list[Any]], **_: Any) -> dict[str, Any]:
        return {name: weight for name, (weight,) in weights.items()}
