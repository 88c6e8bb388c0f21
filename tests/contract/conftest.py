"""What trainers send by, and the end of the engines that tests share."""

from collections.abc import Iterator

import pytest

from tests.contract import contract, record


@pytest.fixture(scope="session", autouse=True)
def _engines_end() -> Iterator[None]:
    record.use_gpu_if_real()
    yield
    contract.stop_all()
