"""Fixtures that the integration tests share."""

import itertools
from collections.abc import Iterator

import pytest

from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.pytest_plugin import require_real_node
from tests.integration import planes
from tests.integration.pools import PoolUnderTest

_shared = planes.Shared()
_numbers = itertools.count()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A plane that the next test has no use for ends at once: an idle one computes too."""
    try:
        return (yield)
    finally:
        _shared.keep_for(planes.wanted(nextitem))


@pytest.fixture(scope="module")
def plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """The control plane of a module with the operator, as its mark says (see ``planes.Wanted``).

    ``pytestmark = pytest.mark.plane("3x8", ask_engines=True)``: the nodes, and the operator's
    options.  ``quiet=True``: its log has no error in the end.  ``operator=False``: the module
    starts operators of its own.  Other files have had the plane before.
    """
    wanted = planes.wanted(request.node)
    assert wanted is not None, "say which nodes: pytestmark = pytest.mark.plane(NODES)"
    if wanted.kind == "real":
        require_real_node()
    with _shared.lent(wanted) as plane:
        if not wanted.operator:
            yield plane
            return
        with InstalledOperator(plane, **wanted.options) as operator:
            yield plane
        log = operator.log.read_text() if wanted.quiet else ""
        assert not [line for line in log.splitlines() if " ERROR " in line]


@pytest.fixture
def pool(plane: ControlPlane) -> Iterator[PoolUnderTest]:
    """A pool that is not applied yet, in a namespace of its own; nothing of it stays."""
    pool = PoolUnderTest(plane, plane.namespace(f"pool-{next(_numbers)}"))
    yield pool
    pool.remove()
