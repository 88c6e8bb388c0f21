"""Rows about memory: the pod's and the GPUs'."""

from sglang_operator.api.errors.authorities import POLICY, SGLANG_MEMORY
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning

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
