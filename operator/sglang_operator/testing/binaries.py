"""Where the control plane's programs come from.

``locate`` takes the first of these that holds the whole set, never some tools from one place and
some from another: the folder $KUBEBUILDER_ASSETS, the folder of the ``kube-apiserver`` on PATH
(both only at the Kubernetes version that the kit is made for), and the kit's own build, made once
from the Go module beside this file and kept in the user's cache.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from sglang_operator.testing import errors, toolbuild

MODULE = Path(__file__).parent / "tools"
TOOLS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kwok",
    "helm",
)
VERSIONED = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
KUBERNETES = re.compile(r"k8s\.io/kubernetes v(?P<version>\d+\.\d+\.\d+)")
VERSION_SECONDS = 20.0

Progress = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Show one line of progress on standard error at once."""
    print(f"sglang-operator test kit: {line}", file=sys.stderr, flush=True)


def locate(progress: Progress = to_stderr, *, environ: Mapping[str, str] | None = None) -> Path:
    """Return a folder with every tool, after building them where that is needed.

    A first build takes minutes and says so by ``progress``.  Raises ToolsError.
    """
    environ = os.environ if environ is None else environ
    version = kubernetes_version()
    for source, folder in _candidates(environ):
        reason = reject(folder, version)
        if reason is None:
            return folder
        progress(f"not using {source} ({folder}): {reason}")
    return _own_build(progress, environ, version)


def kubernetes_version() -> str:
    """The Kubernetes version the kit is made for, such as ``1.37.2``, as go.mod has it."""
    match = KUBERNETES.search((MODULE / "go.mod").read_text())
    if match is None:
        raise errors.ToolsError(f"{MODULE / 'go.mod'} names no version of k8s.io/kubernetes")
    return match["version"]


def reject(folder: Path, version: str) -> str | None:
    """Say why a folder's tools cannot be used, or None when they can."""
    missing = [tool for tool in TOOLS if not os.access(folder / tool, os.X_OK)]
    if missing:
        return f"{', '.join(missing)} missing"
    wanted = minor(version)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda tool: version_of(folder / tool), VERSIONED))
    for tool, answer in zip(VERSIONED, found, strict=True):
        if re.search(rf"\bv{re.escape(wanted)}\.", answer) is None:
            return f"{tool} is {answer!r}, {wanted} is needed"
    return None


def version_of(program: Path) -> str:
    """What a program answers to --version, or why it does not."""
    try:
        result = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (result.stdout or result.stderr).strip()[:200]


def minor(version: str) -> str:
    """``1.37`` of ``1.37.2``."""
    return ".".join(version.split(".")[:2])


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The kit's part of the user's cache."""
    if own := environ.get("SGLANG_OPERATOR_CACHE"):
        return Path(own)
    if xdg := environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "sglang-operator"
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    return home / ".cache" / "sglang-operator"


def module_key() -> str:
    """A digest of the Go module's files: what is built, without the compiler."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        content = (MODULE / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def build_key(go_version: str) -> str:
    """The name of a build's folder; it begins with the module's key."""
    return f"{module_key()}-{hashlib.sha256(go_version.encode()).hexdigest()[:8]}"


def _candidates(environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    found = []
    if assets := environ.get("KUBEBUILDER_ASSETS"):
        found.append(("$KUBEBUILDER_ASSETS", Path(assets)))
    if server := shutil.which("kube-apiserver", path=environ.get("PATH")):
        found.append(("the tools on PATH", Path(server).parent))
    return found


def _own_build(progress: Progress, environ: Mapping[str, str], version: str) -> Path:
    builds = cache_folder(environ) / "tools"
    go = toolbuild.find_go(environ)
    if go is None:
        # A build of the same module by whichever compiler does as well.
        for folder in sorted(builds.glob(f"{module_key()}-*")):
            if is_complete(folder):
                return folder
        raise errors.ToolsError(_nothing_found(version))
    toolbuild.require_version(go, MODULE / "go.mod", environ)
    folder = builds / build_key(toolbuild.describe(go, environ))
    if is_complete(folder):
        return folder
    toolbuild.build(
        go,
        module=MODULE,
        target=folder,
        version=version,
        environ=environ,
        is_complete=is_complete,
        progress=progress,
    )
    return folder


def is_complete(folder: Path) -> bool:
    """Tell whether a folder of the cache holds every tool."""
    return all((folder / tool).is_file() for tool in TOOLS)


def _nothing_found(version: str) -> str:
    needed = toolbuild.go_needed(MODULE / "go.mod")
    return (
        "the control plane's programs are missing and there is no `go` on PATH to build them. "
        f"Either install Go {needed} or newer, or set KUBEBUILDER_ASSETS to a folder that holds "
        f"{', '.join(TOOLS)}, the kube-* ones of version {minor(version)}."
    )
