"""A control plane as a pytest fixture; not registered by itself.

In the topmost conftest.py: ``pytest_plugins = ["sglang_operator.testing.pytest_plugin"]``.
Override ``control_plane_nodes`` for other nodes than three with eight GPUs each.
"""

import os
from collections.abc import Iterator

import pytest

from sglang_operator.testing import controlplane
from sglang_operator.testing.realnode import requirements


def require_real_node() -> None:
    """Skip the test where real nodes cannot run, and say why; in CI ($CI is set) fail it."""
    reason = requirements.missing()
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"in CI the tests of real nodes must run: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def control_plane_nodes() -> str:
    """The nodes of the session's control plane, as ``3x8``."""
    return "3x8"


@pytest.fixture(scope="session")
def control_plane(control_plane_nodes: str) -> Iterator[controlplane.ControlPlane]:
    """One control plane for the whole session."""
    with controlplane.ControlPlane(control_plane_nodes) as plane:
        yield plane
