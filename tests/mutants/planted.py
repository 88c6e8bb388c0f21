"""A mutant made real: a copy of the package with the defect in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutants.catalogue import Mutant

SOURCE = Path(__file__).parents[2] / "operator"
PACKAGE = "sglang_operator"


class DriftError(Exception):
    """The source has changed so that a mutant is no longer what it was: write it anew."""


def planted(mutant: Mutant) -> dict[Path, str]:
    """The changed files, below the source root, with their text; raises DriftError."""
    changed: dict[Path, str] = {}
    for edit in mutant.edits:
        path = Path(PACKAGE) / edit.path
        text = changed.get(path) or (SOURCE / path).read_text()
        found = text.count(edit.before)
        if found != 1:
            raise DriftError(
                f"{mutant.name}: what it replaces stands {found} times in {path}, not once:\n"
                f"{edit.before}"
            )
        changed[path] = text.replace(edit.before, edit.after)
    for path, text in changed.items():
        try:
            compile(text, str(path), "exec")
        except SyntaxError as error:
            raise DriftError(f"{mutant.name}: {path} is no Python any more: {error}") from error
    return changed


@contextmanager
def source_root(mutant: Mutant) -> Iterator[Path]:
    """A source root with the defect; raises DriftError."""
    with TemporaryDirectory(prefix=f"mutant-{mutant.name}-") as folder:
        root = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / PACKAGE, root / PACKAGE, ignore=ignored)
        for path, text in planted(mutant).items():
            (root / path).write_text(text)
        yield root
