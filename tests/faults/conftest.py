"""One control plane and one lab for the fault tests that a process runs in a row."""

import gc
import warnings
from collections.abc import Iterator

import pytest

from sglang_operator.testing import ControlPlane
from tests.faults import lab as laboratory
from tests.faults import nodes


@pytest.fixture(scope="package", autouse=True)
def connections_of_killed_operators() -> Iterator[None]:
    """A connection whose peer was killed stays unclosed in asyncio; it is not ours to close.

    Collected here, where it is expected, and not in a test of something else that comes after.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="package")
def plane() -> Iterator[ControlPlane]:
    grace = nodes.GRACE_SECONDS
    with ControlPlane(laboratory.NODES, node_monitor_grace_seconds=grace) as plane:
        yield plane


@pytest.fixture(scope="package")
def lab(plane: ControlPlane) -> Iterator[laboratory.Lab]:
    with laboratory.lab(plane) as lab:
        yield lab
