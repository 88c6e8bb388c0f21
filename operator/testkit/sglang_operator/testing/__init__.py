"""A real control plane and fake engines for tests of operators that run SGLang pools.

``ControlPlane`` starts Kubernetes itself with fake GPU nodes, in seconds and without a container
runtime; ``python -m sglang_operator.testing`` does the same from a shell.  ``engine`` is a fake
SGLang.  Install the package with the extra ``testing``.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {"AuditEvent": "audit", "ControlPlane": "controlplane"}


def __getattr__(name: str) -> object:
    """Import what is asked for: a fake engine shall not pay for the control plane's imports."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    return getattr(module, name)
