"""``python -m generators.schema [VERSION...]``: write these schemas, or those of all known.

The wheel is downloaded once into the user's cache, its own parser is asked, and the index and
the history are made anew.  The same wheel gives the same text.
"""

import argparse
import importlib
import sys
from pathlib import Path

from generators.schema import describe, sglang, source, wheels
from sglang_operator.engine import schemas, versions

FOLDER = Path(schemas.__file__).parent


def main(argv: list[str]) -> int:
    """Write the files; 0, or 1 with a reason."""
    parser = argparse.ArgumentParser(prog="python -m generators.schema", description=__doc__)
    parser.add_argument("version", nargs="*", help="such as 0.5.24; none: all that are known")
    wanted = parser.parse_args(argv).version or known()
    try:
        for version in wanted:
            path = write(version)
            print(f"{path.name}: {path.stat().st_size} bytes")
    except wheels.UnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    write_index()
    return 0


def known() -> list[str]:
    """The versions whose schemas lie in the folder, in the order of their releases."""
    names = [path.stem[1:].replace("_", ".") for path in FOLDER.glob("v[0-9]*.py")]
    return sorted(names, key=versions.parse)


def write(version: str) -> Path:
    """Make the schema of one version anew."""
    path = FOLDER / f"{source.module_name(version)}.py"
    path.write_text(text(version))
    return path


def text(version: str) -> str:
    """The schema of one version as its file has it."""
    return source.schema_module(describe.describe(sglang.opened(version)))


def write_index() -> None:
    """Make the index and the history anew from the schemas that are there."""
    found = known()
    for name, content in index_texts(found).items():
        (FOLDER / name).write_text(content)


def index_texts(found: list[str]) -> dict[str, str]:
    """The files about all versions together."""
    loaded = [
        importlib.import_module(f"{schemas.__name__}.{source.module_name(version)}").SCHEMA
        for version in found
    ]
    return {
        "index.py": source.index_module(found),
        "history.py": source.history_module(loaded),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
