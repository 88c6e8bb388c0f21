"""A real control plane for tests of operators that run SGLang pools.

``ControlPlane`` starts Kubernetes itself with fake GPU nodes, in seconds and without a container
runtime; ``python -m sglang_operator.testing`` does the same from a shell.  Install the package
with the extra ``testing``.
"""

from sglang_operator.testing.audit import AuditEvent
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.errors import (
    ApiError,
    CommandError,
    KitError,
    PlaneError,
    ToolsError,
    WaitTimeoutError,
)

__all__ = [
    "ApiError",
    "AuditEvent",
    "CommandError",
    "ControlPlane",
    "KitError",
    "PlaneError",
    "ToolsError",
    "WaitTimeoutError",
]
