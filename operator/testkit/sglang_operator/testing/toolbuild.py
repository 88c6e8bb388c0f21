"""Builds the kit's programs from its Go modules, once and for all to see.

The build goes to a temporary folder that takes its final name only when it is whole, under a lock
that lets one process build while the others wait for its result.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sglang_operator.testing import errors

REPORT_SECONDS = 15.0
TAIL_LINES = 30
HELM_PACKAGES = ("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules")
GO_DIRECTIVE = re.compile(r"^go (?P<version>\d+\.\d+)", re.MULTILINE)
GO_VERSION = re.compile(r"go(?P<version>\d+\.\d+)")
RENAMED = {"server": "etcd"}  # a Go program is named after its folder

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Module:
    """One Go module of the kit: what it builds and how."""

    folder: Path
    package: str = "tool"  # every tool that its go.mod names
    tags: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Programs that are built, kept and used together."""

    title: str  # what progress calls them
    modules: Sequence[Module]
    tools: Sequence[str]
    version: str  # Kubernetes', which its programs are told

    def is_complete(self, folder: Path) -> bool:
        """Tell whether a folder holds every tool."""
        return all((folder / tool).is_file() for tool in self.tools)


def find_go(environ: Mapping[str, str]) -> str | None:
    """The path of the ``go`` program, or None."""
    return shutil.which("go", path=environ.get("PATH"))


def go_needed(go_mod: Path) -> str:
    """The least Go version the module can be built with, such as ``1.26``."""
    match = GO_DIRECTIVE.search(go_mod.read_text())
    if match is None:
        raise errors.ToolsError(f"{go_mod} has no go directive")
    return match["version"]


def describe(go: str, environ: Mapping[str, str]) -> str:
    """What ``go version`` answers; raises ToolsError."""
    # GOTOOLCHAIN=local: the kit never makes Go download another Go.
    try:
        result = subprocess.run(
            [go, "version"],
            env={**environ, "GOTOOLCHAIN": "local"},
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", "") or ""
        raise errors.ToolsError(f"{go} version: {error} {output}".strip()) from error
    return result.stdout.strip()


def require_version(go: str, go_mod: Path, environ: Mapping[str, str]) -> None:
    """Raise ToolsError, naming both versions, when Go is too old for the module."""
    needed, answer = go_needed(go_mod), describe(go, environ)
    match = GO_VERSION.search(answer)
    if match is None:
        return  # a development version; let it try
    if _numbers(match["version"]) < _numbers(needed):
        raise errors.ToolsError(
            f"Go {needed} or newer is needed to build the control plane; {go} is {answer!r}"
        )


def build(
    go: str, plan: Plan, *, target: Path, environ: Mapping[str, str], progress: Progress
) -> None:
    """Build every tool into ``target`` unless another process has; raises ToolsError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_name(target.name + ".lock"), progress):
        if plan.is_complete(target):
            return
        prefix = f"building-{target.name}-"
        for left in target.parent.glob(f"{prefix}*"):  # by a builder that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
            made = Path(folder) / "bin"
            made.mkdir()
            _build_in(Path(folder), made, go, plan, environ, progress)
            if not plan.is_complete(made):
                names = ", ".join(sorted(path.name for path in made.iterdir())) or "nothing"
                raise errors.ToolsError(f"`go build` succeeded but made only {names}")
            shutil.rmtree(target, ignore_errors=True)  # what an interrupted disk left of it
            made.rename(target)


def command(go: str, output: Path, version: str, module: Module) -> list[str]:
    """The ``go build`` command; -v makes it name the packages as they are compiled."""
    return [go, "build", "-v", *flags(version, module), "-o", f"{output}/", module.package]


def flags(version: str, module: Module) -> list[str]:
    """What of the command makes a difference to the programs; versions as they shall report."""
    major, minor, _ = version.split(".")
    base, client = "k8s.io/component-base/version", "k8s.io/client-go/pkg/version"
    values = [
        f"{base}.gitVersion=v{version}",
        f"{base}.gitMajor={major}",
        f"{base}.gitMinor={minor}",
        f"{client}.gitVersion=v{version}",
    ]
    # Helm 3 takes a cluster that it does not ask for one of Kubernetes 1.20.
    for package in HELM_PACKAGES:
        values += [f"{package}.k8sVersionMajor={major}", f"{package}.k8sVersionMinor={minor}"]
    told = " ".join(["-s", "-w", *(f"-X {value}" for value in values)])
    return ["-mod=readonly", "-trimpath", f"-tags={module.tags}", "-ldflags", told]


def _build_in(
    folder: Path,
    output: Path,
    go: str,
    plan: Plan,
    environ: Mapping[str, str],
    progress: Progress,
) -> None:
    progress(
        f"building {plan.title} with {describe(go, environ)}; "
        "this happens once and takes some minutes"
    )
    started = time.monotonic()
    for module in plan.modules:
        # The package may be installed where nobody may write, and Go wants to.
        source = folder / module.folder.name
        source.mkdir()
        for file in sources(module.folder):
            shutil.copyfile(file, source / file.name)
        _run(
            command(go, output, plan.version, module),
            source,
            environ,
            progress,
        )
    for name, renamed in RENAMED.items():
        if (output / name).exists():
            (output / name).rename(output / renamed)
    progress(f"built in {time.monotonic() - started:.0f} s")


def sources(module: Path) -> list[Path]:
    """The files of a module, which are all that its build depends on."""
    files = [module / name for name in ("go.mod", "go.sum") if (module / name).exists()]
    return files + sorted(module.glob("*.go"))


def _run(argv: Sequence[str], source: Path, environ: Mapping[str, str], progress: Progress) -> None:
    process = subprocess.Popen(
        argv,
        cwd=source,
        env={**environ, "GOTOOLCHAIN": "local", "GOWORK": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    with _killed_on_error(process), process.stdout as lines:
        tail, seconds = _watch(process, lines, progress)
    if process.returncode != 0:
        raise errors.ToolsError(
            f"`go build` ended with exit code {process.returncode} after {seconds:.0f} s; "
            "the end of what it said:\n" + "\n".join(f"  {line}" for line in tail)
        )


def _watch(
    process: subprocess.Popen[str], lines: IO[str], progress: Progress
) -> tuple[list[str], float]:
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    count = 0
    started = time.monotonic()

    def read() -> None:
        nonlocal count
        for line in lines:
            tail.append(line.rstrip())
            count += 1

    reader = threading.Thread(target=read, name="go-build", daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(REPORT_SECONDS)
        if reader.is_alive():
            now = tail[-1] if tail else "reading packages, or linking those in Go's cache"
            progress(f"building for {time.monotonic() - started:.0f} s, step {count}: {now}")
    process.wait()
    return list(tail), time.monotonic() - started


@contextlib.contextmanager
def _killed_on_error(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise


@contextlib.contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock file, and say so when that means to wait for another process."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "?"
            progress(f"waiting for process {holder}, which builds the same")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
