"""What is generated is what stands in the tree."""

import pytest

from sglang_operator.api import errors
from sglang_operator.cli import generate, rows, structure


def test_the_structure_is_that_of_the_definition():
    assert structure.FILE.read_text() == generate.structure_text(), "run make docs"


def test_the_page_of_errors_is_that_of_the_tables():
    assert generate.DOCUMENT.read_text() == generate.document(), "run make docs"


@pytest.mark.parametrize("name", ["resource.md", "cli.md", "metrics.md"])
def test_the_reference_is_that_of_the_code_and_the_manifests(name):
    assert (generate.REFERENCE / name).read_text() == generate.pages()[name], "run make docs"


def test_every_row_has_an_entry_and_is_checked_somewhere():
    page = generate.document()
    for name, row in (*errors.rows(), *rows.rows()):
        assert f"### {row.reason}: `{name}`" in page
    assert "in the operator ()" not in page
