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
    for source, candidate in _candidates(environ):
        reason = reject(candidate, version)
        if reason is None:
            return candidate
        progress(f"not using {source} ({candidate}): {reason}")
    folder = built(plan(), "", progress, environ)
    if folder is None:
        raise errors.ToolsError(_nothing_found(version))
    return folder


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


def source_key(plan: toolbuild.Plan) -> str:
    """A digest of a plan's modules and their flags: what is built, without the compiler."""
    digest = hashlib.sha256()
    for module in plan.modules:
        for file in toolbuild.sources(module.folder):
            content = file.read_bytes()
            digest.update(f"{file.name} {len(content)}\n".encode() + content)
        digest.update("\n".join(toolbuild.flags(plan.version, module)).encode())
    return digest.hexdigest()[:16]


def build_key(plan: toolbuild.Plan, go_version: str) -> str:
    """The name of a build's folder; it begins with the sources' key."""
    return f"{source_key(plan)}-{hashlib.sha256(go_version.encode()).hexdigest()[:8]}"


def _candidates(environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    found = []
    if assets := environ.get("KUBEBUILDER_ASSETS"):
        found.append(("$KUBEBUILDER_ASSETS", Path(assets)))
    if server := shutil.which("kube-apiserver", path=environ.get("PATH")):
        found.append(("the tools on PATH", Path(server).parent))
    return found


def plan() -> toolbuild.Plan:
    """How the control plane's programs are built."""
    version = kubernetes_version()
    return toolbuild.Plan(
        title=f"Kubernetes {version}, etcd, KWOK and Helm",
        modules=[toolbuild.Module(folder=MODULE)],
        tools=TOOLS,
        version=version,
    )


def built(
    plan: toolbuild.Plan, prefix: str, progress: Progress, environ: Mapping[str, str]
) -> Path | None:
    """The folder of the cache with a plan's programs, built first where needed.

    ``prefix`` of its name tells it from that of another plan.  None when they are not there and
    there is no Go to build them; raises ToolsError.
    """
    builds = cache_folder(environ) / "tools"
    go = toolbuild.find_go(environ)
    if go is None:
        # A build of the same modules by whichever compiler does as well.
        known = sorted(builds.glob(f"{prefix}{source_key(plan)}-*"))
        return next((folder for folder in known if plan.is_complete(folder)), None)
    for module in plan.modules:
        toolbuild.require_version(go, module.folder / "go.mod", environ)
    folder = builds / (prefix + build_key(plan, toolbuild.describe(go, environ)))
    if not plan.is_complete(folder):
        toolbuild.build(go, plan, target=folder, environ=environ, progress=progress)
    return folder


def _nothing_found(version: str) -> str:
    needed = toolbuild.go_needed(MODULE / "go.mod")
    return (
        "the control plane's programs are missing and there is no `go` on PATH to build them. "
        f"Either install Go {needed} or newer, or set KUBEBUILDER_ASSETS to a folder that holds "
        f"{', '.join(TOOLS)}, the kube-* ones of version {minor(version)}."
    )
