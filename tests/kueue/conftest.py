"""One control plane with the real Kueue and an operator, which all files here share."""

from collections.abc import Callable, Iterator

import pytest

from sglang_operator.testing import ControlPlane, kueue
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.kueue import Kueue
from tests.kueue.queues import Queue


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    if reason := kueue.missing():
        pytest.skip(reason)
    with ControlPlane("6x8", node_monitor_grace_seconds=2.0) as plane:
        yield plane


@pytest.fixture(scope="session")
def installed(plane: ControlPlane) -> Kueue:
    installed = Kueue(plane)
    installed.install()
    for name, value in (("low", 10), ("high", 100)):
        installed.apply(
            {"kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value}
        )
    return installed


@pytest.fixture(scope="session")
def operator(plane: ControlPlane, installed: Kueue) -> Iterator[InstalledOperator]:
    with InstalledOperator(plane) as operator:
        yield operator
    lines = operator.log.read_text().splitlines()
    assert not [line for line in lines if " ERROR " in line]


@pytest.fixture
def queue(
    plane: ControlPlane, installed: Kueue, operator: InstalledOperator
) -> Iterator[Callable[[int], Queue]]:
    made: list[Queue] = []

    def make(most: int) -> Queue:
        made.append(Queue(plane, installed, most))
        return made[-1]

    yield make
    for each in made:
        each.remove()
