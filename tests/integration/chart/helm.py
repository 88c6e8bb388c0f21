"""Helm as a test runs it: with a home of its own, and what it renders as objects."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from generators.chart.generated import CHART
from sglang_operator.testing import binaries, extratools
from tests import structural

SECONDS = 120
RELEASE = "sglang-operator"
NAMESPACE = "sglang-operator"
# The one value that must be given; as kustomize has it, and the image that tests load.
REPOSITORY = "sglang-operator"
IMAGE = f"--set=image.repository={REPOSITORY}"

Json = dict[str, Any]


class HelmError(Exception):
    """Helm's own words."""


class Helm:
    """One Helm program.  ``environ`` is more environment, such as a KUBECONFIG."""

    def __init__(self, program: Path, home: Path, environ: dict[str, str] | None = None) -> None:
        self._program = program
        self._environ = {
            **os.environ,
            **(environ or {}),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
        }
        self._rendered: dict[tuple[str, tuple[str, ...]], str] = {}

    def __call__(self, *arguments: str, values: Any = None) -> str:
        """What Helm writes; raises HelmError.  ``values`` is what a values file would hold."""
        more = ["--values=-"] if values is not None else []
        result = subprocess.run(
            [str(self._program), *arguments, *more],
            input=None if values is None else json.dumps(values),
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if result.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments)}: {result.stderr or result.stdout}")
        return result.stdout

    def objects(self, values: Any = None, *arguments: str) -> list[Json]:
        """The objects of a release by the usual name; what was asked for before is not rendered.

        The image is given too, unless a file of values among the arguments says everything.
        """
        given = values if values is not None else {}
        if not any(argument.startswith("--values=") for argument in arguments):
            given = {**given, "image": {"repository": REPOSITORY, **given.get("image", {})}}
        key = (json.dumps(given, sort_keys=True), arguments)
        if key not in self._rendered:
            place = (RELEASE, str(CHART), f"--namespace={NAMESPACE}")
            self._rendered[key] = self("template", *place, *arguments, values=given)
        return [
            found for found in yaml.load_all(self._rendered[key], Loader=structural.LOADER) if found
        ]


def programs() -> dict[str, Path]:
    """Helm 4 and Helm 3, by name."""
    return {"helm4": binaries.locate() / "helm", "helm3": extratools.helm3()}


def named(objects: list[Json], kind: str, name: str = RELEASE) -> Json:
    """The one object of this kind and name."""
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def kinds(objects: list[Json]) -> set[str]:
    """The kinds that occur."""
    return {found["kind"] for found in objects}
