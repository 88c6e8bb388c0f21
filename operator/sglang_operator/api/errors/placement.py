"""Rows about engines on the GPUs of a trainer."""

from sglang_operator.api.errors.authorities import KUBERNETES, POLICY, SERVER_ARGS
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning

MEMORY_SAVER_OFF = _error(
    "MemorySaverOff",
    "enable_memory_saver is false, but in this placement.mode engines and their trainer hold the "
    "memory of their GPUs in turns: without it a release answers 200 and frees nothing; expected "
    "true; remove it, as ROLL does",
    SERVER_ARGS,
)
SHARED_UNMAPPED = _error(
    "DeviceMappingInvalid",
    "placement.mode is {mode}, but there is no device_mapping; expected the ids of the trainer's "
    "GPUs, by which engines find theirs; write device_mapping, as in ROLL",
    POLICY,
)
SHARED_QUEUED = _error(
    "SharedUnqueued",
    "scheduling.gang is {found} in placement mode {mode}; expected None: such engines ask for no "
    "GPU, their trainer's pods do; have the trainer wait in the queue, and leave it out here",
    POLICY,
)
SHARED_TOPOLOGY = _error(
    "TopologyOfSharedPool",
    "scheduling.{field} is {found} in placement mode {mode}; expected nothing: engines are bound "
    "to the nodes of their trainer's pods; place those by it, and leave it out here",
    POLICY,
)
SHARED_SURGE = _error(
    "SurgeOfSharedPool",
    "rollout.maxSurge is {found} in placement mode {mode}; expected 0: an engine that comes up "
    "beside another would have that one's GPUs too; remove it: engines are replaced in place",
    POLICY,
)
SECTION_UNUSED = _error(
    "PlacementSectionUnused",
    "placement.{name} is set, but placement.mode is {found}; expected {mode}; remove one of the "
    "two",
    POLICY,
)
SHARED_FOLDER = _error(
    "SharedMemoryInvalid", "found {found}; expected {expected}; {advice}", KUBERNETES
)
SLOTS = _error("SlotsDisagree", "found {found}; expected {expected}; {advice}", POLICY)
CLAIMS = _error("ClaimsInvalid", "found {found}; expected {expected}; {advice}", KUBERNETES)
DEVICE_TAINTED = _warning(
    "DeviceTainted",
    "GPU {gpu} of ResourceClaim {claim} has the taint {taint}: pods that do not tolerate it are "
    "not placed on it, and by NoExecute they are taken from it; see what its driver says of it",
    KUBERNETES,
)
CLAIM_OUTDATED = _warning(
    "ClaimOutdated",
    "ResourceClaim {claim} is as it was made, while pods have it: {pods}; expected what the spec "
    "says now; it is made anew once they are gone",
    KUBERNETES,
)
UNPINNED = _warning(
    "DevicesUnknown",
    "which GPUs ResourceClaim {claim} has is not known: the operator may not read ResourceSlices, "
    "or their driver tells no UUID; the same are not asked for again",
    KUBERNETES,
)
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
