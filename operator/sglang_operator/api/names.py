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
LABEL_REVISION = f"{GROUP}/revision"

ANNOTATION_ATTEMPT = f"{GROUP}/attempt"
ANNOTATION_DEVICES = f"{GROUP}/devices"
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
ANNOTATION_FENCE = f"{_WEIGHTS}fence"
ANNOTATION_DURATION = f"{_WEIGHTS}duration"
ANNOTATION_AT_WORK = f"{_WEIGHTS}at-work"
ANNOTATION_RELEASES = f"{_WEIGHTS}releases"
ANNOTATION_BEGUN = f"{_WEIGHTS}begun"
ANNOTATION_COMMITTED = f"{_WEIGHTS}committed"
ANNOTATION_MESSAGE = f"{_WEIGHTS}message"
ANNOTATION_GROUPS = f"{_WEIGHTS}groups"

CONDITION_WEIGHTS_SYNCED = f"{GROUP}/weights-synced"

ENGINE_CONTAINER = "engine"
ENGINE_PORT_NAME = "http"

# A pod's name is also its host name, which ends at 63 characters (RFC 1123):
# pool (40) + engine (at most 16 with its dash) + attempt (7).
MAX_POOL_NAME = 40
MAX_ENGINE_NAME = 15

# Its GPU ids, or a digest of many (roll/device_mapping); its rank where it has none (pool/draft).
_ENGINE = re.compile(r"g[0-9]+(-[0-9]+)?(x[0-9]+(-[0-9]+)?)*|h[0-9a-f]{12}|r[0-9]+")

OWN_PREFIXES = (f"{GROUP}/",)
OWN_LABELS = frozenset({LABEL_NAME, LABEL_INSTANCE, LABEL_COMPONENT, LABEL_MANAGED_BY})


def pod_name(pool: str, engine: EngineName, attempt: int) -> str:
    """The name of one engine pod; the attempt in it is what keeps two leaders from doubling it.

    ``engine_of`` and ``attempt_of`` are its inverse: what is added here is taken off there.
    """
    return f"{pool}-{engine}-{attempt}"


def attempt_of(name: str) -> int:
    """The attempt in the name of an engine pod; 0 where there is none."""
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) <= 9 else 0


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


def disruption_budget_name(pool: str) -> str:
    """The PodDisruptionBudget over the pool's engine pods."""
    return f"{pool}-engines"


def weights_lease_name(pool: str) -> str:
    """The Lease by which a trainer takes hold of the pool's weights."""
    return f"{pool}-weights"


def selector(pool: str) -> dict[str, str]:
    """The labels that select a pool's engine pods and no other pods."""
    return {LABEL_POOL: pool, LABEL_COMPONENT: "engine"}


def serving_selector(pool: str) -> dict[str, str]:
    """By what Services choose engines: never one that the operator does not watch.

    Its watch is by the last of these labels.  A pod that loses it is out of the operator's sight,
    and nobody could close its gate any more.
    """
    return {**selector(pool), LABEL_MANAGED_BY: MANAGED_BY}


def selector_text(pool: str) -> str:
    """The same selector as the string that the scale subresource and kubectl take."""
    return as_words(selector(pool))


def as_words(labels: Mapping[str, str]) -> str:
    """A selector of labels as the API takes it in a request."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def is_own_key(key: str) -> bool:
    """Whether a label or annotation key belongs to the operator, so that users may not set it."""
    return key in OWN_LABELS or key.startswith(OWN_PREFIXES)
