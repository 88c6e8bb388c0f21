"""Programs that only some tests need: Helm 3, and other versions of Kubernetes.

Each stands in a Go module of its own in ``extras/`` and is built on first use, into the same cache
as the control plane's programs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sglang_operator.testing import binaries, errors, toolbuild

MODULES = Path(__file__).parent / "extras"
TOOL = re.compile(r"^(?:tool)?\s+(?P<path>\S+/cmd/(?P<name>[a-z0-9-]+))$", re.MULTILINE)


def helm3(progress: binaries.Progress = binaries.to_stderr) -> Path:
    """The program Helm 3; raises ToolsError."""
    return locate("helm3", progress) / "helm"


def locate(
    name: str,
    progress: binaries.Progress = binaries.to_stderr,
    *,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The folder with the programs of the module ``extras/<name>``, built where needed.

    Raises ToolsError, also when there is no Go to build with, and for an unknown name.
    """
    environ = os.environ if environ is None else environ
    module = MODULES / name
    if not (module / "go.mod").is_file():
        known = ", ".join(sorted(path.parent.name for path in MODULES.glob("*/go.mod")))
        raise errors.ToolsError(f"there is no module {name!r} of more tools; known are {known}")
    names = programs(module)
    plan = toolbuild.Plan(
        title=f"{', '.join(names)} ({name})",
        modules=[toolbuild.Module(folder=module)],
        tools=names,
        version=kubernetes_version(module),
    )
    folder = binaries.built(plan, f"{name}-", progress, environ)
    if folder is None:
        raise errors.ToolsError(
            f"{', '.join(names)} of {module.name} must be built, and there is no `go` on PATH; "
            f"install Go {toolbuild.go_needed(module / 'go.mod')} or newer"
        )
    return folder


def programs(module: Path) -> list[str]:
    """The names of the programs that a module's go.mod asks for."""
    return [match["name"] for match in TOOL.finditer((module / "go.mod").read_text())]


def kubernetes_version(module: Path) -> str:
    """The Kubernetes version of a module, which its programs then report as their own."""
    match = binaries.KUBERNETES.search((module / "go.mod").read_text())
    return match["version"] if match else binaries.kubernetes_version()
