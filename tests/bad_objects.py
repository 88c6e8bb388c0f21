"""One bad pool for each error in the table of errors, and who is the first to say so."""

import re
import string
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from sglang_operator.api import errors
from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, guide_spec, nested, with_config

Spec = dict[str, Any]


class First(Enum):
    """Who refuses an object first, when all that is there to refuse it is installed."""

    STRUCTURE = "the API server, by the structure of the definition and in words of its own"
    RULE = "the API server, by a rule of the definition"
    POLICY = "the API server, by the policy of the version"
    OPERATOR = "the operator"


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A pool that is wrong in one way."""

    row: errors.Row
    spec: Spec
    first: First
    name: str

    @property
    def problems(self) -> tuple[errors.Problem, ...]:
        """What is wrong with the object, offline."""
        found = resolve_pool(replace(OWNER, name=self.name), self.spec)
        assert isinstance(found, Refused)
        return found.errors

    def is_said_by(self, problem: errors.Problem) -> bool:
        """Whether the problem has the row's reason and its text, whatever the values in it."""
        pattern = "".join(
            re.escape(before) + ("" if name is None else ".+")
            for before, name, _, _ in string.Formatter().parse(self.row.text)
        )
        return problem.reason == self.row.reason and bool(re.fullmatch(pattern, problem.message))


def _config(**config: object) -> Spec:
    return with_config(**config)


def _image(version: str, spec: Spec) -> Spec:
    return {**spec, "image": f"lmsysorg/sglang:v{version}"}


def _with(**changes: object) -> Spec:
    """The guide's spec with these changes; a field that is None is left out."""
    return {key: value for key, value in guide_spec(**changes).items() if value is not None}


_MODEL = guide_spec()["model_args"]
_STRATEGY = guide_spec()["strategy_args"]
_TWO_CONTAINERS = {"spec": {"containers": [{"name": "engine"}, {"name": "side"}]}}
_UNNAMED = {**_MODEL, "model_name_or_path": None}

STRUCTURE: dict[str, Spec] = {
    "FIELD_TYPE": _with(seed="one"),
    "FIELD_RANGE": _with(num_gpus_per_worker=0),
    "MAPPING_NOT_A_STRING": _with(device_mapping=[0, 1]),
    "MAPPING_TOO_LONG": _with(device_mapping="[0" + ",1" * 2048 + "]"),
}
RULE: dict[str, Spec] = {
    "POOL_NAME": _with(),
    "FIELD_MISSING": _with(strategy_args=None),
    "ROLLOUT_SHARE": _with(rollout={"maxUnavailable": "half"}),
    "MAPPING_GRAMMAR": _with(device_mapping="range(0,8)"),
    "MAPPING_UNRESOLVED": _with(device_mapping="${mapping}"),
    "MAPPING_EMPTY": _with(device_mapping="[]"),
    "MAPPING_NEGATIVE": _with(device_mapping="[0, -1]"),
    "MAPPING_TOO_LARGE": _with(device_mapping="list(range(0,1000000000))"),
    "MAPPING_NOT_DIVISIBLE": _with(device_mapping="[0, 1, 2]"),
    "MAPPING_OR_REPLICAS": _with(device_mapping=None),
    "STRATEGY_NAME": _with(strategy_args={**_STRATEGY, "strategy_name": "vllm"}),
    "MODEL_MISSING": _with(model_args=_UNNAMED),
    "MODEL_DTYPE": _with(model_args={**_MODEL, "dtype": "int8"}),
    "UNRESOLVED": _with(model_args={**_MODEL, "model_name_or_path": "${pretrain}"}),
    "ARGUMENT_VALUE": _config(mem_fraction_static=1.2),
    "PARALLELISM": _config(tp_size=1),
    "PARALLELISM_REPLICAS": {**_config(tp_size=2, dp_size=2), "weights": {"gate": "Off"}},
    "GRPC_MODE": _config(grpc_mode=True),
    "ROUTER_REPLAY_MODE": _with(router_replay={"mode": "R2"}),
    "ENGINE_VERSION": _with(engineVersion="latest"),
    "POD_TEMPLATE": _with(podTemplate=_TWO_CONTAINERS),
}
POLICY: dict[str, Spec] = {
    "ARGUMENT_OWNED": _config(host="10.0.0.1"),
    "ARGUMENT_KEY": _config(**{"two words": 1}),
    "ARGUMENT_ENVIRONMENT": _config(VLLM_USE_V1=1),
    "ARGUMENT_UNKNOWN": _config(mem_fraction_statc=0.7),
    "ARGUMENT_REMOVED": _image("0.5.23", _config(cuda_graph_bs=[1])),
    "ARGUMENT_LATER": _config(attn_dp_size=2),
    "ARGUMENT_PYTHON_ONLY": _image("0.5.23", _config(grpc_worker_threads=2)),
}
_GPU = "GPU-00000000-0000-0000-0000-000000000000"
_SHARED: Spec = {"mode": "Shared"}
_SLOT: Spec = {"nodeRank": 0, "node": "gpu-1", "gpus": [_GPU, _GPU]}
_CLAIM: Spec = {"nodeRank": 99, "claimName": "gpus"}
_CLAIMED: Spec = {"mode": "Slot", "slot": {"claims": [_CLAIM]}}
OPERATOR: dict[str, Spec] = {
    "POD_FIELD": _with(podTemplate={"spec": {"tolerations": [{"operator": "Equals"}]}}),
    "NOT_YET_SUPPORTED": _with(router={}),
    "WINDOW_VERSIONED": _with(rollout={"window": "BetweenSteps"}, weights={"gate": "Versioned"}),
    "SURGE_VERSIONED": _with(rollout={"maxSurge": 1}, weights={"gate": "Versioned"}),
    "MEMORY_SAVER_OFF": _config(enable_memory_saver=False) | {"placement": _SHARED},
    "SHARED_UNMAPPED": _with(device_mapping=None, replicas=1, placement=_SHARED),
    "SHARED_QUEUED": _with(scheduling={"gang": "Kueue", "queueName": "gpus"}, placement=_SHARED),
    "SHARED_TOPOLOGY": _with(scheduling={"requiredTopology": "rack"}, placement=_SHARED),
    "SHARED_SURGE": _with(rollout={"maxSurge": 1}, placement=_SHARED, weights={"gate": "Off"}),
    "SECTION_UNUSED": _with(placement={"shared": {"runtimeClassName": "nvidia"}}),
    "CLAIMS": _with(placement=_CLAIMED),
    "SHARED_FOLDER": _with(placement={**_SHARED, "shared": {"sharedMemory": {"hostPath": "/dev"}}}),
    "SLOTS": _with(device_mapping="[0, 1]", placement={**_SHARED, "shared": {"slots": [_SLOT]}}),
    "IMAGE_NAME": _with(image="lmsysorg/SGLang:v0.5.7"),
    "MAPPING_DUPLICATE": _with(device_mapping="[0, 0]"),
    "POOL_TOO_LARGE": _with(num_gpus_per_worker=1, device_mapping="list(range(0,8192))"),
    "SPEC_SHAPE": _with(data_args={"x": nested(100)}),
    "ENGINE_STRADDLES_NODES": _with(num_gpus_per_worker=12, device_mapping="list(range(0,12))"),
    "ARGUMENT_CONFLICT": _config(**{"context-length": 8192, "context_length": 4096}),
    "ARGUMENT_COMBINATION": _config(max_loras_per_batch=0),
    "ARGUMENT_FORM": _config(served_model_name="two\nlines"),
    "ARGUMENT_RETIRED": _image("0.4.6.post5", _config(enable_flashmla=True)),
    "ARGUMENT_FLAG": _config(disable_radix_cache=1),
    "ARGUMENT_FALSE": _config(enable_lora=False),
    "ARGUMENT_TYPE": _config(max_running_requests="many"),
    "ARGUMENT_CHOICE": _config(kv_cache_dtype="fp9"),
    "ARGUMENT_TEXT": _config(max_running_requests="8"),
    "ARGUMENT_LIST": _config(cuda_graph_bs=4),
    "ARGUMENT_JSON": _config(mm_process_config=3),
    "ARGUMENT_LORA": _config(lora_paths=[1]),
    "PARALLELISM_ATTENTION": _image(
        "0.5.23", {**_config(dp_size=2, attn_dp_size=2), "weights": {"gate": "Off"}}
    ),
    "ARGUMENT_VERSION": _with(security={"adminApiKey": {"name": "keys", "key": "admin"}}),
    "EXTRA_ARGUMENT_OWNED": _with(extraArgs=["--load-format=dummy"]),
    "ROUTER_REPLAY_VERSION": _image("0.5.2", _with(router_replay={"mode": "R3"})),
    "ARGUMENT_TLS": _image("0.5.23", _config(ssl_keyfile_password="hunter2")),
    "LORA_SYNC": _with(model_args={**_MODEL, "lora_target": "all-linear"}),
    "WEIGHT_ARGUMENT": _config(enable_lmcache=True),
    "VERSIONED_GATE": _image("0.4.10.post2", _with(weights={"gate": "Versioned"})),
    "MEMORY_REFUSED": _with(
        model_args={**_MODEL, "model_name_or_path": "Qwen/Qwen2.5-72B-Instruct"},
        podTemplate={"spec": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}},
    ),
    "AUTO_TUNE": _with(restart={"autoTune": {"mem_fraction_static": {"min": 0.8, "max": 0.9}}}),
    "HANG_DETECTION": _image("0.4.6.post5", _with(restart={"hangSeconds": 600})),
    "HANG_DETECTION_KEYED": _with(
        restart={"hangSeconds": 600}, security={"apiKey": {"name": "keys", "key": "api"}}
    ),
    "WEIGHTS_KEYED": _with(
        weights={"gate": "Versioned"}, security={"apiKey": {"name": "keys", "key": "api"}}
    ),
    "SYSTEM_ENV": _with(system_envs={"TWO WORDS": "1"}),
    "SYSTEM_ENV_OWNED": _with(system_envs={"SGLANG_API_KEY": "1"}),
}
_BY_FIRST = {
    First.STRUCTURE: STRUCTURE,
    First.RULE: RULE,
    First.POLICY: POLICY,
    First.OPERATOR: OPERATOR,
}
_NAMES = {"POOL_NAME": "1-is-no-letter"}  # the other pools are called by their rows


def _bad(row: str, spec: Spec, first: First) -> Bad:
    name = _NAMES.get(row, row.lower().replace("_", "-"))
    return Bad(row=getattr(errors, row), spec=spec, first=first, name=name)


BAD = {
    row: _bad(row, spec, first) for first, specs in _BY_FIRST.items() for row, spec in specs.items()
}
