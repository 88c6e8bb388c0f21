"""The chart as it was, and as it may come to be: what upgrades are tried with."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from generators.chart.generated import CHART
from generators.checkout import ROOT

# The first commit that had the chart.  Where the history does not reach back so far, as in a
# shallow clone, today's files take its place under the earlier version's number.
EARLIER = "5cca1e4"
EARLIER_VERSION = "0.0.1"
LATER_VERSION = "0.2.0"
ADDED_FIELD = "addedLater"


@dataclass(frozen=True)
class Release:
    """A chart, and the source root of the operator that goes with it."""

    chart: Path
    operator: Path


def earlier(folder: Path) -> Release:
    """Chart and operator of an earlier commit, in this folder."""
    target = folder / "earlier"
    target.mkdir(parents=True)
    chart, operator = CHART.relative_to(ROOT), Path("operator")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", EARLIER, str(chart), str(operator)],
        capture_output=True,
        check=False,
    )
    if archive.returncode == 0:
        subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)
    else:
        for part in (chart, operator):
            shutil.copytree(ROOT / part, target / part)
    return Release(_numbered(target / chart, EARLIER_VERSION), target / operator)


def later(folder: Path) -> Release:
    """Today's, with one more field in the resource definition, in this folder."""
    target = folder / "later" / CHART.name
    shutil.copytree(CHART, target)
    file = target / "files" / "crd.yaml"
    definition: Any = yaml.safe_load(file.read_text())
    spec = _spec_schema(definition)
    spec["properties"][ADDED_FIELD] = {"type": "string", "maxLength": 10}
    file.write_text(yaml.safe_dump(definition))
    return Release(_numbered(target, LATER_VERSION), ROOT / "operator")


def has_added_field(definition: Any) -> bool:
    """Whether a resource definition is the later one's."""
    return ADDED_FIELD in _spec_schema(definition)["properties"]


def _spec_schema(definition: Any) -> Any:
    (version,) = definition["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]["properties"]["spec"]


def _numbered(chart: Path, version: str) -> Path:
    file = chart / "Chart.yaml"
    facts = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**facts, "version": version, "appVersion": version}))
    return chart
