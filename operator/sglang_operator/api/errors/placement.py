"""Rows about engines on the GPUs of a trainer."""

from sglang_operator.api.errors.authorities import KUBERNETES, POLICY, SERVER_ARGS
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning

MEMORY_SAVER_OFF = _error(
    "MemorySaverOff",
    "enable_memory_saver is false, but in placement mode Shared engines and their trainer hold the "
    "memory of their GPUs in turns: without it a release answers 200 and frees nothing; expected "
    "true; remove it, as ROLL does",
    SERVER_ARGS,
)
SHARED_UNMAPPED = _error(
    "DeviceMappingInvalid",
    "placement.mode is Shared, but there is no device_mapping; expected the ids of the trainer's "
    "GPUs, by which engines find theirs; write device_mapping, as in ROLL",
    POLICY,
)
SHARED_QUEUED = _error(
    "SharedUnqueued",
    "scheduling.gang is {found} in placement mode Shared; expected None: such engines ask for no "
    "GPU, their trainer's pods do; have the trainer wait in the queue, and leave it out here",
    POLICY,
)
SHARED_TOPOLOGY = _error(
    "TopologyOfSharedPool",
    "scheduling.{field} is {found} in placement mode Shared; expected nothing: engines are bound "
    "to the nodes of their trainer's pods; place those by it, and leave it out here",
    POLICY,
)
SHARED_SURGE = _error(
    "SurgeOfSharedPool",
    "rollout.maxSurge is {found} in placement mode Shared; expected 0: an engine that comes up "
    "beside another would have that one's GPUs too; remove it: engines are replaced in place",
    POLICY,
)
SHARED_UNUSED = _error(
    "SharedUnused",
    "placement.shared is set, but placement.mode is {found}; expected Shared; remove one of the "
    "two",
    POLICY,
)
SHARED_FOLDER = _error(
    "SharedMemoryInvalid", "found {found}; expected {expected}; {advice}", KUBERNETES
)
SLOTS = _error("SlotsDisagree", "found {found}; expected {expected}; {advice}", POLICY)
TRAINER_USER = _warning(
    "TrainerUser",
    "the trainer runs as user {user}, engines as {expected}; expected one user: neither can read "
    "what the other leaves in the memory that they share; set security.runAsUser: {user}",
    KUBERNETES,
)
NODE_RANK_CLAIMED = _warning(
    "NodeRankClaimed",
    "{pods} of the trainer said again and again that node rank {node_rank} has other GPUs, for "
    "which engines were started anew: they follow ever more rarely now, and stay where they are "
    "meanwhile; "
    "expected one pod for each node rank; have each publish its own GPUs, by its own rank",
    POLICY,
)
