"""Each write to the API server means one object in one state, and says so."""

import pytest

from tests.writes import check
from tests.writes.guards import Mutant
from tests.writes.sites import sites


def test_every_write_carries_the_guards_it_must_and_each_of_them_holds():
    assert check.problems() == []


def test_no_write_is_required_that_the_source_does_not_have():
    written = {(site.path, site.function, site.method) for site in sites()}
    assert set(check.REQUIRED) == written


@pytest.mark.parametrize("mutant", tuple(check.mutants()), ids=str)
def test_a_write_that_loses_a_guard_is_noticed(mutant: Mutant):
    assert check.problems(mutant) != []
