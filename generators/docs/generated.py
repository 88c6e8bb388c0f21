"""Every file that ``make docs`` writes, with its content."""

import json
from pathlib import Path

from generators import checkout
from generators.docs import errors, reference
from sglang_operator.cli import main as main_command
from sglang_operator.cli import structure

ERRORS = checkout.DOCS / "errors.md"
REFERENCE = checkout.DOCS / "reference"


def files() -> dict[Path, str]:
    """The content of every generated file, by its path."""
    definition = checkout.definition()
    return {
        checkout.PACKAGE / "cli" / structure.FILE.name: _structure(definition),
        ERRORS: errors.page(definition, checkout.PACKAGE),
        REFERENCE / "resource.md": reference.resource(definition),
        REFERENCE / "cli.md": reference.commands(main_command.cli),
        REFERENCE / "metrics.md": reference.metrics(),
    }


def _structure(definition: checkout.Schema) -> str:
    spec = structure.reduced(definition["properties"]["spec"])
    return json.dumps(spec, indent=1, ensure_ascii=False) + "\n"
