"""What is generated is what stands in the tree."""

import functools

import pytest

from generators import checkout
from generators.docs import errors as page
from generators.docs import generated
from sglang_operator.api import errors
from sglang_operator.cli import file_errors

# Made by the first test that asks: each process of a parallel run collects all tests, and runs few.
files = functools.cache(generated.files)


@pytest.mark.parametrize("path", generated.PATHS, ids=lambda path: path.name)
def test_a_generated_file_is_that_of_the_code_and_the_manifests(path):
    assert path.read_text() == files()[path], "run make docs"


def test_every_row_has_an_entry_and_is_checked_somewhere():
    text = page.page(checkout.definition(), checkout.PACKAGE)
    for name, row in (*errors.rows(), *file_errors.rows()):
        assert f"### {row.reason}: `{name}`" in text
    assert "in the operator ()" not in text
