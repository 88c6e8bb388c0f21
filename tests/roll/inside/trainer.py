"""A trainer for ROLL's pipelines: it trains nothing, and sends its weights by ROLL's own updaters.

``Trainer`` is a ``worker_cls`` for actor_train, reference and the like.  All elements of all its
tensors have one value, which no other model update of the flow has: that tells answers from the
weights of one update from those of any other, and from half of an update.
"""

import os
import types
from typing import Any

import torch
import torch.distributed as dist
from roll.distributed.executor.worker import Worker
from roll.distributed.scheduler.decorator import Dispatch, register
from roll.distributed.scheduler.protocol import DataProto
from roll.models.model_providers import default_tokenizer_provider
from roll.utils.context_managers import state_offload_manger
from roll.utils.offload_states import OffloadStateType

from sglang_operator.testing.engine.weights import names
from tests.roll.inside import buckets, memory, standins

_SHAPE = (256, 512)
_LAYERS = 2
_PHASE = "roll_EXEC_FUNC_NAME"  # ROLL's, of its state_offload_manger
_UPDATES = 32  # of one job, at most


class Model(torch.nn.Module):
    """The tensors of the fake engines' model, or one pipeline stage's part of them."""

    def __init__(self, stage: int = 0, stages: int = 1) -> None:
        super().__init__()
        first = int(os.environ["ROLL_JOB"]) * _UPDATES  # bfloat16 has whole numbers up to 256
        self.tensors = {
            name: torch.full(_SHAPE, first, dtype=torch.bfloat16)
            for index, name in enumerate(names(_LAYERS))
            if index * stages // len(names(_LAYERS)) == stage
        }
        self.config = types.SimpleNamespace(
            model_type="qwen2",
            num_moe_experts=None,
            expert_model_parallel_size=1,
            expert_tensor_parallel_size=1,
            tensor_model_parallel_size=1,
            pipeline_model_parallel_size=stages,
            hf_model_type="qwen2",
        )

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return iter(self.tensors.items())

    def state_dict_for_save_checkpoint(self) -> dict[str, torch.Tensor]:
        return self.tensors


class Strategy:
    """What ROLL's training strategies do with weights, and nothing else of them."""

    offload_nccl = False

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.worker_config = worker.worker_config
        name = self.worker_config.strategy_args.strategy_name
        self.megatron = name.startswith("megatron")
        staged = self.megatron and worker.world_size > 1
        self.model = Model(worker.rank, worker.world_size) if staged else Model()
        self.updaters: dict[str, Any] = {}
        self._held: set[str] = set()
        places = worker.get_devices_info()
        self._ids = [each["node_rank"] * memory.GPUS_PER_NODE + each["gpu_rank"] for each in places]
        node_rank, index = divmod(self._ids[0], memory.GPUS_PER_NODE)
        os.environ["ROLL_OWN_GPU"] = memory.uuid(node_rank, index)
        if not dist.is_initialized():
            dist.init_process_group("gloo")

    def load_states(self, include: Any = None, non_blocking: bool = False) -> None:
        self._hold(self._held | _named(include))

    def offload_states(self, include: Any = None, non_blocking: bool = False) -> None:
        self._hold(self._held - _named(include))

    def _hold(self, states: set[str]) -> None:
        if states == self._held:
            return
        self._held = states
        phase = os.environ.get(_PHASE, "")
        memory.note(memory.TRAINER, self.worker.worker_name, self._ids, states, phase)

    def setup_model_update(self, infer_cluster: Any, model_update_name: str) -> None:
        """As MegatronTrainStrategy and FSDP2TrainStrategy do it."""
        assert model_update_name not in self.updaters
        given: dict[str, Any] = {
            "pipeline_config": self.worker.pipeline_config,
            "worker_config": self.worker_config,
            "model_update_name": model_update_name,
            "infer_cluster": infer_cluster,
        }
        if self.megatron:
            standins.megatron()
            from roll.third_party.megatron.model_update import MegatronWeightUpdater

            updater = MegatronWeightUpdater(models_unwrapped=[self.model], **given)
        else:
            from roll.third_party.fsdp2.model_update import FSDP2WeightUpdater

            is_lora = self.worker_config.model_args.lora_target is not None
            updater = FSDP2WeightUpdater(model=self.model, is_lora=is_lora, **given)
        self.updaters[model_update_name] = updater

    def model_update(self, model_update_name: str) -> Any:
        buckets.free()
        for tensor in self.model.tensors.values():
            tensor += 1
        return self.updaters[model_update_name].model_update()


def _named(include: Any) -> set[str]:
    """ROLL's names of what a strategy is to load or to offload."""
    return {each.value for each in include or OffloadStateType}


class Trainer(Worker):
    """The methods that the pipelines call of an ActorWorker."""

    def _at_work(self, data: Any, what: str, *states: Any) -> Any:
        """With its memory, as ActorWorker has it."""
        return state_offload_manger(
            strategy=self.strategy,
            metrics={},
            metric_infix=f"{self.cluster_name}/{what}",
            is_offload_states=data.meta_info.get("is_offload_states", True),
            load_kwargs={"include": list(states)},
        )

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def initialize(self, pipeline_config: Any) -> None:
        super().initialize(pipeline_config)
        self.strategy = Strategy(self)
        self.strategy.load_states()  # as a model that is made, and offloaded
        self.strategy.offload_states()
        self.tokenizer = default_tokenizer_provider(model_args=self.worker_config.model_args)
        if self.strategy.megatron and self.world_size > 1:  # stages of one pipeline
            self.rank_info.dp_rank, self.rank_info.dp_size = 0, 1
            self.rank_info.pp_rank, self.rank_info.pp_size = self.rank, self.world_size

    @register(dispatch_mode=Dispatch.DP_MP_DISPATCH_FIRST, trace=True, prefetch=False)
    def train_step(self, data: Any) -> Any:
        model, other = OffloadStateType.model_params, OffloadStateType.other_params
        with self._at_work(data, "train_step", model, other):
            self.strategy.load_states(include=[OffloadStateType.optimizer_states])
            if self.worker_config.router_replay.mode == "R3" and self.rank_info.pp_rank == 0:
                data.prefetch()
                found = data.batch.get("routed_experts", None)
                assert found is not None, "as MegatronTrainStrategy asserts"
        return DataProto(meta_info={"metrics": {}})

    @register(dispatch_mode=Dispatch.DP_MP_DISPATCH_FIRST, trace=True, prefetch=False)
    def compute_log_probs(self, data: Any) -> Any:
        with self._at_work(data, "compute_log_probs", OffloadStateType.model_params):
            rows, length = self._shape(data)
        nothing = torch.full((rows, length - 1), -0.5)
        output = DataProto.from_dict(tensors={"log_probs": nothing, "entropy": nothing + 1})
        output.meta_info = {"metrics": {}}
        return output

    def _shape(self, data: Any) -> tuple[int, int]:
        """That of the batch, which ROLL gives to the first stage of a pipeline only."""
        found: list[Any] = [None]
        if self.rank_info.pp_rank == 0:
            data.prefetch()
            found = [tuple(data.batch["input_ids"].shape)]
        if self.rank_info.pp_size > 1:
            dist.broadcast_object_list(found, src=0)
        rows, length = found[0]
        return rows, length

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def do_checkpoint(self, global_step: int, is_last_step: Any = None) -> Any:
        return DataProto(meta_info={"metrics": {}})


class Judge(Worker):
    """A rule that rewards every other answer: the worker_cls of a domain."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def initialize(self, pipeline_config: Any) -> None:
        super().initialize(pipeline_config)
        self.strategy = None
        self.judged = 0

    @register(dispatch_mode=Dispatch.DP_MP_COMPUTE, clear_cache=False)
    def compute_rewards(self, data: Any) -> Any:
        rows, length = data.batch["responses"].shape
        scores = (torch.arange(rows, dtype=torch.float16) + self.judged) % 2
        self.judged += rows
        output = DataProto.from_dict(
            tensors={
                "token_level_rewards": torch.zeros(rows, length, dtype=torch.float16),
                "response_level_rewards": scores,
                "scores": scores.clone(),
            }
        )
        output.meta_info = {"metrics": {}}
        return output
