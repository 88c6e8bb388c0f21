"""The programs of a real node: built like the control plane's, and kept apart from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sglang_operator.testing import binaries, errors, toolbuild

MODULES = Path(__file__).parents[1] / "nodetools"
TOOLS = (
    "containerd",
    "containerd-shim-runc-v2",
    "coredns",
    "ctr",
    "host-local",
    "kube-proxy",
    "kubelet",
    "loopback",
    "pause",
    "ptp",
    "runc",
)


def plan() -> toolbuild.Plan:
    """How they are built: what is made of the same sources as the control plane comes first."""
    version = binaries.kubernetes_version()
    return toolbuild.Plan(
        title=f"kubelet and kube-proxy {version}, containerd, runc, CNI plugins and CoreDNS",
        modules=[
            toolbuild.Module(folder=MODULES / "kubernetes"),
            toolbuild.Module(folder=MODULES / "coredns", package="."),
            toolbuild.Module(folder=MODULES / "containerd"),
            toolbuild.Module(folder=MODULES / "runc", tags="seccomp"),
            toolbuild.Module(folder=MODULES / "cni"),
            toolbuild.Module(folder=MODULES / "pause", package="."),
        ],
        tools=TOOLS,
        version=version,
    )


def locate(
    progress: binaries.Progress = binaries.to_stderr, *, environ: Mapping[str, str] | None = None
) -> Path:
    """Return a folder with every tool, after building them where needed; raises ToolsError."""
    found = binaries.built(plan(), "node-", progress, os.environ if environ is None else environ)
    if found is None:
        needed = toolbuild.go_needed(MODULES / "kubernetes" / "go.mod")
        raise errors.ToolsError(
            f"a real node's programs are missing; install Go {needed} or newer to have them built"
        )
    return found
