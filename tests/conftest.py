"""For all tests: which files a process runs in a row, their order, and hypothesis' time.

Files that share a control plane, or another thing that is long to start, stay together (see
``tests/integration/planes.py``); every other file goes alone.  What takes longest comes first, so
that no process is left alone with it, and short files fill up the end.  Files on a cluster wait
for most of their time and files without one keep a core busy, so both kinds alternate: at any
moment of a parallel run some processes wait while others compute.
"""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# An example that takes long says that the machine is busy, and nothing of what is tested.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

FOLDER = Path(__file__).parent

# Files that share what they start.  Whoever looks through the audit log comes first, while it is
# short; whoever removes the operator's roles, before others have installed them.
TOGETHER = (
    # Real nodes, their containers and networks.
    (
        "integration/test_weights_real.py",
        "integration/test_real_pool.py",
        "integration/test_real_failures.py",
        "integration/test_colocated_real.py",
    ),
    # Planes whose nodes are KWOK's, as many as are needed for none to be the last one at work.
    (
        "integration/test_two_operators.py",
        "integration/test_flow.py",
        "integration/test_docs.py",
        "integration/test_names_taken.py",
        "integration/test_rollouts.py",
        "integration/test_failing_starts.py",
        "integration/test_before_a_gpu.py",
    ),
    (
        "integration/test_install.py",
        "integration/test_pod_template.py",
        "integration/test_groups.py",
        "integration/test_leases_of_releases.py",
        "integration/test_racks.py",
        "integration/test_gitops.py",
        "integration/test_weights.py",
        "integration/test_crd.py",
        "integration/test_observability.py",
        "integration/test_counting_policies.py",
        "integration/test_policies.py",
        "integration/test_colocated.py",
        "integration/test_claims.py",
        "integration/test_pod_security.py",
        "integration/test_injected_containers.py",
        "integration/test_asking_engines.py",
        "integration/test_planes.py",
    ),
    # The lab.
    ("faults/test_faults.py", "faults/test_mutants.py"),
    # All versions of SGLang, opened out of their wheels.
    (
        "unit/engine/test_combinations.py",
        "unit/engine/test_proof.py",
        "unit/engine/test_schema.py",
    ),
)

# By what they took in runs of everything, of either kind.  What is not here takes less.
LONG = (
    *(files[0] for files in TOGETHER),
    "integration/test_real_node.py",
    "integration/test_gangs.py",
    "integration/test_main_job.py",
    "integration/test_gpu_suite.py",
    "integration/test_control_plane.py",
    "integration/test_demo.py",
    "integration/test_gpu_demo.py",
    "integration/chart/test_releases.py",
    "integration/test_error_table.py",
    "unit/test_weights_model.py",
    "unit/api/test_redaction.py",
    "faults/test_model.py",
    "unit/plan/test_regrouping.py",
    "unit/api/test_pod_template.py",
    "unit/client/test_pausing.py",
    "unit/client/test_roll_sharing.py",
    "unit/testing/engine/test_parts.py",
    "unit/client/test_roll_parts.py",
    "unit/test_layout.py",
    "unit/cli/pipeline/test_references.py",
    "unit/test_receiving.py",
    "unit/manifests/test_policies.py",
    "unit/controller/test_reading.py",
    "unit/test_hostile_sizes.py",
)
ON_A_CLUSTER = ("integration", "faults")
COMPUTING = ("faults/test_model.py",)  # unlike the rest of its folder


class InARow(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a process files that stay together as one piece of work."""

    def _split_scope(self, nodeid: str) -> str:
        return _first(nodeid.partition("::")[0].removeprefix(f"{FOLDER.name}/"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InARow | None:
    return InARow(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Nobody looks for garbage among thousands of tests, which all stay.

    That was half of the time of collecting them, in each process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; within one, the order stays."""
    rows: dict[str, list[Path]] = {}
    for path in sorted({item.path: None for item in items}, key=_within):
        rows.setdefault(_first(_name(path)), []).append(path)
    files = [path for row in _alternating(list(rows)) for path in rows[row]]
    place = {file: index for index, file in enumerate(files)}
    items.sort(key=lambda item: place[item.path])


def _alternating(rows: list[str]) -> list[str]:
    """Those on a cluster, the long ones first, with the others, so too, evenly among them.

    Several files on one cluster come before all: they take longest.
    """
    ordered = sorted(rows, key=_length)
    heads = [files[0] for files in TOGETHER if _is_on_a_cluster(files[0])]
    whole = [row for row in ordered if row in heads]
    clustered = [row for row in ordered if row not in whole and _is_on_a_cluster(row)]
    others = [row for row in ordered if not _is_on_a_cluster(row)]
    shares = [(index / len(clustered), row) for index, row in enumerate(clustered)]
    shares += [((index + 1) / len(others), row) for index, row in enumerate(others)]
    return whole + [row for _, row in sorted(shares, key=lambda share: share[0])]


def _name(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def _first(name: str) -> str:
    """The first file of those with which this one stays together; itself if it goes alone."""
    return next((files[0] for files in TOGETHER if name in files), name)


def _within(path: Path) -> int:
    """Its place among those with which it stays together."""
    name = _name(path)
    return next((files.index(name) for files in TOGETHER if name in files), 0)


def _is_on_a_cluster(row: str) -> bool:
    return row.partition("/")[0] in ON_A_CLUSTER and row not in COMPUTING


def _length(row: str) -> int:
    """Its place among the long ones; the rest keep the order that they came in."""
    return LONG.index(row) if row in LONG else len(LONG)
