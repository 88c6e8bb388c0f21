"""What a version's own code says of arguments together, as far as it needs no GPU and no model.

``ServerArgs.__post_init__`` (from 0.5.21 on ``resolve_once``) and ``check_server_args`` run out of
the wheel, on stand-ins for the machine and the model: what they refuse on each of these they
refuse whatever the machine and the model are.
"""

import contextlib
import functools
import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from generators.schema.sglang import SERVER_ARGS, SGLang
from generators.schema.wheel_interpreter import Stub

_UTILS = "sglang.srt.utils.common"
_MEMORY = "get_device_memory_capacity"
_HOPPER = ("is_cuda", "is_hopper_with_cuda_12_3", "is_sm90_supported", "is_flashinfer_available")
_BLACKWELL = ("is_cuda", "is_sm100_supported", "is_blackwell_supported", "is_flashinfer_available")

_HUB = "sglang.srt.utils.hf_transformers_utils"  # with functions that ask the hub
_ELSEWHERE = ("is_hip", "is_npu", "is_xpu", "is_cpu", "is_hpu")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A machine and a model."""

    name: str
    true: tuple[str, ...]  # of the functions that look at the machine
    memory: int = 80 * 1024
    architecture: str = "Qwen2ForCausalLM"
    mla: bool = False


NEWEST = "Blackwell"
GROUNDS = (
    Ground(name="Hopper", true=_HOPPER),
    Ground(name=NEWEST, true=_BLACKWELL, memory=180 * 1024),
    Ground(name="Hopper, MLA", true=_HOPPER, architecture="DeepseekV2ForCausalLM", mla=True),
    Ground(name="Hopper, vision", true=_HOPPER, architecture="Qwen2_5_VLForConditionalGeneration"),
    Ground(name="Ampere", true=("is_cuda", "is_flashinfer_available"), memory=40 * 1024),
    Ground(name="AMD", true=("is_hip",), memory=192 * 1024),
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why arguments are refused, and where; both empty if they are not."""

    place: str = ""
    message: str = ""

    @property
    def is_judgement(self) -> bool:
        """Whether it is SGLang that refuses, and nothing that the stand-ins lack."""
        return self.message.startswith(_REFUSALS)


_REFUSALS = ("AssertionError", "ValueError", "RuntimeError", "NotImplementedError")


class _Model(Stub):
    """The config of a model; what is not named here is not there."""

    def __init__(self, ground: Ground) -> None:
        super().__init__("model")
        self.context_len = 40960
        self.is_multimodal = False
        self.is_generation = True
        self.joint_head_config = self.pointer_head = None
        self.hf_config = SimpleNamespace(architectures=[ground.architecture], model_type="qwen2")
        self.hf_text_config = self.hf_config
        self.num_attention_heads = self.num_key_value_heads = 32


def _config(ground: Ground) -> SimpleNamespace:
    return SimpleNamespace(architectures=[ground.architecture], model_type="qwen2")


def judge(sglang: SGLang, fields: Mapping[str, Any], ground: Ground) -> Verdict:
    """What the version says of these fields of ServerArgs."""
    logging.disable(logging.CRITICAL)
    try:
        with _environment_kept(), _standing_in(sglang, ground):
            _run(sglang, fields, ground)
    except Exception as error:
        return _verdict(sglang, error)
    finally:
        logging.disable(logging.NOTSET)
    return Verdict()


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """As ``mock.patch.dict(os.environ)``, which writes all of it anew each time."""
    before = dict(os.environ)
    try:
        yield
    finally:
        after = dict(os.environ)
        for name in after.keys() - before.keys():
            del os.environ[name]
        os.environ.update({k: v for k, v in before.items() if after.get(k) != v})


def _run(sglang: SGLang, fields: Mapping[str, Any], ground: Ground) -> None:
    model = _Model(ground)
    config = sglang.interpreter.get("sglang.srt.configs.model_config", "ModelConfig")
    if isinstance(config, type):
        config.from_server_args = staticmethod(_always(model))  # type: ignore[attr-defined]
    kind = _server_args(sglang, ground)
    kind.model_config = model
    args = kind(**{"model_path": "x/y", "device": "cuda", **fields})
    if hasattr(args, "resolve_once"):
        args.resolve_once()
    if hasattr(args, "check_server_args"):
        args.check_server_args()


@functools.cache
def _server_args(sglang: SGLang, ground: Ground) -> Any:
    """ServerArgs on a machine and for a model; once, for SGLang keeps much for each class."""

    def model(_: Any) -> Any:
        return kind.model_config

    methods = {
        "model_config": None,
        "get_model_config": model,
        "use_mla_backend": lambda self: ground.mla,
        "check_torch_2_9_1_cudnn_compatibility": lambda self: None,
    }
    kind: Any = type("ServerArgs", (sglang._server_args,), methods)
    return kind


@contextlib.contextmanager
def _standing_in(sglang: SGLang, ground: Ground) -> Iterator[None]:
    """The functions that look at the machine, as this ground has it.

    One by one: what else a run defines in the module has to stay.
    """
    found: dict[str, Any] = {name: _always(False) for name in _ELSEWHERE}
    found |= {name: _always(True) for name in ground.true}
    found[_MEMORY] = _always(ground.memory)
    there = [name for name in (SERVER_ARGS, _UTILS) if sglang.interpreter.source(name)]
    modules = [vars(sglang.interpreter.module(name)) for name in there]
    before = [{name: module.get_or_none(name) for name in found} for module in modules]
    for module in modules:
        module.update(found)
    if sglang.interpreter.source(_HUB):
        answers = {"resolve_hf_gguf_reference": None, "get_config": _config(ground)}
        hub = vars(sglang.interpreter.module(_HUB))
        hub.update({name: _always(answer) for name, answer in answers.items()})
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.update(own)


def _always(value: Any) -> Any:
    return lambda *args, **keywords: value


def _verdict(sglang: SGLang, error: Exception) -> Verdict:
    # Not ``extract_tb``, which looks for each file's text wherever Python imports from.
    found = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [(code.co_filename, line) for code, line in found if code.co_filename[:7] == "sglang."]
    place = "{}:{}".format(*ours[-1]) if ours else "elsewhere"
    return Verdict(place=place, message=f"{type(error).__name__}: {error}")
