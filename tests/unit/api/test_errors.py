"""The table of errors, offline; tests/integration/test_error_table.py says it to an API server."""

import pytest

from sglang_operator.api import errors
from tests.bad_objects import BAD


def test_every_error_of_the_table_has_its_bad_object():
    in_table = {name for name, row in errors.rows() if row.severity is errors.Severity.ERROR}
    assert BAD.keys() == in_table, "tests/bad_objects.py has a bad pool for each error"


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_the_bad_object_has_this_one_error(bad):
    (problem,) = bad.problems
    assert bad.is_said_by(problem), problem


def test_every_row_is_had_under_its_name():
    """Each module of rows is in the table, and no name stands in two of them."""
    rows = list(errors.rows())
    assert len(dict(rows)) == len(rows)
    assert all(getattr(errors, name) is row for name, row in rows)
    had = {name for name, value in vars(errors).items() if isinstance(value, errors.Row)}
    assert had == dict(rows).keys()
