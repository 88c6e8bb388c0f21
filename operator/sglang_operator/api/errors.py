"""The one table of what can be wrong with a pool, and in which words it is said.

A row's ``reason`` is the reason of the condition and of the Event, its ``text`` says what was
found, what was expected and what to do.  The custom resource definition repeats the texts that
it can check itself; a test compares.  ``authority`` names who would have refused it, or
``policy`` where the rule is ours.
"""

from collections.abc import Iterable

from sglang_operator.api.problems import InvalidError, Problem, Row, Severity, quoted, shown, typed
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning
from sglang_operator.api.redaction import is_secret

__all__ = ["InvalidError", "Problem", "Row", "Severity", "is_secret", "quoted", "shown", "typed"]

POLICY = "policy"
ROLL_WORKER_CONFIG = "ROLL roll/configs/worker_config.py"
ROLL_STRATEGY = "ROLL roll/distributed/strategy/sglang_strategy.py"
SERVER_ARGS = "SGLang sglang/srt/server_args.py"
SERVER_PARSER = "SGLang's argument parser: "  # and what it says
KUBERNETES = "Kubernetes"
SGLANG_MEMORY = "SGLang's memory rules (reference/memory.md)"

# --- the object as a whole
POOL_NAME = _error(
    "PoolNameInvalid",
    "the pool is called {found} ({length} characters); expected a DNS label of at most {limit} "
    "characters that begins with a letter, because the names of its pods and Services begin with "
    "it; choose another name",
    KUBERNETES,
)
FIELD_TYPE = _error("SpecInvalid", "{detail}; {advice}", POLICY)
SPEC_SHAPE = _error("SpecInvalid", "the object {found}; expected {expected}; {advice}", POLICY)
FIELD_RANGE = _error("SpecInvalid", "found {found}, expected {expected}; {advice}", POLICY)
ROLLOUT_SHARE = _error(
    "SpecInvalid",
    "rollout.{field} is {found}; expected a number of engines from {low} to 4096, or a "
    "percentage of them from {low} to 100; correct it",
    KUBERNETES,
)
FIELD_MISSING = _error("SpecInvalid", "missing; {advice}", POLICY)
NOT_YET_SUPPORTED = _error(
    "NotYetSupported", "found {found}, which is not yet supported; {advice}", POLICY
)

# --- device_mapping
MAPPING_GRAMMAR = _error(
    "DeviceMappingInvalid",
    "device_mapping is {found}; expected list(range(a,b)), [0, 1] or sums of these, for example "
    "list(range(0,8))",
    ROLL_WORKER_CONFIG,
)
MAPPING_NOT_A_STRING = _error(
    "DeviceMappingInvalid",
    'device_mapping is a {found}; expected a string, as in ROLL: write "[0, 1]" with quotes, or '
    "list(range(0,8))",
    ROLL_WORKER_CONFIG,
)
MAPPING_UNRESOLVED = _error(
    "DeviceMappingInvalid",
    "device_mapping is {found}: ${{...}} is filled in by ROLL's config loader, not here; write "
    "the value itself, for example list(range(0,8))",
    POLICY,
)
MAPPING_EMPTY = _error(
    "DeviceMappingInvalid",
    "device_mapping is {found}, which names no GPU; expected at least num_gpus_per_worker of "
    "them; to stop a pool without removing it set replicas: 0",
    ROLL_WORKER_CONFIG,
)
MAPPING_DUPLICATE = _error(
    "DeviceMappingInvalid",
    "device_mapping names GPU {found} more than once; expected each id at most once; remove the "
    "repeated ids",
    POLICY,
)
MAPPING_NEGATIVE = _error(
    "DeviceMappingInvalid",
    "device_mapping names GPU {found}; expected ids of 0 or more; ids count the GPUs of all "
    "nodes, starting at 0",
    POLICY,
)
MAPPING_TOO_LARGE = _error(
    "DeviceMappingInvalid",
    "device_mapping is {found}, which names more than {limit} GPUs or an id above {id_limit}; "
    "split it over several pools",
    POLICY,
)
MAPPING_TOO_LONG = _error(
    "DeviceMappingInvalid",
    "device_mapping has {length} characters; expected at most {limit}; write consecutive ids as "
    "list(range(a,b))",
    POLICY,
)
MAPPING_NOT_DIVISIBLE = _error(
    "DeviceMappingInvalid",
    "device_mapping has {gpus} GPUs but num_gpus_per_worker is {per_worker}: {gpus} is not "
    "divisible by {per_worker}; use {advice} GPUs",
    ROLL_WORKER_CONFIG,
)
POOL_TOO_LARGE = _error(
    "PoolTooLarge",
    "the registry of {engines} engines may take {size} KiB; expected at most {limit} KiB, which a "
    "ConfigMap holds, about {most} engines like these; split them over several pools",
    KUBERNETES,
)
MAPPING_OR_REPLICAS = _error(
    "DeviceMappingInvalid",
    "neither device_mapping nor replicas is set; expected device_mapping, as in ROLL, or replicas "
    "for a pool without GPU ids; write one of them",
    ROLL_WORKER_CONFIG,
)
ENGINE_STRADDLES_NODES = _error(
    "DeviceMappingInvalid",
    "engine {rank} has GPUs {devices}, which lie on nodes {nodes} at num_gpus_per_node "
    "{per_node}; expected all GPUs of an engine on one node; begin each group of {per_worker} at "
    "a multiple of {per_worker}",
    ROLL_STRATEGY,
)
ENGINE_SPANS_NODES = _error(
    "NotYetSupported",
    "num_gpus_per_worker is {per_worker} but a node has {per_node} GPUs: engines across nodes are "
    "not yet supported; use at most {per_node}, or set num_gpus_per_node if your nodes have more",
    POLICY,
)

# --- strategy and arguments
STRATEGY_NAME = _error(
    "StrategyUnsupported",
    "strategy_name is {found}; expected sglang, the only backend this operator runs; leave other "
    "workers to ROLL",
    POLICY,
)
MODEL_MISSING = _error(
    "ModelMissing",
    "model_args.model_name_or_path is not set; expected a Hugging Face id or a path in the pod; "
    "in a ROLL file it comes from the pipeline's pretrain: write that here",
    ROLL_STRATEGY,
)
MODEL_DTYPE = _error(
    "ArgumentInvalid",
    "dtype is {found}; expected one of fp32, fp16, bf16 or auto; correct model_args.dtype",
    ROLL_STRATEGY,
)
UNRESOLVED = _error(
    "ValueUnresolved",
    "the value is {found}: ${{...}} is filled in by ROLL's config loader, not here; write the "
    "value itself",
    POLICY,
)
ARGUMENT_OWNED = _error(
    "ArgumentOwned",
    "{key} is set to {found}, but the operator sets it; remove it from strategy_config: {advice}",
    ROLL_STRATEGY,
)
ARGUMENT_CONFLICT = _error(
    "ArgumentConflict",
    "{first} is {first_value} and {second} is {second_value}, two spellings of one argument; "
    "keep one",
    SERVER_ARGS,
)
ARGUMENT_KEY = _error(
    "ArgumentInvalid", "{key} is not a possible argument name; expected {expected}", SERVER_ARGS
)
ARGUMENT_ENVIRONMENT = _error(
    "ArgumentInvalid",
    "{key} is the name of a variable of the environment; expected the name of an argument; "
    "{advice}",
    SERVER_ARGS + ": unexpected keyword argument",
)
ARGUMENT_VALUE = _error(
    "ArgumentInvalid", "{key} is {found}; expected {expected}; {advice}", SERVER_ARGS
)
# What has no form on a command line that is read back as it was meant, in any version: text over
# several lines, infinity, more than 64 bits, lists in lists, items with a leading dash; and true in
# quotes, which SGLang would take for a word.
ARGUMENT_FORM = _error("ArgumentInvalid", "{key} is {found}; expected {expected}; {advice}", POLICY)
ARGUMENT_UNKNOWN = _error(
    "ArgumentUnknown",
    "{key} is not an argument of SGLang {version}; {advice}",
    SERVER_ARGS + ": unexpected keyword argument",
)
ARGUMENT_REMOVED = _error(
    "ArgumentUnsupported",
    "{key} is not an argument of SGLang {version}: {last} is the last version known to have it; "
    "{advice}",
    SERVER_ARGS + ": unexpected keyword argument",
)
ARGUMENT_LATER = _error(
    "ArgumentUnsupported",
    "{key} is not an argument of SGLang {version}: {first} is the first version known to have "
    "it; {advice}",
    SERVER_ARGS + ": unexpected keyword argument",
)
ARGUMENT_PYTHON_ONLY = _error(
    "ArgumentUnsupported",
    "{key} can be set in Python only: SGLang {version} has no flag for it; remove it",
    SERVER_PARSER + "unrecognized arguments",
)
ARGUMENT_RETIRED = _error(
    "ArgumentUnsupported",
    "{key} is {found}, but SGLang does not start with it any more; {advice}",
    "SGLang sglang/srt/server_args.py, DeprecatedAction",
)
ARGUMENT_FLAG = _error(
    "ArgumentInvalid",
    "{key} is {found}; expected true or false; correct it",
    SERVER_PARSER + "ignored explicit argument",
)
ARGUMENT_FALSE = _error(
    "ArgumentInvalid",
    "{key} is false, which SGLang's command line cannot say: without the flag SGLang decides by "
    "itself; remove it",
    SERVER_ARGS + ": store_true with the default None",
)
ARGUMENT_TYPE = _error(
    "ArgumentInvalid",
    "{key} is {found}; expected {expected}; {advice}",
    SERVER_PARSER + "invalid value",
)
ARGUMENT_CHOICE = _error(
    "ArgumentInvalid",
    "{key} is {found}; expected {expected}; {advice}",
    SERVER_PARSER + "invalid choice",
)
# SGLang's parser would read these, and ROLL would hand them to the engine as they are: a text for
# a number, or one value for a list.  YAML has lost how a number was written, as in 1.10.
ARGUMENT_TEXT = _error("ArgumentInvalid", "{key} is {found}; expected {expected}; {advice}", POLICY)
ARGUMENT_LIST = _error(
    "ArgumentInvalid", "{key} is {found}; expected {expected}; write it as a list", POLICY
)
ARGUMENT_JSON = _error("ArgumentInvalid", "{key} is {found}; expected {expected}; {advice}", POLICY)
ARGUMENT_LORA = _error(
    "ArgumentInvalid",
    "{key} is {found}; expected {expected}; correct it",
    "SGLang sglang/srt/server_args.py, LoRAPathAction and check_lora_server_args",
)
PARALLELISM = _error(
    "ParallelismMismatch",
    "tp_size {tp} x pp_size {pp} = {product}, but num_gpus_per_worker is {per_worker}; expected "
    "the product to be the GPUs of one engine; write num_gpus_per_worker: {product}, which ROLL "
    "takes from these sizes for vLLM only, or set tp_size to {advice}",
    ROLL_STRATEGY,
)
PARALLELISM_REPLICAS = _error(
    "ParallelismMismatch",
    "tp_size {tp} x pp_size {pp} x dp_size {dp} = {product}, but num_gpus_per_worker is "
    "{per_worker}; expected the product to be the GPUs of one engine, because without "
    "enable_dp_attention each of dp_size copies has GPUs of its own; set tp_size to {advice}, or "
    "leave it out",
    SERVER_ARGS,
)
PARALLELISM_ATTENTION = _error(
    "ParallelismMismatch",
    "dp_size is {dp} and attn_dp_size is {attention}, but SGLang does not combine copies of the "
    "engine with attention data parallelism; keep attn_dp_size, and make more engines instead",
    "SGLang sglang/srt/arg_groups/parallel_hook.py",
)
ARGUMENT_COMBINATION = _error(
    "ArgumentConflict",
    "{found}, with which SGLang {version} does not start ({place}); expected {expected}; {advice}",
    "SGLang's own checks, in __post_init__ and check_server_args",
)
ARGUMENT_VERSION = _error(
    "ArgumentUnsupported",
    "{key} needs SGLang {needed} or newer, but the engine is {version}; {advice}",
    SERVER_ARGS,
)
EXTRA_ARGUMENT_OWNED = _error(
    "ArgumentOwned",
    "extraArgs has {found}, but the operator must know {key}; remove it: {advice}",
    POLICY,
)
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

# --- the pod
POD_TEMPLATE = _error(
    "PodTemplateForbidden",
    "{found} is not allowed here; expected only {expected}; {advice}",
    POLICY,
)
POD_FIELD = _error("SpecInvalid", "found {found}, expected {expected}; {advice}", KUBERNETES)
POD_FIELD_UNKNOWN = _warning(
    "PodTemplateFieldUnknown",
    "{key} is no field of a pod in Kubernetes {version}, and the API server leaves out what it does"
    " not know; {advice}",
    KUBERNETES,
)
POD_VOLUME_UNUSED = _warning(
    "PodTemplateVolumeUnused", "volume {name} is mounted nowhere: it does nothing; {advice}", POLICY
)
SYSTEM_ENV = _error(
    "SystemEnvInvalid",
    "{key} is {found}; expected a string or a number under the name of an environment variable; "
    "correct system_envs",
    KUBERNETES,
)
SYSTEM_ENV_OWNED = _error(
    "SystemEnvOwned",
    "{key} is {found}, but it cannot be set here; remove it from system_envs: {advice}",
    POLICY,
)

# --- warnings
MEM_FRACTION_MISSING = _warning(
    "MemFractionMissing",
    "mem_fraction_static is not set: ROLL requires it, SGLang chooses a value of its own; set it, "
    "usually between 0.6 and 0.85",
    ROLL_STRATEGY,
)
TOKENIZER_SKIPPED = _warning(
    "TokenizerSkipped",
    "engines answer token ids alone, as ROLL's do; set skip_tokenizer_init (slime, miles: false)",
    ROLL_STRATEGY,
)
INFER_BATCH_SIZE = _warning(
    "InferBatchSizeIgnored",
    "infer_batch_size has no effect: SGLang batches continuously; remove it or leave it for ROLL",
    "ROLL's guide to the SGLang strategy",
)
ARGUMENT_OVERRIDDEN = _warning(
    "ArgumentOverridden",
    "{key} is {found}, but {owner} decides it, as in ROLL: {value} is used",
    ROLL_STRATEGY,
)
ARGUMENT_DEPRECATED = _warning(
    "ArgumentDeprecated", "{key} is deprecated in SGLang {version}; {advice}", SERVER_ARGS
)
ARGUMENT_FILE = _warning(
    "ArgumentInvalid",
    "{key} is {found}, but this version of SGLang reads no file there; expected {expected}; write "
    "a map, or use an image of SGLang 0.5.9 or newer",
    "SGLang sglang/srt/mem_cache/hiradix_cache.py",
)
ARGUMENT_SPELLING = _warning(
    "ArgumentSpelling",
    "{key} is read as {name}, as flags are spelt; ROLL takes that spelling alone; write {name}",
    SERVER_ARGS,
)
TP_SIZE_HONOURED = _warning(
    "TensorParallelHonoured",
    "tp_size {tp} is honoured here; ROLL overwrites it in silence with its worker's GPUs, and "
    "reads tensor_parallel_size instead",
    ROLL_STRATEGY,
)
PARALLEL_SYNC = _warning(
    "WeightSyncUnsupported",
    "{key} is {found}: SGLang's weight update over NCCL covers tensor parallelism only; update "
    "from disk, or use {advice}",
    SERVER_ARGS,
)
LORA_ADAPTERS = _warning(
    "WeightSyncUnsupported",
    "{key} is set: what a trainer commits is the base model, and the adapters stay as they were "
    "loaded; load them anew after each commit, or remove it",
    "SGLang sglang/srt/lora/lora_manager.py",
)
VERSION_UNKNOWN = _warning(
    "EngineVersionUnknown",
    "the SGLang version of image {image} cannot be told from its tag; {version} is assumed; set "
    "engineVersion",
    POLICY,
)
VERSION_OUTSIDE_ROLL = _warning(
    "EngineVersionOutsideROLL",
    "SGLang {version} is not one of the versions that ROLL supports ({versions}); ROLL's own "
    "trainer refuses it",
    "ROLL roll/third_party/sglang/__init__.py",
)
VERSION_REPORTED = _warning(
    "EngineVersionReported",
    "the engines say that they are SGLang {found}, and were started as {version}; {advice}",
    POLICY,
)
ADDRESS_FAMILY = _warning(
    "AddressFamilyMismatch",
    "engine pods have addresses such as {found}, but engines listen on {host}, which is {family} "
    "alone; start the operator with --pod-address={found}, or $POD_IP from status.podIP of its pod",
    POLICY,
)
VERSION_MISMATCH = _warning(
    "EngineVersionMismatch",
    "engineVersion is {found} but image {image} says {version}; engineVersion is believed; "
    "correct it, or remove it",
    POLICY,
)
SYSTEM_ENV_REMOVED = _warning(
    "SystemEnvRemoved", "{key} is {found}, and is not passed on: {advice}", ROLL_STRATEGY
)
SYSTEM_ENV_OF_VLLM = _warning(
    "SystemEnvIgnored",
    "{key} is a variable of vLLM's, which SGLang does not read; remove it",
    "SGLang sglang/srt/environ.py",
)
REPLICAS_ABOVE_CAPACITY = _warning(
    "ReplicasAboveCapacity",
    "replicas is {found} but device_mapping has room for {capacity} engines of "
    "{per_worker} GPUs; {capacity} are run",
    POLICY,
)
GENERATION_DEFAULT = _warning(
    "GenerationDefaultsIgnored", "{key} cannot be a default of the server; {advice}", SERVER_ARGS
)
MEMORY_BELOW_SHM = _warning(
    "MemoryLimitBelowSharedMemory",
    "the memory limit is {limit}{by}, and /dev/shm alone may hold {size} GiB: the kernel kills an "
    "engine that fills it; set a limit of that and what the engine needs itself, 64Gi or such",
    POLICY,
)
MEMORY_REFUSED = _error(
    "MemoryLacking", "{card}: {verdict}; memoryCheck: Warn tries it all the same", POLICY
)
MEMORY_TIGHT = _warning("MemoryTight", "{card}: {verdict}", SGLANG_MEMORY)


def rows() -> Iterable[tuple[str, Row]]:
    """All rows of the table with their names, in the order they stand here."""
    return [(name, value) for name, value in globals().items() if isinstance(value, Row)]
