"""Where things are in a checkout, and the resource definition that stands there."""

from pathlib import Path
from typing import Any

import yaml

from sglang_operator.api import names

Schema = dict[str, Any]

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "operator" / "sglang_operator"
DOCS = ROOT / "operator" / "docs"
MANIFESTS = ROOT / "manifests"
DEFINITION = MANIFESTS / "crd" / f"{names.PLURAL}.yaml"


def definition() -> Schema:
    """The schema of ``spec`` and ``status`` in the custom resource definition."""
    loaded = yaml.safe_load(DEFINITION.read_text())
    schema = loaded["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert isinstance(schema, dict)
    return schema
