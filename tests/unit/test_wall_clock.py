"""Nothing is due by a wall clock: it may be wrong by hours, and put right at any time.

Stamps are made in few places, each with its reason.  Whoever adds one here says why no deadline and
no decision hangs on it.
"""

import ast
import functools
import re
from collections.abc import Callable, Iterator

import pytest

from tests.unit.test_layout import PACKAGE

Kind = Callable[[ast.AST], Iterator[int]]

READS = {
    "clocks.py": "the one place where both clocks are read",
    "cluster/executor.py": "a stamp in a pod's gate condition, for people",
    "kube/leader_election.py": "stamps in the operator's Lease; the term is by the steady clock",
    "cluster/recorder.py": "stamps in Events",
    "controller/shell.py": "kopf takes the end of credentials as a time of day; a 401 renews them",
    "client/lease.py": "stamps in the weights Lease; ages are by the steady clock",
    "client/one_at_a_time.py": "words of an error: since when another call runs",
    "cli/cluster/look.py": "ages that are shown; of two looks a change is what counts",
    "cli/doctor.py": "ages that are shown; of two looks a change is what counts",
    "cli/map.py": "when the picture was true",
    "cli/rollout.py": "the stamp of a restart, for people",
    "cli/status.py": "ages that are shown; nothing is done by them",
    "cli/wait.py": "words of an error; the wait itself is by the monotonic clock",
}
# The fields of clocks.Moment: who reads ``wall`` has a stamp to make or to tell.
TELLS = {
    "clocks.py": "what was due by a moment",
    "observed/moment.py": "the moment itself",
    "kube/credentials.py": "the end of a token is a stamp of who made it, read when it is given",
    "cluster/node_store.py": "since when a node is gone, for people",
    "observed/sightings.py": "an end that nobody saw: too early by mistake it is replaced once",
    "cluster/child_store.py": "since when a Lease stands, told by the clock of who asks",
    "status/rollout_progress.py": "a stamp in the status, by which nothing is done",
    "controller/deciding.py": "the clock of the Lease's stamps",
    "controller/observing.py": "what is seen is told by the clock of the Lease's stamps",
    "controller/publishing.py": "stamps in the status",
    "controller/windows.py": "when a rollout's wait ends: told, and read again after a restart",
    "plan/planner.py": "the same moment by both clocks: it is done by the steady one",
    "plan/rules/replaced.py": "until when a rollout waits, for people",
}
# They stand in for engines, nodes and certificate authorities, and decide about no pool.
STANDS_IN = "testing/"

_TIME = frozenset(
    {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "CLOCK_REALTIME"}
)
_DATE = frozenset({"now", "utcnow", "today"})
_OF = {"time": _TIME, "datetime": _DATE, "date": _DATE}
_READING = _TIME | _DATE
_WORDS = re.compile(r"\b(?:time|datetime|date|wall)\b")  # none is found without one


def wall_reads(tree: ast.AST) -> Iterator[int]:
    """The lines in which a module reads the wall clock."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for alias in node.names if alias.name in _TIME)
        elif isinstance(node, ast.Attribute) and node.attr in _READING:
            owner = ast.unparse(node.value).rsplit(".", 1)[-1]
            if node.attr in _OF.get(owner, ()):
                yield node.lineno


def tellings(tree: ast.AST) -> Iterator[int]:
    """The lines in which a module takes the wall clock's part of a moment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "wall":
            yield node.lineno


KINDS = (wall_reads, tellings)


@functools.cache
def found() -> dict[Kind, dict[str, list[int]]]:
    """The lines of each kind, by module: each is parsed once."""
    lines: dict[Kind, dict[str, list[int]]] = {kind: {} for kind in KINDS}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(STANDS_IN):
            continue
        text = path.read_text()
        if not _WORDS.search(text):
            continue  # which spares most of the parsing
        tree = ast.parse(text)
        for kind in KINDS:
            if at := list(kind(tree)):
                lines[kind][name] = at
    return lines


@pytest.mark.parametrize(("kind", "allowed"), [(wall_reads, READS), (tellings, TELLS)])
def test_the_wall_clock_is_read_for_stamps_alone(kind, allowed):
    lines = found()[kind]
    elsewhere = {name: at for name, at in lines.items() if name not in allowed}
    assert not elsewhere, "a deadline is by clocks.steady(); a stamp stands in the list, with why"
    assert lines.keys() == allowed.keys(), "a place that is no more is taken from the list"


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.time()",
        "import time\nread = time.time",
        "import time\ntime.time_ns()",
        "from time import time",
        "import time\ntime.clock_gettime(time.CLOCK_REALTIME)",
        "from datetime import datetime\ndatetime.now(UTC)",
        "import datetime\ndatetime.datetime.utcnow()",
        "import datetime\ndatetime.date.today()",
    ],
)
def test_each_way_to_read_it_is_found(text):
    assert list(wall_reads(ast.parse(text)))
