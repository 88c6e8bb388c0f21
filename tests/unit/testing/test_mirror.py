"""A module of the kit has its test at the same place in this folder, or stands here."""

import fnmatch
from pathlib import Path

from sglang_operator.testing import roots

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
KIT = roots.KIT / "testing"

# Modules that have no test file of their own -> whose tests cover them.
ELSEWHERE = {
    "__main__.py": "tests/integration/test_control_plane.py",
    "access.py": "tests/integration/test_control_plane.py",
    "client.py": "tests/integration/test_control_plane.py",
    "controlplane.py": "tests/integration/test_control_plane.py",
    "datadir.py": "tests/unit/testing/test_guard.py",
    "demo_engines.py": "tests/integration/test_demo.py",
    "errors.py": "tests/unit/testing/test_running.py",
    "installed.py": "tests/integration/test_flow.py",
    "kueue.py": "tests/kueue/test_kueue.py",
    "processes.py": "tests/unit/testing/test_guard.py",
    "pytest_plugin.py": "tests/unit/testing/realnode/test_parts.py",
    "roots.py": "tests/unit/testing/test_distribution.py",
    # What an engine does is asked over HTTP, of fakes and of real ones alike.
    "engine/*.py": "tests/contract",
    "engine/__main__.py": "tests/unit/testing/engine/test_start.py",
    "engine/failures.py": "tests/unit/testing/engine/test_start.py",
    "engine/process.py": "tests/unit/testing/engine/test_start.py",
    "engine/rendezvous.py": "tests/unit/testing/engine/test_parts.py",
    "engine/settings.py": "tests/unit/testing/engine/test_start.py",
    "engine/shim.py": "tests/unit/testing/engine/test_start.py",
    # They are the demo with a GPU, which runs with stand-ins for driver and engine.
    "gpu/broadcast.py": "tests/integration/test_gpu_demo.py",
    "gpu/ground.py": "tests/integration/test_gpu_demo.py",
    "gpu/plugin.py": "tests/integration/test_gpu_demo.py",
    "gpu/standin.py": "tests/integration/test_gpu_demo.py",
    "gpu/story.py": "tests/integration/test_gpu_demo.py",
    # They judge the operator, and planted defects judge them.
    "faults/*.py": "tests/faults/test_mutants.py",
    "faults/proxy.py": "tests/faults/test_faults.py",
    "faults/rules.py": "tests/faults/test_faults.py",
    # Programs and namespaces of real nodes, of which parts can be had without root.
    "realnode/*.py": "tests/integration/test_real_node.py",
    "realnode/cgroups.py": "tests/unit/testing/realnode/test_parts.py",
    "realnode/files.py": "tests/unit/testing/realnode/test_parts.py",
    "realnode/kitimages.py": "tests/integration/test_real_pool.py",
    "realnode/network.py": "tests/unit/testing/realnode/test_parts.py",
    "realnode/pythonimage.py": "tests/unit/testing/realnode/test_images.py",
    "realnode/requirements.py": "tests/unit/testing/realnode/test_parts.py",
    "realnode/rootfs.py": "tests/unit/testing/realnode/test_images.py",
    "realnode/tools.py": "tests/unit/testing/realnode/test_parts.py",
}


def without_own_test() -> list[str]:
    modules = (path.relative_to(KIT) for path in KIT.rglob("*.py") if path.name != "__init__.py")
    own = ((HERE / path.parent / f"test_{path.name}", path) for path in modules)
    return sorted(path.as_posix() for test, path in own if not test.exists())


def rows(module: str) -> list[str]:
    return [row for row in ELSEWHERE if fnmatch.fnmatch(module, row)]


def test_a_module_has_its_test_here_or_it_is_said_where():
    assert [module for module in without_own_test() if not rows(module)] == []


def test_what_is_said_is_true():
    modules = without_own_test()
    assert [row for row in ELSEWHERE if not fnmatch.filter(modules, row)] == []
    assert [test for test in ELSEWHERE.values() if not (ROOT / test).exists()] == []


def test_a_test_that_is_named_for_a_module_asks_for_it_by_name():
    """Of rows for a single module whose test runs in this process."""
    silent = {
        module: test
        for module, test in ELSEWHERE.items()
        if "*" not in module and test.startswith("tests/unit") and "__main__" not in module
        if Path(module).stem not in (ROOT / test).read_text()
    }
    assert silent == {}
