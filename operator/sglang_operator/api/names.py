"""Every name, label, annotation and key that the operator writes or reads, built here only.

The pool's name is part of the names of its children, so its length is bounded by theirs.
"""

import re
from collections.abc import Mapping
from typing import NewType

Uid = NewType("Uid", str)
EngineName = NewType("EngineName", str)  # an engine's identity within its pool, e.g. "g0-1"

GROUP = "sglang-operator.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "SGLangInference"
PLURAL = "sglanginferences"
CRD_NAME = f"{PLURAL}.{GROUP}"

LEASE_NAME = "sglang-operator"  # of an operator that is given no other
ANNOTATION_SERVES = f"{GROUP}/serves"  # on that Lease: which namespaces its holder serves
FIELD_MANAGER = "sglang-operator"
STATUS_FIELD_MANAGER = "sglang-operator-status"
MANAGED_BY = "sglang-operator"

LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_POOL = f"{GROUP}/pool"
NO_POOLS_OWN = f"!{LABEL_POOL}"  # selects what is no part of a pool
LABEL_ENGINE = f"{GROUP}/engine"
LABEL_TRAINER = f"{GROUP}/trainer"  # on pods of a trainer that engines join, whatever its value
LABEL_REVISION = f"{GROUP}/revision"
LABEL_GROUP = f"{GROUP}/group"  # the pods of one try at an engine, where they are to be together
LABEL_FIRST = f"{GROUP}/first"  # of these the one that is made first, which decides where
# On a stored revision, with the hash of one by which its engines ran tuned: a label each.
LABEL_TUNED = f"{GROUP}/tuned-"

ANNOTATION_ATTEMPT = f"{GROUP}/attempt"
ANNOTATION_DEVICES = f"{GROUP}/devices"
ANNOTATION_NODES = f"{GROUP}/nodes"  # of an engine that spans some: so many pods are one engine
ANNOTATION_SLOT = f"{GROUP}/slot"  # of an engine on a trainer's GPUs: whose they were as it came
ANNOTATION_MADE_OF = (
    f"{GROUP}/made-of"  # on an object whose spec is not to be changed: a hash of it
)
ANNOTATION_START = f"{GROUP}/start"  # the group of a pod that starts with those of other engines
ANNOTATION_FAILURES = f"{GROUP}/failures-in-a-row"
ANNOTATION_STARTUP_FAILURES = f"{GROUP}/startup-failures"
ANNOTATION_STARTUP_REASON = f"{GROUP}/startup-failure-reason"

# On the Lease <pool>-weights (weights/lease_state.py says who writes which).
_WEIGHTS = f"{GROUP}/weights-"
ANNOTATION_PHASE = f"{_WEIGHTS}phase"
ANNOTATION_TRANSACTION = f"{_WEIGHTS}transaction"
ANNOTATION_EPOCH = f"{_WEIGHTS}epoch"
ANNOTATION_TARGET_VERSION = f"{_WEIGHTS}target-version"
ANNOTATION_VERSION = f"{_WEIGHTS}version"
ANNOTATION_INSTANCES = f"{_WEIGHTS}instances"
ANNOTATION_TORN = f"{_WEIGHTS}torn"
ANNOTATION_CHECKPOINT = f"{_WEIGHTS}checkpoint"
ANNOTATION_INTACT = f"{_WEIGHTS}intact"
ANNOTATION_RELEASED = f"{_WEIGHTS}released"
ANNOTATION_ASLEEP = f"{_WEIGHTS}asleep"
ANNOTATION_RECOVERING = f"{_WEIGHTS}recovering"
ANNOTATION_WOKEN = f"{_WEIGHTS}woken"
ANNOTATION_UNCLEAR = f"{_WEIGHTS}unclear"
ANNOTATION_SHARED = f"{_WEIGHTS}shared"
ANNOTATION_WROTE = f"{_WEIGHTS}wrote"
ANNOTATION_FOUND_WHOLE = f"{_WEIGHTS}found-whole"
ANNOTATION_FENCE = f"{_WEIGHTS}fence"
ANNOTATION_DURATION = f"{_WEIGHTS}duration"
ANNOTATION_AT_WORK = f"{_WEIGHTS}at-work"
ANNOTATION_RELEASES = f"{_WEIGHTS}releases"
ANNOTATION_APART = f"{_WEIGHTS}apart"
ANNOTATION_CLOSING = f"{_WEIGHTS}closing"
ANNOTATION_TURN = f"{_WEIGHTS}turn"
ANNOTATION_BEGUN = f"{_WEIGHTS}begun"
ANNOTATION_COMMITTED = f"{_WEIGHTS}committed"
ANNOTATION_MESSAGE = f"{_WEIGHTS}message"
ANNOTATION_GROUPS = f"{_WEIGHTS}groups"
ANNOTATION_TRAIL = f"{_WEIGHTS}trail"

CONDITION_WEIGHTS_SYNCED = f"{GROUP}/weights-synced"

# Kueue's, on pods; what it does by each says scheduling/kueue.py.
KUEUE_API_VERSION = "kueue.x-k8s.io/v1beta2"
KUEUE_PREFIX = "kueue.x-k8s.io/"
KUEUE_GATE = f"{KUEUE_PREFIX}admission"
LABEL_QUEUE = f"{KUEUE_PREFIX}queue-name"
LABEL_QUEUE_PRIORITY = f"{KUEUE_PREFIX}priority-class"
LABEL_QUEUE_MANAGED = f"{KUEUE_PREFIX}managed"
LABEL_QUEUE_INDEX = f"{KUEUE_PREFIX}pod-group-pod-index"
QUEUE_GROUP = f"{KUEUE_PREFIX}pod-group-name"  # a label, and since Kueue 0.18 an annotation too
ANNOTATION_QUEUE_COUNT = f"{KUEUE_PREFIX}pod-group-total-count"
ANNOTATION_QUEUE_RETRIES = f"{KUEUE_PREFIX}retriable-in-group"
ANNOTATION_QUEUE_PARENT = f"{KUEUE_PREFIX}pod-suspending-parent"
ANNOTATION_QUEUE_SEEN = f"{KUEUE_PREFIX}role-hash"  # its webhook writes it on each pod that it saw
ANNOTATION_TOPOLOGY_REQUIRED = f"{KUEUE_PREFIX}podset-required-topology"
ANNOTATION_TOPOLOGY_PREFERRED = f"{KUEUE_PREFIX}podset-preferred-topology"
CONDITION_QUEUE_STOPPED = "TerminationTarget"  # of a pod that Kueue is about to delete

# Those of the schedulers that read a PodGroup, on pods; what each does says scheduling/NAME.py.
POD_GROUP_API_VERSION = "scheduling.k8s.io/v1beta1"
VOLCANO_SCHEDULER = "volcano"
VOLCANO_API_VERSION = "scheduling.volcano.sh/v1beta1"
ANNOTATION_VOLCANO_GROUP = "scheduling.k8s.io/group-name"
KAI_SCHEDULER = "kai-scheduler"
KAI_API_VERSION = "scheduling.run.ai/v2alpha2"
LABEL_KAI_QUEUE = "kai.scheduler/queue"
ANNOTATION_KAI_GROUP = "pod-group-name"
# As the chart of scheduler-plugins calls it, where it is a second scheduler.
COSCHEDULING_SCHEDULER = "scheduler-plugins-scheduler"
COSCHEDULING_API_VERSION = "scheduling.x-k8s.io/v1alpha1"
LABEL_COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"

ENGINE_CONTAINER = "engine"
ENGINE_PORT_NAME = "http"

# What a pod is to its engine.  Services choose leaders, so that clients reach no other.
ENGINE = "engine"
FOLLOWER = "engine-follower"

# A pod's name is also its host name, which ends at 63 characters (RFC 1123):
# pool (40) + engine (at most 16 with its dash) + attempt (7).  Of an engine that spans nodes the
# name is shorter by what its pods' node ranks take.
MAX_POOL_NAME = 40
MAX_ENGINE_NAME = 15
MAX_NODES = 1024  # of one engine

# Its GPU ids, or a digest of many (roll/device_mapping); its rank where it has none (pool/draft).
_ENGINE = re.compile(r"g[0-9]+(-[0-9]+)?(x[0-9]+(-[0-9]+)?)*|h[0-9a-f]{9,12}|r[0-9]+")
_REVISION = re.compile(r"[0-9a-f]{10}")  # pool/revision
# The last part of a pod's name: the attempt, and which of several pods it is (``12n3``).
_ATTEMPT = re.compile(r"(?P<attempt>[0-9]{1,9})(n(?P<node_rank>[0-9]{1,4}))?")
# The end of the name of a group in which engines start together: of how many pods it is, and which
# one of so many it is (``start-8-0``).
_START = re.compile(r"-start-(?P<pods>[0-9]{1,7})-(?P<number>[0-9]{1,9})")

OWN_PREFIXES = (f"{GROUP}/",)
OWN_LABELS = frozenset({LABEL_NAME, LABEL_INSTANCE, LABEL_COMPONENT, LABEL_MANAGED_BY})


def pod_name(pool: str, engine: EngineName, attempt: int, node_rank: int | None = None) -> str:
    """The name of one engine pod; the attempt in it is what keeps two leaders from doubling it.

    ``node_rank``: which pod of an engine that spans nodes.  ``engine_of``, ``attempt_of`` and
    ``node_rank_of`` are its inverse: what is added here is taken off there.
    """
    return f"{pool}-{engine}-{attempt}{_of_nodes(node_rank)}"


def _of_nodes(node_rank: int | None) -> str:
    return "" if node_rank is None else f"n{node_rank}"


def longest_engine(nodes: int) -> int:
    """How many characters the name of an engine may have that spans so many nodes."""
    return MAX_ENGINE_NAME - (len(_of_nodes(nodes - 1)) if nodes > 1 else 0)


def attempt_of(name: str) -> int:
    """The attempt in the name of an engine pod; 0 where there is none."""
    found = _ATTEMPT.fullmatch(name.rpartition("-")[2])
    return int(found["attempt"]) if found else 0


def node_rank_of(name: str) -> int | None:
    """Which pod of an engine that spans nodes; None of an engine that is one pod."""
    found = _ATTEMPT.fullmatch(name.rpartition("-")[2])
    return int(found["node_rank"]) if found and found["node_rank"] else None


def is_pod_of(name: str, pool: str, engine: EngineName) -> bool:
    """Whether a pod of this engine can have this name."""
    return name == pod_name(pool, engine, attempt_of(name), node_rank_of(name))


def start_name(pool: str, pods: int, number: int) -> str:
    """The name of the group of so many pods with which a pool starts; ``start_of`` reads it."""
    return f"{pool}-start-{pods}-{number}"


def start_of(name: str, pool: str) -> tuple[int, int] | None:
    """Pods and number of a pool's start, by the name of its group; None: it is no such name."""
    found = _START.fullmatch(name.removeprefix(pool)) if name.startswith(pool) else None
    return (int(found["pods"]), int(found["number"])) if found else None


def is_group_name(name: str, pool: str) -> bool:
    """Whether pods of this pool can be a group of this name: those of one try at an engine, or
    those of the engines with which it starts."""
    if start_of(name, pool) is not None:
        return True
    engine = engine_of(name, pool)
    return is_engine(engine) and name == pod_name(pool, engine, attempt_of(name))


def nodes_of(name: str, told: int) -> int:
    """How many pods are one engine with the pod of this name, of which this is told.

    A name cannot be edited, an annotation can: no pod without a node rank has others beside it, and
    one with a rank has.
    """
    node_rank = node_rank_of(name)
    return 1 if node_rank is None else min(max(told, 2, node_rank + 1), MAX_NODES)


def engine_of(name: str, pool: str) -> EngineName:
    """The engine in the name of one of its pods; empty if it is no such name."""
    engine = name.removeprefix(f"{pool}-").rpartition("-")[0]
    return EngineName(engine if name.startswith(f"{pool}-") else "")


def is_engine(name: str) -> bool:
    """Whether an engine can have this name."""
    return len(name) <= MAX_ENGINE_NAME and _ENGINE.fullmatch(name) is not None


def service_name(pool: str) -> str:
    """The Service that clients use: it holds only pods that are Ready."""
    return pool


def engines_service_name(pool: str) -> str:
    """The headless Service that gives each engine pod a DNS name before it is Ready."""
    return f"{pool}-engines"


def registry_name(pool: str) -> str:
    """The ConfigMap that tells a trainer where every engine is."""
    return f"{pool}-engines"


REGISTRY_KEY = "engines.json"  # of that ConfigMap: every engine by rank


def slots_name(pool: str) -> str:
    """The ConfigMap in which a trainer says which GPUs it has, where engines join it there."""
    return f"{pool}-slots"


_SLOT_KEY = "node-rank-"  # of that ConfigMap, before the node rank


def slot_key(node_rank: int) -> str:
    """Under which key of its data a slot is."""
    return f"{_SLOT_KEY}{node_rank}"


def slot_of(key: str) -> int | None:
    """The node rank of the slot under this key; None where it is that of something else."""
    digits = key.removeprefix(_SLOT_KEY)
    is_slot = key.startswith(_SLOT_KEY) and digits.isdecimal() and len(digits) <= 4
    return int(digits) if is_slot and key == slot_key(int(digits)) else None


_CLAIM = "-node-"  # between the pool's name and the node rank


def claim_name(pool: str, node_rank: int) -> str:
    """The ResourceClaim of the GPUs of a node rank."""
    return f"{pool}{_CLAIM}{node_rank}"


def is_claim_name(name: str, pool: str) -> bool:
    """Whether this is the name of the claim of one of a pool's node ranks."""
    digits = name.removeprefix(f"{pool}{_CLAIM}")
    known = digits.isdecimal() and len(digits) <= 4
    return known and name == claim_name(pool, int(digits))


def disruption_budget_name(pool: str) -> str:
    """The PodDisruptionBudget over the pool's engine pods."""
    return f"{pool}-engines"


def revision_name(pool: str, revision: str) -> str:
    """The ControllerRevision that says what pods of this revision are made of."""
    return f"{pool}-{revision}"


def revision_of(name: str, pool: str) -> str:
    """The revision in the name of a ControllerRevision; "" if the pool has none of that name."""
    digest = name.removeprefix(f"{pool}-")
    return digest if name != digest and _REVISION.fullmatch(digest) else ""


def weights_lease_name(pool: str) -> str:
    """The Lease by which a trainer takes hold of the pool's weights."""
    return f"{pool}-weights"


def selector(pool: str) -> dict[str, str]:
    """The labels that select a pool's engines and no other pods: of an engine that spans nodes
    the leader, so that whoever counts pods counts engines."""
    return {LABEL_POOL: pool, LABEL_COMPONENT: ENGINE}


def serving_selector(pool: str) -> dict[str, str]:
    """By what Services choose engines: never one that the operator does not watch.

    Its watch is by the last of these labels.  A pod that loses it is out of the operator's sight,
    and nobody could close its gate any more.
    """
    return {**selector(pool), LABEL_MANAGED_BY: MANAGED_BY}


def is_engine_pod(name: str, labels: Mapping[str, str], pool: str) -> bool:
    """Whether these are the labels of a pod of this name of this pool's engines, but for the one
    that the operator watches by.

    Clients reach a follower that is labelled as a leader, and not a leader that is labelled as one.
    """
    component = FOLLOWER if node_rank_of(name) else ENGINE
    return labels.get(LABEL_POOL) == pool and labels.get(LABEL_COMPONENT) == component


def is_watched(name: str, labels: Mapping[str, str], pool: str) -> bool:
    """Whether the operator knows a pod by these labels as one of this pool's engines."""
    return is_engine_pod(name, labels, pool) and labels.get(LABEL_MANAGED_BY) == MANAGED_BY


def pods_text(pool: str) -> str:
    """A selector of all that belongs to a pool, its followers too."""
    return as_words({LABEL_POOL: pool, LABEL_MANAGED_BY: MANAGED_BY})


def selector_text(pool: str) -> str:
    """The same selector as the string that the scale subresource and kubectl take."""
    return as_words(selector(pool))


def as_words(labels: Mapping[str, str]) -> str:
    """A selector of labels as the API takes it in a request."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def is_own_key(key: str) -> bool:
    """Whether a label or annotation key belongs to the operator, so that users may not set it."""
    return key in OWN_LABELS or key.startswith(OWN_PREFIXES)
