"""Each generator is one target of make, and make names each by what stands there."""

import re

from generators import checkout

MAKEFILE = (checkout.ROOT / "Makefile").read_text()
NAMED = set(re.findall(r"python -m (generators\.[a-z_]+)", MAKEFILE))


def test_make_runs_every_generator():
    folder = checkout.ROOT / "generators"
    packages = {f"generators.{path.parent.name}" for path in folder.glob("*/__main__.py")}
    modules = {
        f"generators.{path.stem}" for path in folder.glob("*.py") if "def main(" in path.read_text()
    }
    assert packages | modules == NAMED


def test_what_is_shipped_imports_no_generator_and_no_test():
    imported = re.compile(r"^\s*(from|import) (generators|tests)\b", re.MULTILINE)
    paths = checkout.PACKAGE.rglob("*.py")
    assert not [path for path in paths if imported.search(path.read_text())]
