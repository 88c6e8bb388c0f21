"""Fixtures that the integration tests share."""

import itertools
from collections.abc import Iterator

import pytest

from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.pytest_plugin import control_plane, control_plane_nodes
from tests.integration.pools import PoolUnderTest

__all__ = ["control_plane", "control_plane_nodes", "plane", "pool"]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """The control plane of a module with the operator, as its mark says.

    ``pytestmark = pytest.mark.plane("3x8", ask_engines=True)``: the nodes, and the operator's
    options.  ``quiet=True``: its log has no error in the end.
    """
    mark = request.node.get_closest_marker("plane")
    assert mark is not None, "say which nodes: pytestmark = pytest.mark.plane(NODES)"
    options = dict(mark.kwargs)
    quiet = options.pop("quiet", False)
    with ControlPlane(*mark.args) as plane:
        with InstalledOperator(plane, **options) as operator:
            yield plane
        log = operator.log.read_text() if quiet else ""
        assert not [line for line in log.splitlines() if " ERROR " in line]


@pytest.fixture
def pool(plane: ControlPlane) -> Iterator[PoolUnderTest]:
    """A pool that is not applied yet, in a namespace of its own; nothing of it stays."""
    pool = PoolUnderTest(plane, plane.namespace(f"pool-{next(_numbers)}"))
    yield pool
    pool.remove()
