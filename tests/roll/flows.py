"""The flows: which of ROLL's examples, made how small, and what is to come of it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

WORKER = "sglang_operator.client.roll_worker.PoolInferWorker"
BATCH = 4  # prompts, or trajectories
SAMPLES = 2  # of a prompt
_SGLANG = re.compile(r"^\s*strategy_name:\s*['\"]?sglang\b", re.MULTILINE)
HOOK = "sglang_operator.client.roll_stand_in.install"


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One run of a pipeline of ROLL's against a pool of its own."""

    name: str
    example: str  # below ROLL's folder of examples
    ids: dict[str, list[int]]  # the roles' device_mapping, made small
    ends: Literal["right", "refused"] = "right"
    says: str = ""  # a part of the refusal
    agentic: bool = False
    trainer: str = "megatron_train"
    gpus: int = 1  # of an engine
    steps: int = 3
    worker: str = WORKER
    hook: str = HOOK  # Ray's worker_process_setup_hook
    changes: dict[str, Any] = field(default_factory=dict)  # of the config, at last
    story: str = ""  # what happens meanwhile: a function of ``inside.stories``
    begins_only: bool = False  # its inference workers are made and initialised, and no more
    again: int = 0  # jobs that come after it, to engines that lived on
    engines_more: int = 0  # than ROLL has workers
    pool: tuple[str, ...] = ()  # arguments of ``inside.pool``

    @property
    def engines(self) -> int:
        """As many as ROLL has workers, as a rule."""
        return len(self.ids["actor_infer"]) // self.gpus + self.engines_more

    @property
    def answers(self) -> int:
        """How many it has to have at least: a batch's in each step."""
        return self.steps * BATCH * (1 if self.agentic else SAMPLES)


def named(name: str) -> Flow:
    """The flow of that name."""
    (found,) = [flow for flow in FLOWS if flow.name == name]
    return found


def left_out(examples: Path) -> list[str]:
    """ROLL's examples for SGLang, below its folder of them, that no flow is made of."""
    of_sglang = {
        path.relative_to(examples).as_posix()
        for path in examples.rglob("*.yaml")
        if _SGLANG.search(path.read_text())
    }
    return sorted(of_sglang - {flow.example for flow in FLOWS})


_OFFPOLICY = "qwen2.5-7B-rlvr-offpolicy/rlvr_config.yaml"
_ASYNC = "qwen2.5-7B-rlvr_megatron/rlvr_config_async.yaml"
_PPU = "qwen3-30BA3B-rlvr_megatron/rlvr_config_ppu_sglang.yaml"
_GUIDE = "qwen3-30BA3B-rlvr_megatron/rlvr_config_sglang.yaml"
_VL = "qwen3-vl-30BA3B-rlvr_megatron/rlvr_megatron_80GB_sglang.yaml"
_VIDEO = "qwen3-vl-30BA3B-video-rlvr/video_r1_sglang.yaml"
_LAKE = "qwen2.5-0.5B-agentic/agent_val_frozen_lake.yaml"
_LAKE_ASYNC = "qwen2.5-0.5B-agentic/agent_val_frozen_lake_async.yaml"

_APART = {"actor_train": [0, 1], "actor_infer": [2, 3], "reference": [0, 1]}
_TWO_GPUS = {"actor_train": [0, 1], "actor_infer": [2, 3, 4, 5], "reference": [6, 7]}
_SHARED = {"actor_train": [0, 1], "actor_infer": [0, 1], "reference": [0, 1]}
_THREE = {"actor_train": [0], "actor_infer": [1, 2, 3], "reference": [4]}
_SHARE = "actor_train has the GPUs 0-1, actor_infer 0-1, and they share 0-1"

# ROLL's six examples for SGLang, its agentic ones on SGLang, and what may happen to either.
FLOWS = (
    Flow(name="rlvr, synchronous, megatron", example=_PPU, ids=_TWO_GPUS, gpus=2),
    Flow(name="rlvr, asynchronous, megatron", example=_ASYNC, ids=_APART),
    Flow(
        name="rlvr, synchronous, fsdp2",
        example=_PPU,
        ids=_TWO_GPUS,
        gpus=2,
        trainer="fsdp2_train",
    ),
    Flow(name="rlvr, asynchronous, fsdp2", example=_ASYNC, ids=_APART, trainer="fsdp2_train"),
    Flow(
        name="rlvr, batches instead of requests",
        example=_PPU,
        ids=_TWO_GPUS,
        gpus=2,
        changes={"generate_opt_level": 0},
    ),
    Flow(
        name="rlvr, colocated (the guide's example)",
        example=_GUIDE,
        ids=_SHARED,
        ends="refused",
        says=_SHARE,
    ),
    Flow(
        name="rlvr, colocated, off-policy",
        example=_OFFPOLICY,
        ids=_SHARED,
        begins_only=True,
        ends="refused",
        says=_SHARE,
    ),
    Flow(
        name="images, colocated",
        example=_VL,
        ids=_SHARED,
        begins_only=True,
        ends="refused",
        says=_SHARE,
    ),
    Flow(
        name="video, colocated",
        example=_VIDEO,
        ids=_SHARED,
        begins_only=True,
        ends="refused",
        says=_SHARE,
    ),
    Flow(
        name="video, ids apart",
        example=_VIDEO,
        ids=_APART,
        begins_only=True,
        ends="refused",
        says="actor_train has prompts with video data",
    ),
    Flow(name="agentic, asynchronous, megatron", example=_LAKE_ASYNC, ids=_APART, agentic=True),
    Flow(
        name="agentic, synchronous, fsdp2",
        example=_LAKE,
        ids=_APART,
        agentic=True,
        trainer="fsdp2_train",
    ),
    Flow(
        name="agentic, colocated",
        example=_LAKE,
        ids=_SHARED,
        agentic=True,
        ends="refused",
        says=_SHARE,
    ),
    Flow(
        name="a job without the hook, in an image without SGLang",
        example=_ASYNC,
        ids=_APART,
        hook="",
        begins_only=True,
        ends="refused",
        says="worker_process_setup_hook",
    ),
    Flow(
        name="a second job on engines that lived on",
        example=_ASYNC,
        ids=_APART,
        again=1,
    ),
    Flow(
        name="a job is killed in an update, and started again",
        example=_ASYNC,
        ids=_APART,
        again=1,
        story="job_dies_in_an_update",
    ),
    Flow(
        name="an engine dies in an update",
        example=_PPU,
        ids=_THREE,
        steps=4,
        story="dies_in_an_update",
    ),
    Flow(
        name="an engine dies while it answers",
        example=_PPU,
        ids=_THREE,
        steps=4,
        story="dies_while_it_answers",
        pool=("--token-seconds", "0.05"),
    ),
    Flow(name="the pool grows", example=_PPU, ids=_THREE, steps=4, story="grows"),
)
