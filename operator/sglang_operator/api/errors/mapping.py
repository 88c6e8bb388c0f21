"""Rows about which GPUs a pool's engines have."""

from sglang_operator.api.errors.authorities import (
    KUBERNETES,
    POLICY,
    ROLL_STRATEGY,
    ROLL_WORKER_CONFIG,
)
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning

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
    "engine {rank} has GPUs {devices}: {found}, at num_gpus_per_node {per_node}; expected "
    "{expected}; {advice}",
    ROLL_STRATEGY,
)
ENGINE_SPANS_NODES = _warning(
    "EngineSpansNodes",
    "engine {rank} has GPUs {devices}, which lie on {count} nodes at num_gpus_per_node "
    "{per_node}: it runs in {count} pods, without NVLink between them; begin each group of "
    "{per_worker} at a multiple of {per_worker} to have it on one",
    ROLL_STRATEGY,
)
