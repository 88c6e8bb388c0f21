"""Fixtures that the integration tests share."""

from sglang_operator.testing.pytest_plugin import control_plane, control_plane_nodes

__all__ = ["control_plane", "control_plane_nodes"]
