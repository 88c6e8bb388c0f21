"""Every file that ``make docs`` writes, with its content."""

import json
from collections.abc import Callable
from pathlib import Path

from generators import checkout
from generators.docs import errors, reference
from sglang_operator.cli import main as main_command
from sglang_operator.cli import structure

ERRORS = checkout.DOCS / "errors.md"
REFERENCE = checkout.DOCS / "reference"


def _structure(definition: checkout.Schema) -> str:
    spec = structure.reduced(definition["properties"]["spec"])
    return json.dumps(spec, indent=1, ensure_ascii=False) + "\n"


_MAKERS: dict[Path, Callable[[checkout.Schema], str]] = {
    checkout.PACKAGE / "cli" / structure.FILE.name: _structure,
    ERRORS: lambda definition: errors.page(definition, checkout.PACKAGE),
    REFERENCE / "resource.md": reference.resource,
    REFERENCE / "cli.md": lambda _: reference.commands(main_command.cli),
    REFERENCE / "metrics.md": lambda _: reference.metrics(),
}
PATHS = tuple(_MAKERS)


def files() -> dict[Path, str]:
    """The content of every generated file, by its path."""
    definition = checkout.definition()
    return {path: make(definition) for path, make in _MAKERS.items()}
