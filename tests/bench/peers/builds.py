"""The peers' operators, built from their Go modules at the versions that are compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sglang_operator.testing import binaries

CACHE = binaries.cache_folder(os.environ) / "peers"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One operator: its module, and the package of its program in it."""

    name: str
    module: str
    version: str
    package: str


KUBERAY = Peer(
    name="kuberay",
    module="github.com/ray-project/kuberay/ray-operator",
    version="v1.5.1",
    package=".",
)
LWS = Peer(name="lws", module="sigs.k8s.io/lws", version="v0.8.0", package="./cmd")
JOBSET = Peer(name="jobset", module="sigs.k8s.io/jobset", version="v0.11.1", package=".")
PEERS = (KUBERAY, LWS, JOBSET)


@dataclass(frozen=True, kw_only=True)
class Built:
    """An operator that can be run; ``source`` is its module as published, manifests included."""

    program: Path
    source: Path


def build(peer: Peer) -> Built:
    """Build it unless that was done before (minutes); raises CalledProcessError."""
    source = _source(peer)
    program = CACHE / f"{peer.name}-{peer.version}"
    if not program.exists():
        print(f"building {peer.name} {peer.version}: minutes, once", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            # The module cache is read-only, and Go wants to write beside go.mod.
            copy, made = Path(folder) / "module", Path(folder) / "program"
            shutil.copytree(source, copy, copy_function=shutil.copyfile)
            for inside in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
                inside.chmod(0o755)
            command = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(made), peer.package]
            environ = {**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=mod"}
            subprocess.run(command, cwd=copy, env=environ, check=True)
            made.rename(program)
    return Built(program=program, source=source)


def _source(peer: Peer) -> Path:
    """The module's folder in Go's cache, downloaded if it is not there."""
    # Outside of any module, else Go reads the go.mod of wherever this is run.
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            ["go", "mod", "download", "-json", f"{peer.module}@{peer.version}"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
    return Path(json.loads(answer.stdout)["Dir"])


if __name__ == "__main__":
    for each in PEERS:
        print(build(each))
