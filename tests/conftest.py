"""For all tests: the order of their files, and how long an example of hypothesis may take.

What takes longest comes first, what needs no cluster last.
The processes of a parallel run take the files in this order, so that none of them is left alone
with a long one, and short ones fill up the end.  Files on real nodes stand apart from each other.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# An example that takes long says that the machine is busy, and nothing of what is tested.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

FOLDER = Path(__file__).parent

LONG = (
    "faults/test_faults.py",
    "integration/test_real_pool.py",
    "integration/test_main_job.py",
    "integration/test_names_taken.py",
    "integration/test_flow.py",
    "integration/test_real_failures.py",
    "integration/test_two_operators.py",
    "integration/test_real_node.py",
    "integration/test_docs.py",
    "integration/test_demo.py",
    "integration/chart/test_releases.py",
    "integration/test_weights_real.py",
    "integration/test_control_plane.py",
)
FOLDERS = ("integration", "faults", "contract", "unit")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; within one, the order stays."""
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> tuple[int, int]:
    file = path.relative_to(FOLDER)
    long = LONG.index(file.as_posix()) if file.as_posix() in LONG else len(LONG)
    folder = FOLDERS.index(file.parts[0]) if file.parts[0] in FOLDERS else len(FOLDERS)
    return long, folder
