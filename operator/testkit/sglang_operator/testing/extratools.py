"""Programs that only some tests need: Helm 3, other versions of Kubernetes, Prometheus' queries.

Each stands in a Go module of its own in ``extras/`` and is built on first use, into the same cache
as the control plane's programs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sglang_operator.testing import binaries, errors, toolbuild

MODULES = Path(__file__).parent / "extras"
KUBERNETES = "kubernetes-"  # begins the names of the modules of its versions
VERSION_VARIABLE = "SGLANG_OPERATOR_KUBERNETES"
TOOL = re.compile(r"^(?:tool)?\s+(?P<path>\S+/cmd/(?P<name>[a-z0-9-]+))$", re.MULTILINE)


def helm3(progress: binaries.Progress = binaries.to_stderr) -> Path:
    """The program Helm 3; raises ToolsError."""
    return locate("helm3", progress) / "helm"


def control_plane(
    progress: binaries.Progress = binaries.to_stderr,
    *,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """The folder with a control plane's programs, built where needed; raises ToolsError.

    $SGLANG_OPERATOR_KUBERNETES, such as ``1.34``, asks for another version of Kubernetes' own
    than that of ``binaries``; etcd, KWOK and Helm are the same for all.
    """
    environ = os.environ if environ is None else environ
    base, version = binaries.locate(progress, environ=environ), environ.get(VERSION_VARIABLE)
    if not version or version == binaries.minor(binaries.kubernetes_version()):
        return base
    own = locate(f"{KUBERNETES}{version}", progress, environ=environ)
    programs = {tool: base / tool for tool in binaries.TOOLS}
    return _linked(
        binaries.cache_folder(environ) / "tools" / f"linked-{own.name}-{base.name}",
        {**programs, **{path.name: path for path in own.iterdir()}},
    )


def no_real_nodes(environ: Mapping[str, str] | None = None) -> str | None:
    """Why nodes must be KWOK's at the version asked for; None if they may be real."""
    version = (os.environ if environ is None else environ).get(VERSION_VARIABLE)
    own = binaries.minor(binaries.kubernetes_version())
    if not version or version == own:
        return None
    # A kubelet may be older than its API server, never newer.
    return f"the kit's kubelet is of {own}: with ${VERSION_VARIABLE}={version} take KWOK's nodes"


def _linked(folder: Path, programs: Mapping[str, Path]) -> Path:
    """A folder of links to programs, made in one step: others may make the same."""
    if all((folder / name).exists() for name in programs):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # links to what is gone
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="linking-") as made:
        whole = Path(made) / "bin"
        whole.mkdir()
        for name, path in programs.items():
            (whole / name).symlink_to(path.resolve())
        with contextlib.suppress(OSError):  # another process was first
            whole.rename(folder)
    return folder


def promql(progress: binaries.Progress = binaries.to_stderr) -> Path:
    """The program that answers PromQL, see its main.go; raises ToolsError."""
    return locate("promql", progress) / "promql"


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
        modules=[toolbuild.Module(folder=module, package="." if _is_program(module) else "tool")],
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
    """The names of the programs that a module's go.mod asks for, or that of its own."""
    if _is_program(module):
        return [module.name]
    return [match["name"] for match in TOOL.finditer((module / "go.mod").read_text())]


def _is_program(module: Path) -> bool:
    return (module / "main.go").exists()


def kubernetes_version(module: Path) -> str:
    """The Kubernetes version of a module, which its programs then report as their own."""
    match = binaries.KUBERNETES.search((module / "go.mod").read_text())
    return match["version"] if match else binaries.kubernetes_version()
