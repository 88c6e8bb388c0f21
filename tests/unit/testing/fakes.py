"""Programs that stand in for Go and for the control plane's tools."""

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

# What the fake Go builds, under the names that the real one gives.
BUILT = (
    "server",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kwok",
    "helm",
)


def program(path: Path, body: str) -> Path:
    """Write a program in Python that starts quickly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -IS\n{textwrap.dedent(body)}")
    path.chmod(0o755)
    return path


def tools(folder: Path, version: str, *, without: str = "") -> Path:
    """Write a set of tools that answer --version."""
    for name in BUILT:
        name = "etcd" if name == "server" else name
        if name != without:
            program(folder / name, f"print('Kubernetes v{version}')")
    return folder


def go(
    folder: Path,
    *,
    version: str = "go1.26.9",
    fail: str = "",
    gate: Path | None = None,
    built: Sequence[str] = BUILT,
) -> Path:
    """Write a ``go`` that notes each build in ``builds`` beside it.

    With ``gate``, a FIFO, a build waits until somebody has opened it for writing.
    """
    program(
        folder / "go",
        f"""
        import os, sys, time
        if sys.argv[1] == "version":
            print("go version {version} linux/amd64")
            sys.exit()
        with open({str(folder / "builds")!r}, "a") as builds:
            builds.write(" ".join(sys.argv[1:]) + "\\n")
        print("k8s.io/some/package", file=sys.stderr, flush=True)
        if {str(gate or "")!r}:
            open({str(gate or "")!r}).read()
        if {fail!r}:
            print({fail!r}, file=sys.stderr)
            sys.exit(3)
        output = sys.argv[sys.argv.index("-o") + 1]
        for name in {built!r}:
            open(os.path.join(output, name), "w").close()
        """,
    )
    return folder


def builds(folder: Path) -> list[str]:
    """The builds that the fake Go in a folder has been asked for."""
    noted = folder / "builds"
    return noted.read_text().splitlines() if noted.exists() else []


def environ(path: Path | None = None, **more: str) -> dict[str, str]:
    """An environment in which nothing but the given folder is on PATH."""
    return {"PATH": str(path or os.devnull), "LC_ALL": "C", **more}
