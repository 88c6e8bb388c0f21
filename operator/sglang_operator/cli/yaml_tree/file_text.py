"""Files to text, with a bound on their size, and in words why not."""

from pathlib import Path
from typing import Any

from sglang_operator.api import errors
from sglang_operator.cli import file_errors
from sglang_operator.cli.findings import stop
from sglang_operator.cli.yaml_tree.nodes import Mark

STDIN = "-"
MAX_BYTES = 1 << 20
_LOOKED_AT = 4096  # bytes, for those that no text has


def read(name: str, stdin: Any = None) -> str:
    """The text of a file, or of standard input.

    Raises :class:`findings.StopError` if it cannot be read.
    """
    start = Mark(name, 1, 1)
    try:
        if name == STDIN:
            data = stdin.read(MAX_BYTES + 1)
        elif not Path(name).is_file():
            raise stop(start, _no_file(Path(name)))
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or "it has no valid name"
        advice = "correct its name, or who may read it"
        raise stop(start, file_errors.FILE_UNREADABLE("", detail=detail, advice=advice)) from error
    if data.startswith((*_BEGINNINGS, *_UTF_16)) or b"\0" in data[:_LOOKED_AT]:
        raise stop(start, _no_text(data))
    if len(data) > MAX_BYTES:
        found = "the file is too large"
        raise stop(start, file_errors.TOO_LARGE("", found=found, limit=f"{MAX_BYTES} bytes"))
    try:
        return str(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise stop(Mark(name, line, 1), _no_text(data)) from error


# How files begin that are no text.
_BEGINNINGS = {
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x7fELF": "a program",
    b"\x89PNG": "a picture",
    b"%PDF": "a PDF",
    b"\x80\x02": "pickled by Python",
    b"\x80\x04": "pickled by Python",
}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def _no_file(path: Path) -> errors.Problem:
    if path.is_dir():
        return file_errors.FILE_UNREADABLE("", detail="it is a folder", advice="give a file in it")
    detail = "it is no ordinary file" if path.exists() else "there is no such file"
    return file_errors.FILE_UNREADABLE(
        "", detail=detail, advice="correct its name, or give - for stdin"
    )


def _no_text(data: bytes) -> errors.Problem:
    """Why bytes are no text that YAML could be in."""
    if data.startswith(_UTF_16):
        return file_errors.FILE_UNREADABLE("", detail="it is UTF-16", advice="save it as UTF-8")
    kind = next((words for start, words in _BEGINNINGS.items() if data.startswith(start)), None)
    if kind is None and b"\0" not in data:
        return file_errors.FILE_UNREADABLE("", detail="it is not UTF-8", advice="save it as UTF-8")
    detail = f"it is {kind or 'binary'}"
    return file_errors.FILE_UNREADABLE("", detail=detail, advice="give the YAML file itself")
