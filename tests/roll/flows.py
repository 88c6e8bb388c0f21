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
    ends: Literal["right", "refused", "told"] = "right"
    says: str = ""  # a part of the refusal, or of the error that it ends with
    agentic: bool = False
    environment: str = "FrozenLake"  # of an agentic one
    domain: str = "math_rule"  # of its prompts, where it is none
    pictures: bool = False  # in its prompts
    experts: bool = False  # its model chooses some for each token
    trainer: str = "megatron_train"
    gpus: int = 1  # of an engine
    nodes: int = 1  # of Ray
    steps: int = 3
    worker: str = WORKER
    hook: str = HOOK  # Ray's worker_process_setup_hook
    changes: dict[str, Any] = field(default_factory=dict)  # of the config, at last
    story: str = ""  # what happens meanwhile: a function of ``inside.stories``
    begins_only: bool = False  # its inference workers are made and initialised, and no more
    again: int = 0  # jobs that come after it, to engines that lived on
    rollout: bool = False  # those train nothing: ROLL's rollout pipeline
    engines_more: int = 0  # than ROLL has workers
    pool: tuple[str, ...] = ()  # arguments of ``inside.pool``
    shared: bool = False  # the engines of its pool join the trainer on its GPUs
    plane: bool = False  # on a real control plane instead (``tests.roll.plane``)

    @property
    def engines(self) -> int:
        """As many as ROLL has workers, as a rule."""
        return len(self.ids["actor_infer"]) // self.gpus + self.engines_more

    @property
    def answers(self) -> int:
        """How many it has to have at least: a batch's in each step."""
        if self.ends == "told":
            return BATCH  # before that
        jobs = 2 if self.rollout else 1  # another one goes on where the first has ended
        return jobs * self.steps * BATCH * (1 if self.agentic else SAMPLES)


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
_GUESS = "qwen3_agentic_gem/gem_game_guess_the_number.yaml"
_LORA = "qwen2.5-0.5B-agentic/agentic_val_sokoban_lora.yaml"

_APART = {"actor_train": [0, 1], "actor_infer": [2, 3], "reference": [0, 1]}
_TWO_GPUS = {"actor_train": [0, 1], "actor_infer": [2, 3, 4, 5], "reference": [6, 7]}
_SHARED = {"actor_train": [0, 1], "actor_infer": [0, 1], "reference": [0, 1]}
# As in the guide's file, where the trainer has more GPUs than the engines.
_GUIDES = {"actor_train": [0, 1, 2, 3], "actor_infer": [0, 1], "reference": [0, 1]}
_BY_TWOS = {"actor_train": [0, 1, 2, 3], "actor_infer": [0, 1, 2, 3], "reference": [0, 1]}
_THREE = {"actor_train": [0], "actor_infer": [1, 2, 3], "reference": [4]}
_NEXT_NODE = {"actor_train": [0, 1], "actor_infer": [8, 9], "reference": [0, 1]}
_SOME = {"actor_train": [0, 1], "actor_infer": [0, 1, 2, 3], "reference": [0, 1]}
_REPLAY = {role: {"router_replay": {"mode": "R3"}} for role in ("actor_train", "actor_infer")}
_PARTED = {"type": "std_filter", "filter_args": {"std_threshold": 0}}
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
        name="rlvr, some prompts thrown away and others begun (dynamic sampling)",
        example=_PPU,
        ids=_TWO_GPUS,
        gpus=2,
        changes={
            "is_use_additional_prompts": True,
            "max_additional_running_prompts": 4,
            "is_num_return_sequences_expand": True,
            "rewards": {"math_rule": {"query_filter_config": _PARTED}},
        },
    ),
    Flow(
        name="rlvr, requests by SGLang's router (SglangRouter)",
        example=_PPU,
        ids=_TWO_GPUS,
        gpus=2,
        changes={
            "router_args": {"router_name": "SglangRouter"},
            "actor_infer": {"strategy_args": {"strategy_config": {"grpc_mode": False}}},
        },
    ),
    Flow(
        name="rlvr, the guide's example with ids apart",
        example=_GUIDE,
        ids=_TWO_GPUS,
        gpus=2,
    ),
    Flow(name="rlvr, off-policy, ids apart", example=_OFFPOLICY, ids=_APART),
    Flow(
        name="rlvr, a judge on SGLang, in the policy's pool",
        example=_GUIDE,
        ids={**_TWO_GPUS, "llm_judge": [7]},
        gpus=2,
        domain="llm_judge",
    ),
    Flow(
        name="rlvr, router replay (R3), SGLang 0.5.14",
        example=_GUIDE,
        ids=_TWO_GPUS,
        gpus=2,
        experts=True,
        changes=_REPLAY,
        pool=("--version", "0.5.14", "--", "--enable-return-routed-experts"),
    ),
    Flow(
        name="rlvr, router replay (R3), SGLang 0.5.7",
        example=_GUIDE,
        ids=_TWO_GPUS,
        gpus=2,
        experts=True,
        changes=_REPLAY,
        begins_only=True,
        ends="refused",
        says="router_replay wants to know the experts of each token",
    ),
    Flow(
        name="rlvr, ids in common, on a pool with GPUs of its own",
        example=_GUIDE,
        ids=_SHARED,
        ends="refused",
        says=_SHARE,
    ),
    Flow(
        name="rlvr, colocated (the guide's example)",
        example=_GUIDE,
        ids=_GUIDES,
        shared=True,
    ),
    Flow(
        name="rlvr, colocated, off-policy, fsdp2, engines of two GPUs",
        example=_OFFPOLICY,
        ids=_BY_TWOS,
        gpus=2,
        trainer="fsdp2_train",
        shared=True,
    ),
    Flow(
        name="images, colocated",
        example=_VL,
        ids=_SHARED,
        domain="math",
        pictures=True,
        shared=True,
    ),
    Flow(name="images, ids apart", example=_VL, ids=_APART, domain="math", pictures=True),
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
        name="agentic, a game of several turns, each of them a sample",
        example=_GUESS,
        ids=_APART,
        agentic=True,
        environment="GuessTheNumber",
    ),
    Flow(
        name="agentic, a rollout job on what a job has trained",
        example=_LAKE,
        ids=_APART,
        agentic=True,
        again=1,
        rollout=True,
    ),
    Flow(
        name="agentic, partial_gpu_mode",
        example=_LAKE_ASYNC,
        ids=_SOME,
        agentic=True,
        changes={"partial_gpu_mode": True},
        shared=True,
    ),
    Flow(
        name="agentic, LoRA",
        example=_LORA,
        ids=_APART,
        agentic=True,
        begins_only=True,
        ends="refused",
        says="actor_train trains a LoRA adapter",
    ),
    Flow(
        name="agentic, colocated, a job is killed in its rollout, and started again",
        example=_LAKE,
        ids=_SHARED,
        agentic=True,
        again=1,
        story="job_dies_in_a_rollout",
        shared=True,
    ),
    Flow(
        name="colocated, the pool has other ids than ROLL",
        example=_GUIDE,
        ids=_SHARED,
        begins_only=True,
        ends="refused",
        says="their ids are the trainer's GPUs, and have to be the same",
        pool=("--first-id", "2"),
        shared=True,
    ),
    Flow(
        name="rlvr, actor_infer's ids on a Ray node of their own",
        example=_ASYNC,
        ids=_NEXT_NODE,
        nodes=2,
    ),
    Flow(
        name="rlvr, asynchronous, megatron, on a real control plane",
        example=_ASYNC,
        ids=_APART,
        plane=True,
    ),
    Flow(
        name="rlvr, colocated, on a real control plane",
        example=_GUIDE,
        ids=_SHARED,
        shared=True,
        plane=True,
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
    Flow(
        name="the pool shrinks",
        example=_PPU,
        ids=_THREE,
        steps=4,
        story="shrinks",
        ends="told",
        says="ROLL has 3 inference workers, the pool has 2 engines",
    ),
)
