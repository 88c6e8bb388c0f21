"""The host's Python environment with SGLang as an image: nothing is pulled, nothing copied.

The image itself is a skeleton; what a container runs, it sees through read-only mounts of the
host's folders, at the places that they have on the host.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sglang_operator.engine import versions
from sglang_operator.testing import errors
from sglang_operator.testing.gpu.allocation import Mount

ASK_SECONDS = 60.0
# Run by the interpreter that is asked; SGLang itself is not imported, which takes long.
QUESTION = """
import importlib.metadata as metadata, json, sys
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "executable": sys.executable,
    "prefixes": [sys.prefix, sys.base_prefix],
    "path": sys.path,
    "sglang": version("sglang"),
    "torch": version("torch"),
}))
"""
SYSTEM = ("/usr", "/opt", "/etc/alternatives")
LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What a container has of its own, or must not have: nothing is mounted over it.
OWN = ("/", "/proc", "/sys", "/dev", "/etc", "/run", "/tmp", "/var", "/cache", "/root", "/home")
FILES = ("etc/ld.so.cache", "etc/ld.so.conf", "etc/os-release")
TEXTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": "hosts: files dns\n",
}
FOLDERS = ("tmp", "var/tmp", "root", "proc", "sys", "dev")
# Variables that say how SGLang and what it compiles with are found and behave.
VARIABLES = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CC", "CXX", "LANG")
PREFIXES = ("SGLANG_", "FLASHINFER_", "NCCL_", "NVSHMEM_", "TORCH_", "TRITON_")
OF_THE_OPERATOR = "SGLANG_OPERATOR_"
ALWAYS = {
    "HF_HUB_OFFLINE": "1",  # the plane's network leads nowhere
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """An interpreter, what it imports from, and the SGLang that it finds there."""

    executable: str
    folders: Sequence[str]  # prefixes and sys.path
    sglang: str
    torch: str | None = None

    @property
    def image(self) -> str:
        """The name that the image gets: the operator reads SGLang's version from it."""
        return f"{versions.DEFAULT_IMAGE.rsplit(':', 1)[0]}:v{self.sglang}"


def ask(python: str, given: Mapping[str, str]) -> Environment:
    """Ask an interpreter, with these variables, where it is and which SGLang it has.

    Raises KitError when it does not answer, or has none.
    """
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [python, "-c", QUESTION],
            env={**environ, **given},
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.KitError(f"the interpreter {python} does not answer: {error}") from error
    if done.returncode:
        raise errors.KitError(f"the interpreter {python} fails: {done.stderr.strip()[-500:]}")
    return read(python, done.stdout)


def read(python: str, text: str) -> Environment:
    """What the interpreter answered to QUESTION; raises KitError when it has no SGLang."""
    said = json.loads(text.strip().splitlines()[-1])
    if said["sglang"] is None:
        raise errors.KitError(
            f"{python} has no SGLang: name the interpreter that has it with --python, "
            "or an image with --image"
        )
    folders = [*said["prefixes"], *filter(None, said["path"])]
    return Environment(
        executable=said["executable"],
        folders=list(dict.fromkeys(folders)),
        sglang=said["sglang"],
        torch=said["torch"],
    )


def variable(text: str) -> tuple[str, str]:
    """``NAME=VALUE``; raises KitError."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise errors.KitError(f"--env {text!r}: NAME=VALUE is needed")
    return name, value


def mounts(folders: Iterable[str]) -> list[Mount]:
    """The mounts by which a container sees folders of the host; none lies in another.

    Those that are not there are left out, and so is what a container has of its own.
    """
    there = {
        str(path)
        for folder in folders
        for path in (Path(os.path.abspath(folder)), Path(folder).resolve())  # noqa: PTH100
        if path.is_dir() and str(path) not in OWN
    }
    chosen: list[str] = []
    for place in sorted(there):
        if not any(Path(place).is_relative_to(each) for each in chosen):
            chosen.append(place)
    return [Mount(host=place, inside=place) for place in chosen]


def variables(
    environ: Mapping[str, str], given: Mapping[str, str], executable: str
) -> dict[str, str]:
    """What a container's environment has: the host's where it matters, and what was given."""
    inherited = {
        key: value
        for key, value in environ.items()
        if (key in VARIABLES or key.startswith(PREFIXES)) and not key.startswith(OF_THE_OPERATOR)
    }
    programs = os.pathsep.join([str(Path(executable).parent), environ.get("PATH", os.defpath)])
    return {**ALWAYS, **inherited, "PATH": programs, **given}


def write_skeleton(root: Path, host: Path = Path("/")) -> None:
    """The image's own files: links as the host has them, accounts, and where libraries are."""
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "var/tmp"):
        (root / folder).chmod(0o1777)
    for name in LINKS:
        if (host / name).is_symlink():
            (root / name).symlink_to((host / name).readlink())
    (root / "etc").mkdir()
    for name in FILES:
        if (host / name).is_file():
            shutil.copyfile(host / name, root / name)
    for name, text in TEXTS.items():
        (root / "etc" / name).write_text(text)
