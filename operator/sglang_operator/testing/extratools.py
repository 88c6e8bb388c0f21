"""Programs that only some tests need: Helm 3, and other versions of Kubernetes.

Each stands in a Go module of its own in ``extras/`` and is built on first use, into the same cache
as the control plane's programs.
"""

from __future__ import annotations

import hashlib
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
    builds, key = binaries.cache_folder(environ) / "tools", module_key(module)
    names = programs(module)

    def is_complete(folder: Path) -> bool:
        return all((folder / program).is_file() for program in names)

    go = toolbuild.find_go(environ)
    if go is None:
        for folder in sorted(builds.glob(f"{name}-{key}-*")):
            if is_complete(folder):
                return folder
        raise errors.ToolsError(
            f"{', '.join(names)} of {module.name} must be built, and there is no `go` on PATH; "
            f"install Go {toolbuild.go_needed(module / 'go.mod')} or newer"
        )
    toolbuild.require_version(go, module / "go.mod", environ)
    compiler = hashlib.sha256(toolbuild.describe(go, environ).encode()).hexdigest()[:8]
    folder = builds / f"{name}-{key}-{compiler}"
    if not is_complete(folder):
        toolbuild.build(
            go,
            module=module,
            target=folder,
            version=kubernetes_version(module),
            environ=environ,
            is_complete=is_complete,
            progress=progress,
            what=f"{', '.join(names)} ({name})",
        )
    return folder


def programs(module: Path) -> list[str]:
    """The names of the programs that a module's go.mod asks for."""
    return [match["name"] for match in TOOL.finditer((module / "go.mod").read_text())]


def kubernetes_version(module: Path) -> str:
    """The Kubernetes version of a module, which its programs then report as their own."""
    match = binaries.KUBERNETES.search((module / "go.mod").read_text())
    return match["version"] if match else binaries.kubernetes_version()


def module_key(module: Path) -> str:
    """A digest of a module's files."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        content = (module / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
