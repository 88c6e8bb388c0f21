"""Other versions of Kubernetes beside the kit's own."""

import re
from pathlib import Path

import pytest

from sglang_operator.testing import binaries, errors, extratools
from tests.unit.testing import fakes

VERSIONS = ["1.34", "1.35", "1.36"]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def locate(tmp_path):
    base = fakes.tools(tmp_path / "assets", binaries.kubernetes_version())
    go = fakes.go(tmp_path / "go", built=[*binaries.VERSIONED, "kubectl"])

    def locate(version: str) -> Path:
        environ = fakes.environ(
            go,
            SGLANG_OPERATOR_CACHE=str(tmp_path / "cache"),
            KUBEBUILDER_ASSETS=str(base),
            SGLANG_OPERATOR_KUBERNETES=version,
        )
        return extratools.control_plane(lambda line: None, environ=environ)

    return locate


def test_the_kits_own_version_is_what_is_there(locate, tmp_path):
    assert locate("") == locate("1.37") == tmp_path / "assets"
    assert fakes.builds(tmp_path / "go") == []


def test_another_version_replaces_kubernetes_programs_and_no_others(locate, tmp_path):
    folder = locate("1.34")
    own = {path.name for path in folder.iterdir() if "kubernetes-1.34-" in str(path.resolve())}
    assert own == {*binaries.VERSIONED, "kubectl"}
    assert {path.name for path in folder.iterdir()} == {*binaries.TOOLS}
    for name in ("etcd", "kwok", "helm"):
        assert (folder / name).resolve() == tmp_path / "assets" / name
    (build,) = fakes.builds(tmp_path / "go")
    assert "gitVersion=v1.34." in build
    assert locate("1.34") == folder
    assert len(fakes.builds(tmp_path / "go")) == 1


def test_links_to_what_is_gone_are_made_anew(locate):
    folder = locate("1.34")
    (folder / "kubectl").unlink()
    (folder / "kubectl").symlink_to("/nowhere")
    assert (locate("1.34") / "kubectl").exists()


def test_a_version_without_a_module_is_refused_with_those_that_have_one(locate):
    with pytest.raises(errors.ToolsError, match=r"kubernetes-1\.34, kubernetes-1\.35"):
        locate("1.12")


def test_real_nodes_are_of_the_kits_own_version_only():
    assert extratools.no_real_nodes({}) is None
    assert extratools.no_real_nodes({"SGLANG_OPERATOR_KUBERNETES": "1.37"}) is None
    reason = extratools.no_real_nodes({"SGLANG_OPERATOR_KUBERNETES": "1.34"})
    assert reason == (
        "the kit's kubelet is of 1.37: with $SGLANG_OPERATOR_KUBERNETES=1.34 take KWOK's nodes"
    )


def test_each_module_is_of_the_version_in_its_name_and_the_chart_takes_the_oldest():
    found = {path.name for path in extratools.MODULES.iterdir()}
    assert found == {"helm3", "kueue", "promql", *(f"kubernetes-{version}" for version in VERSIONS)}
    for version in VERSIONS:
        module = extratools.MODULES / f"kubernetes-{version}"
        assert binaries.minor(extratools.kubernetes_version(module)) == version
        assert set(extratools.programs(module)) == {*binaries.VERSIONED, "kubectl"}
    chart = (ROOT / "charts" / "sglang-operator" / "Chart.yaml").read_text()
    assert re.search(r'kubeVersion: ">=1\.34\.0', chart)
