"""What can be wrong with a file before there is a pool to judge: YAML, structure, ROLL's loader.

These are rows like those of ``api.errors``, for what the operator never sees: the API server
refuses it in words of its own, or ROLL's config loader does.
"""

from collections.abc import Iterable

from sglang_operator.api.errors import KUBERNETES, POLICY, SGLANG_MEMORY, Row
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning

YAML = "YAML 1.1"
OMEGACONF = "OmegaConf"
ROLL_ENTRY = "ROLL examples/start_rlvr_pipeline.py"


# --- the file
FILE_UNREADABLE = _error("FileUnreadable", "the file cannot be read: {detail}; {advice}", POLICY)
BAD_YAML = _error("YAMLInvalid", "this is no YAML: {detail}; {advice}", YAML)
DUPLICATE_KEY = _error(
    "DuplicateKey",
    "{key} is written twice, first in line {line}; expected each key once; remove one",
    OMEGACONF,
)
BAD_KEY = _error(
    "YAMLInvalid", "found a {found} as a key; expected text; write it in quotes", KUBERNETES
)
BAD_TAG = _error(
    "YAMLInvalid", "found the tag {found}; expected plain values; remove the tag", KUBERNETES
)
BAD_ALIAS = _error(
    "YAMLInvalid", "found the alias {found}; expected one that is anchored before it", YAML
)
TOO_LARGE = _error(
    "FileTooLarge", "{found}; expected at most {limit}; split the file or simplify it", POLICY
)
UNRECOGNISED = _error(
    "FileUnrecognised",
    "found {found}; expected {expected}; {advice}",
    POLICY,
)

# --- an object's structure
UNKNOWN_FIELD = _error(
    "FieldUnknown", "{key} is not a field of {parent}; {advice}", KUBERNETES + ", strict validation"
)
FIELD_STRUCTURE = _error(
    "SpecInvalid", "found {found}, expected {expected}; correct it", KUBERNETES + ", CRD schema"
)
FIELD_REQUIRED = _error("SpecInvalid", "missing; write {key}", KUBERNETES + ", CRD schema")
API_VERSION = _error(
    "SpecInvalid", "apiVersion is {found}; expected {expected}; correct it", KUBERNETES
)
KIND = _error("SpecInvalid", "kind is {found}; expected {expected}; correct it", KUBERNETES)

# --- a cluster
CLUSTER_UNREADABLE = _error(
    "ClusterUnreadable",
    "{command} failed: {detail}; correct it, or give --against a file",
    POLICY,
)

# --- a ROLL file
REFERENCE_UNKNOWN = _error(
    "ReferenceUnresolved",
    "{found} cannot be resolved: {detail}; correct it, or write the value itself",
    OMEGACONF,
)
REFERENCE_ENVIRONMENT = _error(
    "ReferenceUnresolved",
    "{found} reads the environment, which is off; use --env, or write the value itself",
    POLICY,
)
REFERENCE_RESOLVER = _error(
    "ReferenceUnresolved",
    "{found} needs a resolver that only Hydra has; write the value itself",
    OMEGACONF,
)
VALUE_MISSING = _error(
    "ReferenceUnresolved", "the value is ???, which stands for a missing one; write it", OMEGACONF
)
DEFAULTS_ENTRY = _error(
    "DefaultsUnresolved",
    "the entry is {found}; expected a file as in ../config/traj_envs@_here_, or _self_; correct it",
    OMEGACONF,
)
DEFAULTS_FILE = _warning(
    "DefaultsUnresolved",
    "{found} is not there, so what it defines is unknown here; put it beside the config, or write "
    "its values into it",
    ROLL_ENTRY,
)
ROLL_FIELD = _warning(
    "FieldUnknown",
    "{key} is not a field of a ROLL worker, and ROLL drops it in silence; {advice}",
    "ROLL roll/configs/worker_config.py",
)
ROLL_FIELD_MISSPELT = _error(
    "FieldUnknown",
    "{key} is not a field that ROLL knows here, and ROLL drops it in silence; {advice}",
    "ROLL roll/configs/worker_config.py",
)
PIPELINE_FIELD_MISSPELT = _error(
    "FieldUnknown",
    "{key} is not a field of a ROLL pipeline, and ROLL drops it in silence; {advice}",
    "ROLL roll/configs/base_config.py",
)
# --- memory, where lint is told the GPU
MEMORY_LACKING = _error("MemoryLacking", "{card}: {verdict}", SGLANG_MEMORY)
MEMORY_UNKNOWN = _warning("MemoryUnknown", "{card}: not known: {why}", SGLANG_MEMORY)

MODEL_REPLACED = _warning(
    "ModelReplaced",
    "model_name_or_path is {found}, but ROLL replaces it by pretrain, {pretrain}, because {roles} "
    "has none; pretrain is used; write it for every role, or for none",
    "ROLL roll/configs/base_config.py",
)


def rows() -> Iterable[tuple[str, Row]]:
    """All rows with their names, in the order they stand here."""
    return [(name, row) for name, row in globals().items() if isinstance(row, Row)]
