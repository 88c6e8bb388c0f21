"""Files that share a control plane run in a row, and all that are named are there."""

from itertools import pairwise
from pathlib import Path

from tests import conftest

FOLDER = Path(__file__).parents[1]
TOGETHER = [name for files in conftest.TOGETHER for name in files]


def test_every_file_that_is_named_is_there_once():
    for names in (TOGETHER, conftest.LONG):
        assert len(names) == len(set(names))
        assert [name for name in names if not (FOLDER / name).is_file()] == []


def test_a_file_that_asks_for_a_plane_shares_it():
    """Alone it would start one for itself, and nobody would notice but by the clock."""
    asking = {
        path.relative_to(FOLDER).as_posix()
        for path in (FOLDER / "integration").rglob("test_*.py")
        if "pytest.mark.plane(" in path.read_text()
    }
    assert asking - set(TOGETHER) == set()


def test_rows_are_ordered_whole_and_before_all_that_goes_alone():
    rows = ["unit/test_a.py", "unit/test_b.py", "integration/test_alone.py"]
    first = [files[0] for files in conftest.TOGETHER if not files[0].startswith("unit/")]
    assert conftest._alternating([*rows, *first])[: len(first)] == first


def test_what_goes_alone_alternates_between_waiting_and_computing():
    waiting = [f"integration/test_{n}.py" for n in range(3)]
    computing = [f"unit/test_{n}.py" for n in range(6)]
    found = conftest._alternating([*computing, *waiting])
    kinds = [name.partition("/")[0] for name in found]
    assert ("integration", "integration") not in pairwise(kinds)
    assert kinds[0] == "integration"
