"""The versions out of their wheels, for the tests that need them."""

import pytest

from generators.schema import wheels
from generators.schema.sglang import SGLang, opened


def sglang_or_skip(version: str) -> SGLang:
    """A version; skips the test where its wheel is neither cached nor can be downloaded."""
    try:
        return opened(version)
    except wheels.UnavailableError as error:
        pytest.skip(str(error))
