"""The engines that tests share end with the session."""

from collections.abc import Iterator

import pytest

from tests.contract import contract


@pytest.fixture(scope="session", autouse=True)
def _engines_end() -> Iterator[None]:
    yield
    contract.stop_all()
