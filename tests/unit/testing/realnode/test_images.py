"""Container images made of folders, and the files of images with Python in them."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sglang_operator.testing import errors
from sglang_operator.testing.realnode import images, pythonimage, rootfs


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    return root


@pytest.fixture
def layer(folder, tmp_path):
    return images.write_layer(folder, tmp_path / "layer.tar")


def archive(*made):
    stream = io.BytesIO()
    images.write_archive(made, stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as opened:
        members = opened.getmembers()
        names = [member.name for member in members]
        assert len(names) == len(set(names))
        contents = {}
        for member in members:
            file = opened.extractfile(member)
            assert file is not None
            contents[member.name] = file.read()
        return contents


def blob(contents, described):
    content = contents[f"blobs/sha256/{described['digest'].removeprefix('sha256:')}"]
    assert hashlib.sha256(content).hexdigest() == described["digest"].removeprefix("sha256:")
    assert len(content) == described["size"]
    return content


def test_a_layer_does_not_depend_on_who_made_it_and_when(folder, layer, tmp_path):
    for entry in folder.rglob("*"):
        os.utime(entry, (1, 1))
    again = images.write_layer(folder, tmp_path / "again.tar")
    assert again.digest == layer.digest
    assert layer.digest == f"sha256:{hashlib.sha256(layer.file.read_bytes()).hexdigest()}"


def test_an_archive_leads_from_the_name_to_the_layers(layer):
    image = images.Image(
        name="kit.invalid/x:v1",
        layers=[layer],
        entrypoint=["/run.sh"],
        env={"A": "1"},
        user="65532:65532",
    )
    contents = archive(image)
    (described,) = json.loads(contents["index.json"])["manifests"]
    assert described["annotations"]["io.containerd.image.name"] == "kit.invalid/x:v1"
    manifest = json.loads(blob(contents, described))
    config = json.loads(blob(contents, manifest["config"]))
    assert config["rootfs"]["diff_ids"] == [layer.digest]
    assert config["config"]["Entrypoint"] == ["/run.sh"]
    assert config["config"]["User"] == "65532:65532"
    assert "A=1" in config["config"]["Env"]
    assert "Cmd" not in config["config"]
    (packed,) = manifest["layers"]
    with tarfile.open(fileobj=io.BytesIO(blob(contents, packed))) as opened:
        assert opened.getmember("run.sh").mode == 0o755
        assert opened.getmember("etc/hosts").uname == ""


def test_images_of_one_archive_share_their_layers(layer):
    contents = archive(
        *(images.Image(name=f"kit.invalid/x:v{n}", layers=[layer], env={"N": n}) for n in "12")
    )
    assert len(json.loads(contents["index.json"])["manifests"]) == 2
    assert sum(name.startswith("blobs/") for name in contents) == 1 + 2 * 2


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("kit.invalid/sglang:v0.5.7", "kit.invalid/sglang:v0.5.7"),
        ("lmsysorg/sglang:v0.5.7", "docker.io/lmsysorg/sglang:v0.5.7"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("localhost.test:5000/a/b:1", "localhost.test:5000/a/b:1"),
    ],
)
def test_a_name_is_completed_as_containerd_does(name, full):
    assert images.full_name(name) == full


@pytest.mark.parametrize("name", ["kit.invalid/x", "kit.invalid/x:latest", "kit.invalid/X:1", ""])
def test_a_name_that_kubelet_would_pull_or_nobody_can_is_refused(name):
    with pytest.raises(errors.KitError, match=r"such as kit\.invalid/sglang"):
        images.full_name(name)


def test_requirements_are_followed_and_extras_are_not():
    found = rootfs.closure(["aiohttp"])
    assert {"aiohttp", "yarl", "multidict"} <= set(found)
    assert "brotli" not in found
    with pytest.raises(errors.KitError, match="'no-such-thing' is not installed"):
        rootfs.closure(["no-such-thing"])


def test_a_python_root_runs_by_itself_with_what_was_put_into_it(tmp_path):
    package = tmp_path / "thing"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 41\n")
    root = tmp_path / "root"
    rootfs.write(rootfs.source_files([package]), root)
    rootfs.write_texts({"/app/other.py": "import thing\nprint(thing.VALUE + 1)\n"}, root)
    rootfs.write_texts({"/usr/local/bin/it": "#!/bin/sh\n"}, root)
    assert os.access(root / "usr/local/bin/it", os.X_OK)
    # Not newer nor older than its source, but the compiled file is what is run.
    (root / "app/thing/__init__.py").write_text("VALUE = 0\n")
    said = subprocess.run(
        [sys.executable, "-S", "other.py"], cwd=root / "app", capture_output=True, text=True
    )
    assert said.stdout == "42\n", said.stderr


def test_layers_are_made_once_until_a_source_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(rootfs, "interpreter_files", lambda: iter(()))
    monkeypatch.setattr(rootfs, "write_base", lambda root: (root / "base").touch())
    package = tmp_path / "thing"
    package.mkdir()
    source = package / "__init__.py"
    source.write_text("VALUE = 1\n")

    def build(**more):
        return pythonimage.build(
            "kit.invalid/thing:v1",
            entrypoint=["python3"],
            sources=[package],
            environ={"SGLANG_OPERATOR_CACHE": str(tmp_path / "cache")},
            **more,
        )

    first = build()
    assert len(first.layers) == 2
    before = [layer.file.stat().st_mtime_ns for layer in first.layers]
    assert [layer.file.stat().st_mtime_ns for layer in build().layers] == before
    source.write_text("VALUE = 22\n")
    base, changed = build().layers
    assert base == first.layers[0]
    assert changed != first.layers[1]
    assert build(texts={"/etc/motd": "hello"}).layers[1] != changed


def test_layers_that_nobody_asks_for_go(tmp_path, monkeypatch):
    cache = tmp_path / "layers"
    cache.mkdir()
    for name, age in (("old", 2 * pythonimage.KEPT_SECONDS), ("new", 0)):
        for suffix in (".tar", ".sha256"):
            (cache / f"{name}{suffix}").touch()
        status = (cache / f"{name}.sha256").stat()
        os.utime(cache / f"{name}.sha256", (0, status.st_mtime - age))
    pythonimage._forget(cache)
    assert sorted(path.name for path in cache.iterdir()) == ["new.sha256", "new.tar"]


def test_the_standard_library_goes_along_without_its_tests():
    places = {place for _, place in rootfs.interpreter_files()}
    library = Path("usr/local/lib") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert {library / "os.py", library / "asyncio" / "__init__.py"} <= places
    assert not any("test" in place.parts or "site-packages" in place.parts for place in places)
