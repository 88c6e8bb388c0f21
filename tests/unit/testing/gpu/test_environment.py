"""The host's Python with SGLang, as a container sees it."""

import json
import sys
from pathlib import Path

import pytest

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import environment, standin


def said(**more):
    return json.dumps(
        {
            "executable": "/venv/bin/python",
            "prefixes": ["/venv", "/usr"],
            "path": ["", "/usr/lib/python3.12", "/venv/lib"],
            "sglang": "0.5.14",
            "torch": None,
            **more,
        }
    )


def test_the_image_is_named_for_the_version_that_is_installed():
    known = environment.read("python3", f"a warning of its site\n{said()}\n")
    assert known.image == "lmsysorg/sglang:v0.5.14"
    assert known.folders == ["/venv", "/usr", "/usr/lib/python3.12", "/venv/lib"]


def test_an_interpreter_without_sglang_is_told_how_to_name_another():
    with pytest.raises(errors.KitError, match=r"has no SGLang: name the .* with --python"):
        environment.read("python3", said(sglang=None))


def test_an_interpreter_that_is_not_there_is_told():
    with pytest.raises(errors.KitError, match="/no/such/python does not answer"):
        environment.ask("/no/such/python", {})


def test_the_stand_in_is_found_as_an_installed_sglang_is(tmp_path):
    given = standin.sglang(tmp_path / "site")
    known = environment.ask(sys.executable, given)
    assert known.sglang == standin.VERSION
    assert str(tmp_path / "site") in known.folders


def test_the_stand_in_imports_from_where_this_process_does(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folders = standin.sglang(tmp_path / "site")["PYTHONPATH"].split(":")
    assert folders[0] == str(tmp_path / "site")
    assert str(tmp_path) in folders


def test_without_the_variables_the_interpreter_has_no_path_of_the_kit_s(monkeypatch, tmp_path):
    given = standin.sglang(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", given["PYTHONPATH"])
    with pytest.raises(errors.KitError, match="has no SGLang"):
        environment.ask(sys.executable, {})


def test_folders_in_others_are_not_mounted_again(tmp_path):
    for name in ("a/inner", "b", "ab"):
        (tmp_path / name).mkdir(parents=True)
    wanted = [tmp_path / name for name in ("a/inner", "b", "a", "ab", "absent")]
    found = environment.mounts(map(str, wanted))
    assert [mount.host for mount in found] == [str(tmp_path / name) for name in ("a", "ab", "b")]
    assert all(mount.read_only and mount.inside == mount.host for mount in found)


def test_a_link_is_mounted_with_what_it_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    found = environment.mounts([str(tmp_path / "link")])
    assert [mount.host for mount in found] == [str(tmp_path / "link"), str(tmp_path / "real")]


@pytest.mark.parametrize("folder", ["/", "/tmp", "/proc", "/dev", "/etc"])
def test_what_a_container_has_of_its_own_is_not_covered(folder):
    assert environment.mounts([folder]) == []


def test_variables_that_matter_are_the_host_s_and_given_ones_win():
    host = {
        "PATH": "/usr/bin",
        "PYTHONPATH": "/kit",
        "CUDA_HOME": "/usr/local/cuda",
        "NCCL_NVLS_ENABLE": "0",
        "SGLANG_OPERATOR_CACHE": "/cache",
        "HF_TOKEN": "secret",
        "CC": "/opt/gcc/bin/gcc",
    }
    made = environment.variables(host, {"CC": "clang", "PYTHONPATH": "/site"}, "/venv/bin/python3")
    assert made["PATH"] == "/venv/bin:/usr/bin"
    assert made["CUDA_HOME"] == "/usr/local/cuda"
    assert made["NCCL_NVLS_ENABLE"] == "0"
    assert (made["CC"], made["PYTHONPATH"]) == ("clang", "/site")
    assert not {"HF_TOKEN", "SGLANG_OPERATOR_CACHE"} & made.keys()


@pytest.mark.parametrize("text", ["NAME", "=value", ""])
def test_a_variable_without_name_or_value_is_refused(text):
    with pytest.raises(errors.KitError, match="NAME=VALUE is needed"):
        environment.variable(text)


def test_the_skeleton_has_the_host_s_links_and_no_files_of_it(tmp_path):
    host, root = tmp_path / "host", tmp_path / "root"
    (host / "usr" / "lib").mkdir(parents=True)
    (host / "lib").symlink_to("usr/lib")
    (host / "bin").mkdir()
    (host / "etc").mkdir()
    (host / "etc" / "shadow").write_text("secret")
    (host / "etc" / "os-release").write_text("ID=x\n")
    root.mkdir()
    environment.write_skeleton(root, host)
    assert (root / "lib").readlink() == Path("usr/lib")
    assert not (root / "bin").exists()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert sorted(path.name for path in (root / "etc").iterdir()) == [
        "group",
        "nsswitch.conf",
        "os-release",
        "passwd",
    ]
