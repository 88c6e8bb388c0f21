"""``python -m generators.real_engine [REPORT …]``: the page of what ran on a real GPU.

A REPORT is what ``make demo ARGS='--gpu --report FILE'`` wrote, or ``make gpu`` to
SGLANG_GPU_REPORT.  Each is kept in the tree, of the tests one for each version of SGLang, and the
page is made of those that are kept; without a REPORT it is made anew.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generators import checkout

FOLDER = checkout.ROOT / "tests" / "data" / "real-engine"
DATA = FOLDER / "demo.json"
SUITE = FOLDER / "suite.json"
PAGE = (checkout.DOCS / "reference" / "real-engine").with_suffix(
    ".md"
)  # there from the first report on
GIB = 1 << 30
SKIPPED = "skipped"
# What the demo does not do, to be told beside what it does.
NO_GROUP = "a trainer with a GPU of its own, that broadcasts by NCCL (the demo's `--nccl`)"
# What tests do beyond it: the beginning of a test's name, and what is not run without it.
BY_TESTS = (
    (
        "test_weights.py::test_a_sync_under_each_pause_leaves_whole_weights[abort-tensor]",
        "updates from tensors by CUDA IPC, with a trainer on the engines' own GPUs",
    ),
    ("test_pairs.py::test_an_engine_of_two_gpus", "engines of more than one GPU"),
    (
        "test_groups.py::test_weights_from_disk",
        "engines across nodes under the operator (bare: `tests/data/real-engine/README.md`)",
    ),
    ("test_roll.py::test_rolls_updates_by_nccl", "ROLL's calls of the strategy, by NCCL"),
    (
        "test_shared.py::test_engine_and_trainer_take_turns",
        "a trainer and its engine that take turns with one GPU's memory (`placement.mode: Shared`)",
    ),
)
NOT_RUN = (
    "one process group of a trainer and two engines, which needs three GPUs",
    "the image of SGLang as it is published: the engines are an installed SGLang",
    "a driver of another vendor, GPUs in MIG mode",
)
HEAD = """\
# What ran on a real GPU

Made by `make real-engine` of what `make demo ARGS='--gpu --report FILE'` wrote on
{date}. [The demo](../how-to/demo-on-a-gpu.md) runs a real Kubernetes on one machine, and the SGLang
that is installed there, through the operator and its client.
"""
TESTS = """\
## The tests{version}

Made by `make gpu`, on {date}: each test drives the engines through the operator.
"""
FAKES = """\
Everything else in these pages that is told of engines was run on the kit's fake engine, which is
held to what real ones answered (`tests/data/real-engine/README.md`).
"""


def page(
    report: Mapping[str, Any],
    suite: Mapping[str, Any] | None = None,
    others: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page of the demo's report and of the tests', where there is one.

    ``others`` are the tests' reports of other versions of SGLang than the demo's.

    Raises ValueError for one that is not of a real GPU, or a demo that did not come to its end.
    """
    if report["stand_in"]:
        raise ValueError("the report is of stand-ins, not of a GPU")
    if report["failed"]:
        raise ValueError(f"the report is of a run that failed at: {report['failed']}")
    parts = [HEAD.format(date=report["date"]), _where(report), _steps(report["steps"])]
    parts += [_syncs(report["steps"]), _memory(report["steps"])]
    for each in filter(None, (suite, *others)):
        if each["stand_in"]:
            raise ValueError("the tests' report is of stand-ins, not of a GPU")
        version = "" if each is suite else f", SGLang {each['sglang']}"
        head = TESTS.format(version=version, date=each["date"])
        parts += [head, _where(each), _tests(each["tests"])]
        parts += [_figures(each["tests"], version), _without(each["tests"], version)]
    parts += [_not_run(report["steps"], suite), FAKES]
    return "\n".join(filter(None, parts))


def _where(report: Mapping[str, Any]) -> str:
    config = ", ".join(f"`{key}: {value}`" for key, value in report["config"].items())
    rows = {
        "GPU": f"{report['cards']} × {report['card']}, driver {report['driver']}",
        "SGLang": f"{report['sglang'] or report['image']}, torch {report['torch'] or 'its own'}",
        "Kubernetes": report["kubernetes"],
        "model": report["model"],
        "`strategy_config`": config,
    }
    return _table(("", ""), rows.items())


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = [(step["step"], f"{step['seconds']:.2f}", _cell(step["seen"])) for step in steps]
    return "## Step by step\n\n" + _table(("step", "seconds", "seen"), rows)


def _syncs(steps: Sequence[Mapping[str, Any]]) -> str:
    """What of each sync is the engine's own, and what is spent on the transaction around it."""
    rows = []
    for step in steps:
        if "update" in step:
            own = step["begin"] + step["commit"] + step["gates"]
            rows.append((step["step"], _ms(step["update"]), _ms(own)))
        for sync in step.get("syncs", ()):
            own = sync["begin"] + sync["commit"] + sync["gates"]
            title = f"step-{sync['step']} by NCCL, with {_ms(sync['group'])} ms for its group"
            rows.append((title, _ms(sync["update"]), _ms(own)))
    head = ("sync", "update of the engines, ms", "begin, commit and gates, ms")
    return "## What a sync costs\n\n" + _table(head, rows)


def _memory(steps: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (step["step"], f"{step['used_before'] / GIB:.1f}", f"{step['used_after'] / GIB:.1f}")
        for step in steps
        if "used_before" in step
    ]
    return "## Memory in use, as the driver shows it\n\n" + _table(
        ("step", "before, GiB", "after, GiB"), rows
    )


def _tests(tests: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (_title(test["test"]), test["outcome"], f"{test['seconds']:.1f}")
        for test in tests
        if test["outcome"] != SKIPPED
    ]
    return _table(("test", "outcome", "seconds"), rows)


def _figures(tests: Sequence[Mapping[str, Any]], version: str) -> str:
    rows = [
        (_title(test["test"]), name, _cell(_value(value)))
        for test in tests
        for name, value in test["figures"].items()
    ]
    head = f"## What they measured{version}\n\n"
    return head + _table(("test", "figure", "value"), rows) if rows else ""


def _without(tests: Sequence[Mapping[str, Any]], version: str) -> str:
    """Tests that did not pass, and why."""
    rows = [
        (_title(test["test"]), test["outcome"], _cell(test["reason"].splitlines()[0]))
        for test in tests
        if test["outcome"] != "passed"
    ]
    head = ("test", "outcome", "reason")
    return f"## Tests that did not pass{version}\n\n" + _table(head, rows) if rows else ""


def _title(test: str) -> str:
    """A test's sentence, with what it was run for."""
    name, bracket, rest = test.partition("::")[2].removeprefix("test_").partition("[")
    return name.replace("_", " ") + (f" ({rest.removesuffix(']')})" if bracket else "")


def _value(value: Any) -> str:
    """A figure for people: pairs in one line, and bytes as they are counted."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(each)}" for key, each in value.items())
    if isinstance(value, list):
        return "; ".join(map(_value, value))
    if isinstance(value, int) and value >= GIB // 16:
        return f"{value / GIB:.2f} GiB"
    return str(value)


def _not_run(steps: Sequence[Mapping[str, Any]], suite: Mapping[str, Any] | None) -> str:
    tests = suite["tests"] if suite else ()
    ran = [test["test"] for test in tests if test["outcome"] == "passed"]
    left = [text for name, text in BY_TESTS if not any(each.startswith(name) for each in ran)]
    if not any("syncs" in step for step in steps):
        left.insert(0, NO_GROUP)
    return "## What was not run\n\n" + "".join(f"- {text};\n" for text in (*left, *NOT_RUN))


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}"


def main(arguments: Sequence[str]) -> int:
    """Keep the reports that are given, and write the page; 1 when one cannot be taken."""
    try:
        given = [json.loads(Path(each).read_text()) for each in arguments]
        report = next((each for each in given if "tests" not in each), None) or _kept(DATA)
        if report is None:
            raise ValueError("the page begins with the demo's report, and there is none")
        suites = _suites(report, [each for each in given if "tests" in each])
        others = [suites[file] for file in sorted(suites) if file != SUITE]
        text = page(report, suites.get(SUITE), others)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {' '.join(arguments) or DATA}: {error}", file=sys.stderr)
        return 1
    for file, content in ((DATA, report), *suites.items()):
        file.write_text(json.dumps(content, indent=2) + "\n")
    PAGE.write_text(text)
    return 0


def _suites(report: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> dict[Path, Any]:
    """The tests' reports by the files that keep them: one for each version of SGLang."""
    kept = {file: _kept(file) for file in SUITE.parent.glob(f"{SUITE.stem}*.json")}
    for each in given:
        same = each["sglang"] == report["sglang"]
        kept[SUITE if same else SUITE.with_stem(f"{SUITE.stem}-{each['sglang']}")] = each
    return kept


def _kept(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
