"""Rows that are only told: of arguments, versions, addresses and the environment."""

from sglang_operator.api.errors.authorities import POLICY, ROLL_STRATEGY, SERVER_ARGS
from sglang_operator.api.problems import warning_row as _warning

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
HISTORY_NOT_KEPT = _warning(
    "RevisionHistoryNotKept",
    "{why}, so revisions are not stored as they should be, and kubectl sglang rollout undo may "
    "have nothing to go back to; {advice}, or set rollout.revisionHistoryLimit: 0",
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
