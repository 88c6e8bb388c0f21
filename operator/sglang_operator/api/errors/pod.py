"""Rows about the pod that a user adds to: ``podTemplate`` and ``system_envs``."""

from sglang_operator.api.errors.authorities import KUBERNETES, POLICY
from sglang_operator.api.problems import error_row as _error
from sglang_operator.api.problems import warning_row as _warning

POD_TEMPLATE = _error(
    "PodTemplateForbidden",
    "{found} is not allowed here; expected only {expected}; {advice}",
    POLICY,
)
POD_FIELD = _error("SpecInvalid", "found {found}, expected {expected}; {advice}", KUBERNETES)
POD_FIELD_UNKNOWN = _warning(
    "PodTemplateFieldUnknown",
    "{key} is no field of a pod in Kubernetes {version}, and the API server leaves out what it does"
    " not know; {advice}",
    KUBERNETES,
)
POD_VOLUME_UNUSED = _warning(
    "PodTemplateVolumeUnused", "volume {name} is mounted nowhere: it does nothing; {advice}", POLICY
)
SYSTEM_ENV = _error(
    "SystemEnvInvalid",
    "{key} is {found}; expected a string or a number under the name of an environment variable; "
    "correct system_envs",
    KUBERNETES,
)
SYSTEM_ENV_OWNED = _error(
    "SystemEnvOwned",
    "{key} is {found}, but it cannot be set here; remove it from system_envs: {advice}",
    POLICY,
)
