"""The room that all tests share, what they skip for, and the file of their figures."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.testing import errors
from sglang_operator.testing.pytest_plugin import require_real_node
from tests.gpu import reports
from tests.gpu.room import LackingError, Room, Rooms

REPORT = "SGLANG_GPU_REPORT"
MARKS = {"gpu1": 1, "gpu2": 2}
RESULTS = pytest.StashKey[list[dict[str, Any]]]()
FACTS = pytest.StashKey[dict[str, Any]]()
FOLDER = Path(__file__).parent
NODES = "NODES"  # of a module: how many nodes its room has; 1 without it
FIGURES = pytest.StashKey[dict[str, Any]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin without results."""
    config.stash[RESULTS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that need another room come last: a room is closed for the next."""
    items.sort(key=lambda item: _nodes(item) if item.path.parent == FOLDER else 0)


def _nodes(item: pytest.Item) -> int:
    """How many nodes the room of a test has."""
    return getattr(getattr(item, "module", None), NODES, 1)


@pytest.fixture(scope="session")
def _rooms() -> Iterator[Rooms]:
    require_real_node()
    with Rooms(lambda text: print(f"  {text}")) as rooms:
        yield rooms


@pytest.fixture(scope="module")
def _room(request: pytest.FixtureRequest, _rooms: Rooms) -> Room:
    try:
        room = _rooms.of(getattr(request.module, NODES, 1))
    except LackingError as error:
        pytest.skip(str(error))
    request.config.stash[FACTS] = room.ground.facts()
    return room


@pytest.fixture
def room(request: pytest.FixtureRequest, _room: Room) -> Room:
    """The room, if it has as many GPUs as the test is marked with."""
    wanted = max(MARKS[mark.name] for mark in request.node.iter_markers() if mark.name in MARKS)
    there = len(_room.ground.found.cards)
    if there < wanted:
        pytest.skip(f"{wanted} GPUs are needed, there is {there}")
    return _room


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a test measured, for the report."""
    kept: dict[str, Any] = request.node.stash.setdefault(FIGURES, {})
    return kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note how a test ended."""
    report: pytest.TestReport = yield
    if report.failed and isinstance(room := getattr(item, "funcargs", {}).get("room"), Room):
        report.sections.append(("what was seen then", _seen(room)))
    results = item.config.stash[RESULTS]
    if report.when == "setup" or not results:
        name = item.nodeid.removeprefix("tests/gpu/")
        results.append({"test": name, "outcome": "", "reason": "", "seconds": 0.0})
    result = results[-1]
    result["seconds"] = round(result["seconds"] + report.duration, 2)
    if report.when == "call" or not report.passed:
        result["outcome"] = report.outcome
        result["reason"] = _reason(report)
    noted: dict[str, Any] = item.stash.get(FIGURES, {})
    result["figures"] = dict(noted)
    return report


def _seen(room: Room) -> str:
    try:
        return room.diagnosis()
    except (errors.KitError, OSError) as error:
        return f"nothing: {error}"


def _reason(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    told = report.longrepr
    if isinstance(told, tuple):
        return str(told[2]).removeprefix("Skipped: ")
    crash = getattr(told, "reprcrash", None)
    return str(getattr(crash, "message", told))[:1000]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add the results to the file, where one is named and there was a room."""
    if FACTS not in session.config.stash or REPORT not in os.environ:
        return
    facts: dict[str, Any] = session.config.stash[FACTS]
    ended: list[dict[str, Any]] = session.config.stash[RESULTS]
    results = [result for result in ended if result["outcome"]]  # one may have been interrupted
    try:
        reports.add(Path(os.environ[REPORT]), facts, results)
    except ValueError as error:
        warnings.warn(f"{os.environ[REPORT]} stays as it was: {error}", stacklevel=1)
