"""For all tests: the order of their files, and how long an example of hypothesis may take.

What takes longest comes first.  Files on a cluster wait for most of their time and files without
one keep a core busy, so both kinds alternate: at any moment of a parallel run some processes wait
while others compute.  The processes take the files in this order, so that none of them is left
alone with a long one, and short ones fill up the end.  Files on real nodes stand apart.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# An example that takes long says that the machine is busy, and nothing of what is tested.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

FOLDER = Path(__file__).parent

# By what they took in runs of everything, of either kind.  What is not here takes less.
LONG = (
    "faults/test_faults.py",
    "integration/test_real_pool.py",
    "integration/test_real_failures.py",
    "integration/test_real_node.py",
    "integration/test_two_operators.py",
    "integration/test_flow.py",
    "integration/test_pod_template.py",
    "integration/test_main_job.py",
    "integration/test_control_plane.py",
    "integration/test_docs.py",
    "integration/test_demo.py",
    "integration/test_gpu_demo.py",
    "integration/test_weights_real.py",
    "integration/test_install.py",
    "integration/test_leases_of_releases.py",
    "integration/test_before_a_gpu.py",
    "integration/chart/test_releases.py",
    "integration/test_names_taken.py",
    "integration/test_gpu_suite.py",
    "integration/test_policies.py",
    "integration/test_crd.py",
    "integration/test_failing_starts.py",
    "integration/test_rollouts.py",
    "faults/test_mutants.py",
    "integration/test_error_table.py",
    "integration/test_weights.py",
    "integration/test_gitops.py",
    "integration/test_pod_security.py",
    "integration/test_counting_policies.py",
    "integration/test_observability.py",
    "unit/api/test_pod_template.py",
    "unit/api/test_redaction.py",
    "unit/test_layout.py",
    "unit/test_weights_model.py",
    "unit/engine/test_combinations.py",
    "unit/plan/test_regrouping.py",
    "unit/engine/test_schema.py",
    "unit/engine/test_proof.py",
    "unit/cli/pipeline/test_references.py",
    "unit/test_receiving.py",
    "unit/manifests/test_policies.py",
    "unit/controller/test_reading.py",
    "unit/test_hostile_sizes.py",
)
ON_A_CLUSTER = ("integration", "faults")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; within one, the order stays."""
    files = list(dict.fromkeys(item.path for item in items))
    place = {file: index for index, file in enumerate(_alternating(files))}
    items.sort(key=lambda item: place[item.path])


def _alternating(files: list[Path]) -> list[Path]:
    """The files on a cluster, the long ones first, with the others, so too, evenly among them."""
    ordered = sorted(files, key=_length)
    clustered = [file for file in ordered if _is_on_a_cluster(file)]
    others = [file for file in ordered if not _is_on_a_cluster(file)]
    shares = [(index / len(clustered), file) for index, file in enumerate(clustered)]
    shares += [((index + 1) / len(others), file) for index, file in enumerate(others)]
    return [file for _, file in sorted(shares, key=lambda share: share[0])]


def _is_on_a_cluster(file: Path) -> bool:
    return file.relative_to(FOLDER).parts[0] in ON_A_CLUSTER


def _length(file: Path) -> int:
    """Its place among the long ones; the rest keep the order that they came in."""
    name = file.relative_to(FOLDER).as_posix()
    return LONG.index(name) if name in LONG else len(LONG)
