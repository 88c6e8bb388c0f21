"""Everything that is shipped to be applied, rendered as its user would."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from generators.chart.generated import CHART
from generators.checkout import MANIFESTS, ROOT
from sglang_operator.testing import binaries

NAMESPACE = "sglang-operator"
# Where the user names the namespace: `kubectl apply -k FOLDER -n NAMESPACE`.
WITHOUT_NAMESPACE = {MANIFESTS / "namespaced", MANIFESTS / "samples" / "trainer"}
# Parts of the two bases, in which they are rendered.
PARTS = (MANIFESTS / "components", MANIFESTS / "controller", MANIFESTS / "rbac")


def write_shipped(folder: Path) -> None:
    """Write what is shipped into files of this folder."""
    for name, text in (*_chart(), *_kustomizations(folder.parent), *_samples()):
        (folder / f"{name}.yaml").write_text(text)


def write_made(folder: Path) -> None:
    """Write the pods that the operator makes of the samples into files of this folder."""
    for path in sorted((ROOT / "tests" / "golden").glob("*.yaml")):
        pods = [found["pod"] for found in yaml.safe_load_all(path.read_text()) if "pod" in found]
        (folder / path.name).write_text(yaml.safe_dump_all(pods))


def _chart() -> Iterator[tuple[str, str]]:
    for values in sorted((CHART / "ci").glob("*.yaml")):
        arguments = ["template", "sglang-operator", str(CHART), f"--namespace={NAMESPACE}"]
        yield f"chart-{values.stem}", _said("helm", *arguments, f"--values={values}")


def _kustomizations(scratch: Path) -> Iterator[tuple[str, str]]:
    for found in sorted(MANIFESTS.rglob("kustomization.yaml")):
        folder = found.parent
        if any(folder.is_relative_to(part) for part in PARTS):
            continue
        name = "-".join(folder.relative_to(ROOT).parts)
        if folder in WITHOUT_NAMESPACE:
            folder = _with_namespace(folder, scratch / f"{name}-in-a-namespace")
        yield name, _said("kubectl", "kustomize", str(folder))


def _with_namespace(base: Path, folder: Path) -> Path:
    folder.mkdir()
    path = os.path.relpath(base, folder.resolve())
    (folder / "kustomization.yaml").write_text(f"namespace: rl\nresources: [{path}]\n")
    return folder


def _samples() -> Iterator[tuple[str, str]]:
    for path in sorted((MANIFESTS / "samples").glob("*.yaml")):
        yield f"sample-{path.stem}", path.read_text()


def _said(program: str, *arguments: str) -> str:
    command = [str(binaries.locate() / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
