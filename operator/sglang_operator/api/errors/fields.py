"""Rows about the object as a whole, and about fields that no other module is about."""

from sglang_operator.api.errors.authorities import KUBERNETES, POLICY
from sglang_operator.api.problems import error_row as _error

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

SURGE_VERSIONED = _error(
    "SurgeOfVersionedPool",
    "maxSurge is {found} with weights.gate Versioned: such a trainer does not say when it writes, "
    "so the registry could name the new of two engines of a rank in the middle of its sync, and "
    "either would keep half of it; use 0, by which engines are replaced in place, or a trainer "
    "that syncs by the client, with weights.gate Committed",
    POLICY,
)
WINDOW_VERSIONED = _error(
    "WindowOfVersionedPool",
    "rollout.window is {found} with weights.gate Versioned: such a trainer does not say when its "
    "steps end; use Anytime, or a trainer that syncs by the client, with weights.gate Committed",
    POLICY,
)
