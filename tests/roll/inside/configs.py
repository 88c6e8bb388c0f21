"""ROLL's own example files, made small: fewer ids, two prompts' domains, a model of no size."""

import json
from pathlib import Path
from typing import Any

from tests.roll.flows import BATCH, SAMPLES, Flow

PROMPTS = 32  # in the data set
_TRAINER = "tests.roll.inside.trainer.Trainer"
_JUDGE = "tests.roll.inside.trainer.Judge"
_TAG = "deepmath_103k"  # of all prompts
_ROLLS_JUDGE = "llm_judge"


def make(flow: Flow, source: Path, scratch: Path) -> Any:
    """The config object that ROLL's start script would make of the file."""
    from dacite import from_dict

    if flow.agentic:
        from roll.pipeline.agentic.agentic_config import AgenticConfig as Config
    else:
        from roll.pipeline.rlvr.rlvr_config import RLVRConfig as Config

    return from_dict(data_class=Config, data=small(flow, source, scratch))


def small(flow: Flow, source: Path, scratch: Path) -> dict[str, Any]:
    """What the file holds then."""
    raw = compose(source / "examples" / flow.example)
    raw.pop("hydra", None)
    _common(raw, flow, scratch)
    if flow.agentic:
        _agentic(raw, flow.environment)
    else:
        _rlvr(raw, flow, scratch)
    _merge(raw, flow.changes)
    return raw


def compose(path: Path) -> dict[str, Any]:
    """The file as hydra and OmegaConf read it."""
    from hydra import compose as composed
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(path.parent), version_base=None):
        found: Any = OmegaConf.to_container(composed(config_name=path.stem), resolve=True)
    assert isinstance(found, dict)
    return found


def _common(raw: dict[str, Any], flow: Flow, scratch: Path) -> None:
    raw |= {
        "max_steps": flow.steps,
        "save_steps": 1000,
        "eval_steps": 1000,
        "logging_steps": 1000,
        "rollout_batch_size": BATCH,
        "track_with": "",
        "tracker_kwargs": {},
        "system_envs": {},
        "pretrain": str(scratch / "model"),
        "reward_pretrain": str(scratch / "model"),
        "checkpoint_config": {},
        "output_dir": str(scratch / "output"),
        "logging_dir": str(scratch / "logs"),
        "profiler_output_dir": str(scratch / "profiler"),
        "length_profiler_dir": str(scratch / "profiler"),
        "model_update_buffer_size_mb": 1,
    }
    _models(raw, str(scratch / "model"))
    for role in ("actor_train", "reference", "critic"):
        if role in raw:
            raw[role]["worker_cls"] = _TRAINER
    for role, ids in flow.ids.items():
        section = raw["rewards"][role] if role == _ROLLS_JUDGE else raw[role]
        section["device_mapping"] = str(ids)
    raw["actor_train"]["strategy_args"]["strategy_name"] = flow.trainer
    training = raw["actor_train"]["training_args"]
    training |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    stages = len(flow.ids["actor_train"])
    if flow.trainer.startswith("megatron"):
        raw["actor_train"]["strategy_args"]["strategy_config"] = {
            "tensor_model_parallel_size": 1,
            "pipeline_model_parallel_size": stages,
        }
    if "reference" in raw:
        raw["reference"]["strategy_args"] = {"strategy_name": "hf_infer", "strategy_config": {}}
    infer = raw["actor_infer"]
    infer["worker_cls"] = flow.worker
    infer["num_gpus_per_worker"] = flow.gpus
    infer["strategy_args"]["strategy_name"] = "sglang"
    if flow.agentic:  # these examples are for vLLM
        infer["strategy_args"]["strategy_config"] = {
            "mem_fraction_static": 0.7,
            "load_format": "dummy",
        }


def _models(raw: dict[str, Any], path: str) -> None:
    """Every role's is this one."""
    for key, value in raw.items():
        if key == "model_name_or_path":
            raw[key] = path
        elif isinstance(value, dict):
            _models(value, path)


def _rlvr(raw: dict[str, Any], flow: Flow, scratch: Path) -> None:
    raw |= {"prompt_length": 96, "response_length": 16, "num_return_sequences_in_group": SAMPLES}
    # Answers are as long as they may be, and rewards mean nothing: all of them are trained on.
    raw |= {"max_len_mask": False, "difficulty_mask": False}
    domain = flow.domain if flow.domain in raw["rewards"] else next(iter(raw["rewards"]))
    data = raw["actor_train"]["data_args"]
    data |= {
        "file_name": ["prompts.jsonl"],
        "dataset_dir": str(scratch),
        "domain_interleave_probs": {domain: 1.0},
        "preprocessing_num_workers": 1,
        "messages": "messages",
    }
    reward = raw["rewards"][domain] | {"tag_included": [_TAG], "world_size": 1}
    if domain == _ROLLS_JUDGE:  # of SGLang here, and of the policy's engines
        reward["strategy_args"] = {
            "strategy_name": "sglang",
            "strategy_config": {"mem_fraction_static": 0.7, "pool": "actor-infer"},
        }
        reward["generating_args"]["max_new_tokens"] = 8
    else:
        reward["worker_cls"] = _JUDGE
    raw["rewards"] = {domain: reward}
    raw.pop("validation", None)


def _agentic(raw: dict[str, Any], environment: str) -> None:
    raw |= {"sequence_length": 2048, "val_batch_size": BATCH}
    for role in ("actor_infer", "train_env_manager", "val_env_manager"):
        if raw[role].get("generating_args"):
            raw[role]["generating_args"]["max_new_tokens"] = 16
    raw["max_tokens_per_step"] = 16
    raw["max_actions_per_traj"] = 2
    for name in ("train_env_manager", "val_env_manager"):
        raw[name] |= {
            "max_env_num_per_worker": 4,
            "num_env_groups": 2,
            "group_size": 2,
            "tags": [environment],
            "num_groups_partition": [2],
        }
    raw["custom_envs"][environment] |= {"max_steps": 2, "max_tokens_per_step": 16}


def _merge(raw: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            _merge(raw[key], value)
        else:
            raw[key] = value


def write_model(flow: Flow, scratch: Path) -> None:
    """A tokenizer and a config, as a folder of a model has them; and prompts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2TokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_OF_PICTURES]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, *special])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    kind = Qwen2TokenizerFast if flow.pictures else PreTrainedTokenizerFast
    fast = kind(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        eos_token=special[2],
        additional_special_tokens=list(_OF_PICTURES),
    )
    fast.chat_template = _TEMPLATE
    _write_config(flow, vocabulary, scratch / "model")
    if flow.pictures:
        _write_processor(fast, scratch / "model")
    else:
        fast.save_pretrained(scratch / "model")
    with (scratch / "prompts.jsonl").open("w") as prompts:
        for number in range(PROMPTS):
            row = _seen(number, scratch) if flow.pictures else _asked(flow, number)
            prompts.write(json.dumps(row) + "\n")


_OF_PICTURES = ("<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>")
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n"
    "{% if m['content'] is string %}{{m['content']}}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{part['text']}}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _write_config(flow: Flow, vocabulary: dict[str, int], folder: Path) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2Config, Qwen3MoeConfig

    size = {"vocab_size": 32000, "num_hidden_layers": 2}
    if flow.experts:
        Qwen3MoeConfig(**size, num_experts=8, num_experts_per_tok=2).save_pretrained(folder)
    elif flow.pictures:
        names = ("image", "video", "vision_start")
        tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>")
        ids = {f"{n}_token_id": vocabulary[t] for n, t in zip(names, tokens, strict=True)}
        Qwen2_5_VLConfig(**ids, text_config=size).save_pretrained(folder)
    else:
        Qwen2Config(**size).save_pretrained(folder)


def _write_processor(tokenizer: Any, folder: Path) -> None:
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)


def _asked(flow: Flow, number: int) -> dict[str, Any]:
    """A prompt."""
    return {
        "id": str(number),
        "messages": [{"role": "user", "content": f"{number} + 1 = ?"}],
        "tag": _TAG,
        "domain": flow.domain,
        "ground_truth": str(number + 1),
    }


def _seen(number: int, scratch: Path) -> dict[str, Any]:
    """A prompt with a picture, as One-RL-to-See-Them-All has them."""
    from PIL import Image

    path = scratch / f"{number}.png"
    Image.new("RGB", (56, 56), (8 * number, 0, 0)).save(path)
    return {
        "prompt": [{"role": "user", "content": "<image> How red is it?"}],
        "images": [str(path)],
        "data_source": _TAG,
        "reward_model": {"ground_truth": str(8 * number), "style": "rule"},
    }
