"""Rows about ``strategy_args``: the strategy, the model and the arguments of an engine."""

from sglang_operator.api.errors.authorities import POLICY, ROLL_STRATEGY, SERVER_ARGS, SERVER_PARSER
from sglang_operator.api.problems import error_row as _error

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
