"""What is fuzzed, and what must hold whatever the bytes are: it ends, it says something a user can
read, and none of what the bytes say is run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from omegaconf import OmegaConf

from sglang_operator.api import errors
from sglang_operator.children import engine_pod
from sglang_operator.cli import check_files
from sglang_operator.cli.main import cli
from sglang_operator.cli.pipeline import objects
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from sglang_operator.roll import device_mapping
from tests.builders import OWNER, guide_spec

Target = Callable[[bytes, Path], None]

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "tests" / "data" / "roll-examples").glob("*.yaml"))
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
# Texts that mean something to one of the grammars.
PIECES = (
    "list(range(",
    "list([",
    "range(0,8)",
    "${",
    "${actor_infer}",
    "${oc.env:HOME}",
    "${oc.decode:'[1]'}",
    "!!python/object/apply:os.system [exit]",
    "__import__('os').abort()",
    "0x10",
    "10**9",
    "1e999",
    "strategy_name: sglang",
    "device_mapping: ",
    "num_gpus_per_worker: ",
    "<<: *a",
    "&a ",
    "---\n",
    "\t",
    "\x00",
)


def parser(data: bytes, folder: Path) -> None:
    """``device_mapping`` against Python's own reading of it, or a whole spec, as JSON."""
    text = data.decode("utf-8", "replace")
    _mapping(text)
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(spec, dict):
        _spec({**guide_spec(), **spec})


def _mapping(text: str) -> None:
    try:
        found = device_mapping.parse(text)
    except errors.InvalidError as error:
        assert error.problem.message.isprintable()
        return
    # What is taken is made of numbers, lists, ranges and sums, so that here it may be evaluated,
    # as ROLL does; under the name of this file, which `watch` lets run.
    code = compile(text.strip(), __file__, "eval")
    assert list(found) == eval(code, {"__builtins__": {"list": list, "range": range}})


def _spec(spec: dict[str, Any]) -> None:
    resolved = resolve_pool(OWNER, spec)
    if isinstance(resolved, Refused):
        assert resolved.errors
        return
    assert isinstance(resolved, Pool)
    json.dumps(engine_pod.template(resolved))


def converter(data: bytes, folder: Path) -> None:
    """A file through ``lint`` and ``convert``; what is written is good."""
    path = folder / "file.yaml"
    path.write_bytes(data)
    for given in (False, True):
        options = objects.Options(environment=given, disjoint=given)
        judged = check_files.lint([str(path)], None, options)
        for finding in judged.findings:
            assert finding.line().isprintable(), finding
            assert finding.mark.line >= 1
        assert all(note.isprintable() for note in judged.notes), judged.notes
    code, written = _run("convert", path)
    if code == 0:
        again = folder / "again.yaml"
        again.write_text(written)
        code, said = _run("lint", again)
        assert code == 0, said


def _run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2)
    return result.exit_code, result.stdout


TARGETS: dict[str, Target] = {"parser": parser, "converter": converter}


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with."""
    if target == "converter":
        return [path.read_bytes() for path in (*EXAMPLES, *SAMPLES)]
    mappings = ("list(range(0,24))", "[0, 1]", "list([4,5,12,13])", "list(range(0,4))+[8, 9]")
    return [*(text.encode() for text in mappings), json.dumps(guide_spec()).encode()]


# --- nothing is run

_NEVER = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
        "os.spawn",
        "os.startfile",
        "os.system",
        "shutil.rmtree",
        "socket.connect",
        "subprocess.Popen",
    }
)


class Executed(BaseException):
    """Something in an input was run; no handler of ``Exception`` catches it."""


def watch(folder: Path) -> None:
    """From now on this process starts nothing, and runs no code but that of modules."""
    # Imported late by the converter, with a parser that is made when it is first used.
    assert OmegaConf.create({"a": "${oc.decode:'[1]'}"}).a == [1]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NEVER:
            raise Executed(f"{event} {arguments!r}")
        if event == "exec" and not Path(getattr(arguments[0], "co_filename", "")).is_file():
            raise Executed(f"exec {arguments!r}")

    sys.addaudithook(hook)
