"""``python -m tests.fuzz parser|converter [--seconds N]``: atheris, guided by coverage.

Ends with libFuzzer's own report, the number of executions in it; with an error and the input in
the present folder at the first crash, hang (10 s), 2 GiB of memory, or execution of an input.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sglang_operator", "yaml", "omegaconf"]):
    from tests.fuzz import targets

_HANG_SECONDS = 10
_MEMORY_MIB = 2048


def main(argv: list[str]) -> None:
    """Fuzz; does not return, because libFuzzer does not."""
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    arguments.add_argument("target", choices=targets.TARGETS)
    arguments.add_argument("--seconds", type=int, default=600)
    given = arguments.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus, dictionary = folder / "corpus", folder / "dictionary"
    corpus.mkdir()
    for number, seed in enumerate(targets.seeds(given.target)):
        (corpus / str(number)).write_bytes(seed)
    dictionary.write_text("".join(f'"{_escaped(piece)}"\n' for piece in targets.PIECES))
    target = targets.TARGETS[given.target]
    for seed in targets.seeds(given.target):
        target(seed, folder)  # so that all modules are imported before nothing may be run
    targets.watch(folder)
    options = [
        f"-max_total_time={given.seconds}",
        f"-timeout={_HANG_SECONDS}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-dict={dictionary}",
        "-max_len=16384",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], lambda data: target(data, folder))
    atheris.Fuzz()


def _escaped(piece: str) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in piece.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
