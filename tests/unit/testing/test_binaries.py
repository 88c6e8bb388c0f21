"""Where the control plane's programs are taken from."""

from pathlib import Path

import pytest

from sglang_operator.testing import binaries, errors, toolbuild
from tests.unit.testing import fakes


@pytest.fixture
def said():
    return []


@pytest.fixture
def locate(said, tmp_path):
    def locate(path: Path | None = None, **more: str) -> Path:
        environ = fakes.environ(path, SGLANG_OPERATOR_CACHE=str(tmp_path / "cache"), **more)
        return binaries.locate(said.append, environ=environ)

    return locate


def test_kubebuilder_assets_of_the_right_version_are_taken(locate, said, tmp_path):
    assets = fakes.tools(tmp_path / "assets", "1.37.9")
    assert locate(KUBEBUILDER_ASSETS=str(assets)) == assets
    assert said == []


def test_kubebuilder_assets_win_over_the_tools_on_path(locate, tmp_path):
    assets = fakes.tools(tmp_path / "assets", "1.37.2")
    on_path = fakes.tools(tmp_path / "bin", "1.37.2")
    assert locate(on_path, KUBEBUILDER_ASSETS=str(assets)) == assets


def test_the_tools_on_path_are_taken(locate, tmp_path):
    on_path = fakes.tools(tmp_path / "bin", "1.37.0")
    assert locate(on_path) == on_path


def test_tools_of_another_version_are_passed_over_and_it_is_said_why(locate, said, tmp_path):
    on_path = fakes.tools(tmp_path / "bin", "1.3.2")
    fakes.go(on_path)
    assert locate(on_path).is_relative_to(tmp_path / "cache")
    assert "kube-apiserver is 'Kubernetes v1.3.2', 1.37 is needed" in said[0]


def test_an_incomplete_set_is_passed_over_and_it_is_said_why(locate, said, tmp_path):
    assets = fakes.tools(tmp_path / "assets", "1.37.2", without="kwok")
    go = fakes.go(tmp_path / "go")
    assert locate(go, KUBEBUILDER_ASSETS=str(assets)).is_relative_to(tmp_path / "cache")
    assert said[0] == f"not using $KUBEBUILDER_ASSETS ({assets}): kwok missing"


def test_one_component_of_another_version_spoils_the_set(tmp_path):
    folder = fakes.tools(tmp_path, "1.37.2")
    fakes.program(folder / "kube-scheduler", "print('Kubernetes v1.36.3')")
    assert binaries.reject(folder, "1.37.2") == (
        "kube-scheduler is 'Kubernetes v1.36.3', 1.37 is needed"
    )


def test_a_program_that_cannot_run_spoils_the_set(tmp_path):
    folder = fakes.tools(tmp_path, "1.37.2")
    (folder / "kube-scheduler").write_bytes(b"\x7fELF for another machine")
    assert "Exec format error" in str(binaries.reject(folder, "1.37.2"))


def test_without_programs_and_without_go_the_error_names_what_is_wanted(locate):
    with pytest.raises(errors.ToolsError) as caught:
        locate()
    text = str(caught.value)
    assert "install Go 1.26 or newer" in text
    assert "KUBEBUILDER_ASSETS" in text
    assert "version 1.37" in text
    assert all(tool in text for tool in binaries.TOOLS)


def test_without_go_an_earlier_build_of_the_same_module_is_taken(locate, tmp_path):
    built = locate(fakes.go(tmp_path / "go"))
    assert locate() == built


def test_go_that_is_too_old_is_named_with_what_is_needed(locate, tmp_path):
    go = fakes.go(tmp_path / "go", version="go1.25.7")
    with pytest.raises(errors.ToolsError, match=r"Go 1.26 or newer is needed.*go1\.25\.7"):
        locate(go)
    assert fakes.builds(go) == []


@pytest.mark.parametrize("version", ["go1.26.0", "go1.27rc1", "go2.0", "devel go1.28-abc"])
def test_go_that_is_new_enough_builds(locate, tmp_path, version):
    go = fakes.go(tmp_path / "go", version=version)
    folder = locate(go)
    assert sorted(path.name for path in folder.iterdir()) == sorted(binaries.TOOLS)
    assert len(fakes.builds(go)) == 1


def test_a_build_is_made_once(locate, said, tmp_path):
    go = fakes.go(tmp_path / "go")
    first = locate(go)
    said.clear()
    assert locate(go) == first
    assert len(fakes.builds(go)) == 1
    assert said == []


def test_another_go_builds_anew(locate, tmp_path):
    first = locate(fakes.go(tmp_path / "a", version="go1.26.8"))
    assert locate(fakes.go(tmp_path / "b", version="go1.26.9")) != first


def test_the_cache_key_depends_on_go_mod_go_sum_and_go(monkeypatch, tmp_path):
    monkeypatch.setattr(binaries, "MODULE", tmp_path)
    monkeypatch.setattr(binaries, "kubernetes_version", lambda: "1.37.2")
    keys = set()
    for mod, total, go in [("a", "b", "1"), ("ab", "", "1"), ("a", "c", "1"), ("a", "b", "2")]:
        (tmp_path / "go.mod").write_text(mod)
        (tmp_path / "go.sum").write_text(total)
        keys.add(binaries.build_key(binaries.plan(), go))
    assert len(keys) == 4
    assert binaries.build_key(binaries.plan(), "2") in keys


def test_the_cache_key_depends_on_what_the_build_is_told(monkeypatch):
    before = binaries.build_key(binaries.plan(), "1")
    monkeypatch.setattr(toolbuild, "HELM_PACKAGES", ())
    assert binaries.build_key(binaries.plan(), "1") != before


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"SGLANG_OPERATOR_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/sglang-operator"),
        ({"SGLANG_OPERATOR_CACHE": "", "HOME": "/c"}, "/c/.cache/sglang-operator"),
    ],
    ids=["own", "xdg", "home"],
)
def test_the_cache_lies_where_the_user_wants_it(environ, folder):
    assert binaries.cache_folder(environ) == Path(folder)


def test_go_mod_says_which_kubernetes_this_is():
    assert binaries.kubernetes_version().startswith("1.37.")
