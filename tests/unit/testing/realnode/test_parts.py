"""What real nodes are told, and what they leave in control groups and namespaces."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from sglang_operator.testing import binaries, errors, guard, pytest_plugin
from sglang_operator.testing.realnode import cgroups, files, network, requirements, tools
from tests.unit.testing import fakes


@pytest.fixture
def node(tmp_path):
    (tmp_path / "gpu-node-0").mkdir()
    return files.Node(
        name="gpu-node-0",
        number=1,
        gpus=8,
        folder=tmp_path / "gpu-node-0",
        logs=tmp_path / "logs",
        tools=Path("/tools"),
        kubeconfig=tmp_path / "kubelet.kubeconfig",
        authority=tmp_path / "ca.crt",
        cgroup="/sglang-plane-x/gpu-node-0",
        lease_seconds=40,
        restrict_oom=True,
    )


def test_everything_a_node_writes_lies_in_its_folder_or_is_its_own_memory(node, tmp_path):
    config = json.loads(files.write(node).read_text())
    kubelet = files.kubelet(node)
    containerd = tomllib.loads(files.containerd(node))
    (plugin,) = files.cni(node)["plugins"]
    written = [
        *(argument.split("=", 1)[1] for argument in config["daemons"]["kubelet"]["argv"][3:5]),
        kubelet["podLogsDir"],
        containerd["root"],
        plugin["ipam"]["dataDir"],
        config["socket"],
    ]
    assert all(Path(place).is_relative_to(tmp_path) for place in written)
    assert containerd["state"].startswith("/run/")  # which is memory there


def test_nodes_have_addresses_and_pods_of_their_own(node):
    assert node.address == "10.210.1.1"
    assert files.kubelet(node)["address"] == node.address
    (plugin,) = files.cni(node)["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]


def test_containerd_takes_its_pause_image_from_the_kit(node):
    cri = tomllib.loads(files.containerd(node))["plugins"]["io.containerd.cri.v1.images"]
    assert cri["pinned_images"]["sandbox"] == files.PAUSE_IMAGE


def test_a_runtime_stands_beside_runc_and_takes_its_place_for_nobody_else(node):
    given = dataclasses.replace(node, runtimes={"nvidia": Path("/kit/nvidia-runtime")})
    found = tomllib.loads(files.containerd(given))["plugins"]["io.containerd.cri.v1.runtime"]
    assert found["containerd"]["default_runtime_name"] == "runc"
    programs = {
        name: each["options"]["BinaryName"]
        for name, each in found["containerd"]["runtimes"].items()
    }
    assert programs == {"runc": "/tools/runc", "nvidia": "/kit/nvidia-runtime"}
    assert found["cni"]["bin_dirs"] == ["/tools"]


def test_the_network_has_a_way_to_services(tmp_path):
    argv = network.holder_command(tmp_path / "ready")
    assert argv[:2] == ["unshare", "--net"]
    assert network.SERVICE_RANGE in argv
    wrapped = network.Network(42).wrapped(["true"])
    assert wrapped == ["nsenter", "--net=/proc/42/ns/net", "--", "true"]


def test_the_guard_removes_groups_with_all_that_is_in_them(tmp_path):
    groups = tmp_path / "cgroup" / "plane"
    (groups / "node" / "kubepods").mkdir(parents=True)
    data = tmp_path / "data"
    data.mkdir()
    (data / guard.GROUPS).write_text(f"{groups}\n{groups / 'node'}\n")
    guard.remove_groups(data)
    assert not groups.exists()


def test_a_group_with_a_process_is_waited_for_and_then_left(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "STOP_SECONDS", 0.05)
    busy = tmp_path / "cgroup"
    busy.mkdir()
    (busy / "cgroup.procs").write_text("1\n")  # a file keeps a folder, as a process does a group
    (tmp_path / guard.GROUPS).write_text(f"{busy}\n")
    guard.remove_groups(tmp_path)
    assert busy.exists()


def test_groups_of_version_1_get_the_processors_of_their_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "V2", tmp_path / "cgroup.controllers")
    for name in cgroups.NEEDED_V1:
        (tmp_path / name).mkdir()
        for file in ("tasks", "cgroup.procs"):
            (tmp_path / name / file).touch()
    assert cgroups.version() == 1
    assert cgroups.missing() is None
    made = cgroups.create("plane")
    assert sorted(path.parent.name for path in made) == sorted(cgroups.NEEDED_V1)
    (tmp_path / "memory" / "tasks").unlink()
    assert "lacks the controllers memory" in str(cgroups.missing())


def test_groups_of_version_2_are_one_and_pass_their_controllers_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "V2", tmp_path / "cgroup.controllers")
    (tmp_path / "cgroup.controllers").write_text("cpu cpuset memory pids io\n")
    assert cgroups.version() == 2
    assert cgroups.missing() is None
    assert cgroups.create("plane") == [tmp_path / "plane"]
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+io"  # the last that was asked for
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert "lacks the controllers cpuset, pids" in str(cgroups.missing())


def test_without_root_it_is_said_what_is_missing(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in str(requirements.missing.__wrapped__())


def test_elsewhere_than_on_linux_it_is_said_what_is_missing(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert "needs Linux" in str(requirements.missing.__wrapped__())


def test_missing_programs_are_named_by_their_packages(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program, path: None if program == "nft" else "/it")
    assert str(requirements.missing.__wrapped__()).endswith("apt-get install nftables")


def test_all_that_is_missing_can_be_had_at_once(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda program, path: None if program == "nft" else "/it")
    monkeypatch.setattr(cgroups, "missing", lambda: "/sys/fs/cgroup lacks cpuset")
    monkeypatch.setattr(requirements, "_trial", lambda: pytest.fail("without root it says nothing"))
    root, programs, groups = requirements.lacking()
    assert "needs root" in root
    assert programs.endswith("apt-get install nftables")
    assert groups == "/sys/fs/cgroup lacks cpuset"


def test_a_test_of_a_real_node_skips_with_the_reason_and_fails_in_ci(monkeypatch):
    monkeypatch.setattr(requirements, "missing", lambda: "no root here")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no root here"):
        pytest_plugin.require_real_node()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="must run: no root here"):
        pytest_plugin.require_real_node()


def test_the_modules_build_every_tool_that_is_looked_for():
    named = {"coredns", "pause"}  # those with a main.go of their own
    for module in tools.plan().modules:
        if module.package == "tool":
            text = (module.folder / "go.mod").read_text()
            lines = text.split("\ntool ")[1].split("\n\n")[0].strip("()\n").split()
            named |= {line.rsplit("/", 1)[1] for line in lines}
    assert named == set(tools.TOOLS)


def test_kubelet_is_of_the_version_of_the_control_plane():
    text = (tools.MODULES / "kubernetes" / "go.mod").read_text()
    match = binaries.KUBERNETES.search(text)
    assert match is not None
    assert match["version"] == binaries.kubernetes_version()


def test_the_programs_are_built_apart_from_the_control_planes(tmp_path):
    go = fakes.go(tmp_path / "go", built=tools.TOOLS)
    environ = fakes.environ(go, SGLANG_OPERATOR_CACHE=str(tmp_path / "cache"))
    folder = tools.locate(lambda _: None, environ=environ)
    assert folder.name.startswith("node-")
    assert len(fakes.builds(go)) == len(tools.plan().modules)
    assert "-tags=seccomp" in " ".join(fakes.builds(go))
    assert (
        tools.locate(
            lambda _: None,
            environ=fakes.environ(SGLANG_OPERATOR_CACHE=str(tmp_path / "cache")),
        )
        == folder
    )  # without Go


def test_without_programs_and_without_go_it_is_said_what_to_install(tmp_path):
    environ = fakes.environ(SGLANG_OPERATOR_CACHE=str(tmp_path))
    with pytest.raises(errors.ToolsError, match=r"install Go 1\.26"):
        tools.locate(lambda _: None, environ=environ)
