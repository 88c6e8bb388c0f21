"""Rows about what a pool asks for, and its version of SGLang or the operator does not have."""

from sglang_operator.api.errors.authorities import (
    KUBERNETES,
    POLICY,
    ROLL_STRATEGY,
    ROLL_WORKER_CONFIG,
    SERVER_ARGS,
)
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning

GRPC_MODE = _error(
    "ArgumentInvalid",
    "grpc_mode is true; expected false or absent: engines are reached over HTTP, and ROLL itself "
    "does not implement it; remove it",
    ROLL_STRATEGY,
)
ROUTER_REPLAY_MODE = _error(
    "RouterReplayUnsupported",
    "router_replay.mode is {found}; expected disable or R3; {advice}",
    ROLL_WORKER_CONFIG,
)
ROUTER_REPLAY_VERSION = _error(
    "RouterReplayUnsupported",
    "router_replay.mode is R3 but the engine is SGLang {version}; expected {needed} or newer, "
    "which have enable_return_routed_experts; use a newer image",
    ROLL_STRATEGY,
)
ENGINE_VERSION = _error(
    "EngineVersionInvalid",
    "engineVersion is {found}; expected a released SGLang version such as 0.5.7 or 0.5.6.post2",
    POLICY,
)
IMAGE_NAME = _error(
    "ImageNameInvalid",
    "image is {found}; expected [registry/]name[:tag][@digest], the name in lower case and without "
    "spaces, such as lmsysorg/sglang:v0.5.7",
    KUBERNETES,
)
ARGUMENT_TLS = _error(
    "ArgumentUnsupported",
    "{key} is set to {found}, but engines are reached over plain HTTP: by the kubelet's probes, by "
    "the addresses in the registry and by ROLL's trainer; remove it, and let a service mesh or the "
    "cluster's network encrypt",
    POLICY,
)
LORA_SYNC = _error(
    "LoRAUnsupported",
    "model_args.lora_target is {found}, but ROLL's trainer cannot bring LoRA weights to SGLang "
    "engines; expected full weights where a trainer commits them; remove lora_target here and in "
    "the trainer, or set weights.gate: Off for engines that load all weights themselves",
    ROLL_STRATEGY + ": lora training is not supported with sglang",
)
WEIGHT_ARGUMENT = _error("WeightSyncUnsupported", "{key} is {found}: {why}; {advice}", SERVER_ARGS)
VERSIONED_GATE = _error(
    "GateUnsupported",
    "weights.gate is Versioned but SGLang {version} has no --weight-version; expected {needed} or "
    "newer; use Committed, or a newer image",
    SERVER_ARGS,
)

AUTO_TUNE = _error(
    "AutoTuneInvalid",
    "restart.autoTune.mem_fraction_static is {found}; expected {expected}; {advice}",
    POLICY,
)
HANG_DETECTION = _error(
    "HangDetectionUnsupported",
    "restart.hangSeconds is set but SGLang {version} does not tell its load; expected {needed} or "
    "newer; leave it out, or use a newer image",
    "SGLang sglang/srt/entrypoints/http_server.py",
)
HANG_DETECTION_KEYED = _error(
    "EnginesKeyed",
    "restart.hangSeconds is set, for which the operator has to ask the engines, but security.{key} "
    "is set and the operator reads no Secrets; expected engines without a key; leave one of the "
    "two out",
    POLICY,
)
WEIGHTS_KEYED = _error(
    "EnginesKeyed",
    "{field} is {found}, for which the operator has to ask the engines, but security.{key} is set "
    "and the operator reads no Secrets; expected engines without a key; use {instead}, or leave "
    "the key out and keep others away by a NetworkPolicy",
    POLICY,
)
RECOVERY_UNGATED = _warning(
    "RecoveryWithoutGate",
    "weights.recovery is FromCheckpoint but the gate is Off: engines load their weights "
    "themselves; remove it, or set weights.gate: Committed",
    POLICY,
)
