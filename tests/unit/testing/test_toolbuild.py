"""How the tools are built: progress, failures, and two builders at once."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sglang_operator.testing import binaries, errors, toolbuild
from tests.unit.testing import fakes

WAIT_SECONDS = 20


class Progress:
    """Collects lines and lets a test wait for one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._grown = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._grown:
            self.lines.append(line)
            self._grown.notify_all()

    def wait_for(self, text: str) -> str:
        with self._grown:
            assert self._grown.wait_for(lambda: self._find(text), WAIT_SECONDS), self.lines
            return self._find(text)

    def _find(self, text: str) -> str:
        return next((line for line in self.lines if text in line), "")


@pytest.fixture
def gate(tmp_path):
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def open_gate(gate):
    with gate.open("w"):
        pass


def environ(go, tmp_path):
    return fakes.environ(go, SGLANG_OPERATOR_CACHE=str(tmp_path / "cache"))


def test_two_builders_at_once_build_once_and_the_second_says_that_it_waits(tmp_path, gate):
    go = fakes.go(tmp_path / "go", gate=gate)
    first, second = Progress(), Progress()
    with ThreadPoolExecutor() as pool:
        builder = pool.submit(binaries.locate, first, environ=environ(go, tmp_path))
        first.wait_for("building Kubernetes")
        waiter = pool.submit(binaries.locate, second, environ=environ(go, tmp_path))
        waiting = second.wait_for("waiting for process")
        open_gate(gate)
        assert builder.result(WAIT_SECONDS) == waiter.result(WAIT_SECONDS)
    assert str(os.getpid()) in waiting
    assert len(fakes.builds(go)) == 1


def test_a_long_build_says_how_long_and_at_which_package(tmp_path, gate, monkeypatch):
    monkeypatch.setattr(toolbuild, "REPORT_SECONDS", 0.05)
    go, progress = fakes.go(tmp_path / "go", gate=gate), Progress()
    with ThreadPoolExecutor() as pool:
        build = pool.submit(binaries.locate, progress, environ=environ(go, tmp_path))
        line = progress.wait_for("k8s.io/some/package")
        open_gate(gate)
        build.result(WAIT_SECONDS)
    assert line.startswith("building for 0 s, step 1:")
    assert progress.lines[-1].startswith("built in")


def test_a_build_that_fails_shows_the_end_of_what_go_said(tmp_path):
    go = fakes.go(tmp_path / "go", fail="ld: no space left on device")
    with pytest.raises(errors.ToolsError) as caught:
        binaries.locate(Progress(), environ=environ(go, tmp_path))
    assert "exit code 3" in str(caught.value)
    assert "ld: no space left on device" in str(caught.value)


def test_a_build_that_fails_leaves_nothing_that_looks_like_one(tmp_path):
    go = fakes.go(tmp_path / "go", fail="broken")
    with pytest.raises(errors.ToolsError):
        binaries.locate(Progress(), environ=environ(go, tmp_path))
    assert [path.suffix for path in (tmp_path / "cache" / "tools").iterdir()] == [".lock"]
    fakes.go(tmp_path / "go")
    assert binaries.plan().is_complete(binaries.locate(Progress(), environ=environ(go, tmp_path)))


def test_what_a_killed_builder_left_is_removed_by_the_next_one(tmp_path):
    go = fakes.go(tmp_path / "go")
    target = binaries.locate(Progress(), environ=environ(go, tmp_path))
    (target / "helm").unlink()
    left = target.with_name(f"building-{target.name}-x")
    left.mkdir()
    binaries.locate(Progress(), environ=environ(go, tmp_path))
    assert not left.exists()


def test_what_is_left_of_a_half_removed_build_is_built_anew(tmp_path):
    go = fakes.go(tmp_path / "go")
    folder = binaries.locate(Progress(), environ=environ(go, tmp_path))
    (folder / "kwok").unlink()
    assert binaries.locate(Progress(), environ=environ(go, tmp_path)) == folder
    assert binaries.plan().is_complete(folder)


def test_every_component_is_told_its_version(tmp_path):
    argv = toolbuild.command("go", tmp_path, "1.37.2", toolbuild.Module(folder=tmp_path))
    flags = argv[argv.index("-ldflags") + 1]
    assert "-s -w" in flags
    assert "k8s.io/component-base/version.gitVersion=v1.37.2" in flags
    assert "k8s.io/component-base/version.gitMinor=37" in flags
    assert "k8s.io/client-go/pkg/version.gitVersion=v1.37.2" in flags
    assert "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37" in flags
    assert "-trimpath" in argv


def test_the_module_builds_every_tool_that_is_looked_for():
    lines = (binaries.MODULE / "go.mod").read_text().split("tool (")[1].split(")")[0].split()
    last = [line.removesuffix("/v3").rsplit("/", 1)[1] for line in lines]
    assert sorted(toolbuild.RENAMED.get(name, name) for name in last) == sorted(binaries.TOOLS)
