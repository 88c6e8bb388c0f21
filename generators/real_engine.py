"""``python -m generators.real_engine [REPORT]``: the page of what ran on a real GPU, from a report.

REPORT is what ``make demo ARGS='--gpu --report FILE'`` wrote.  It is kept in the tree, and the page
is made of the one that is kept; without REPORT it is made anew.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generators import checkout

DATA = checkout.ROOT / "tests" / "data" / "real-engine" / "demo.json"
PAGE = (checkout.DOCS / "reference" / "real-engine").with_suffix(
    ".md"
)  # there from the first report on
GIB = 1 << 30
# What the demo does not do, to be told beside what it does.
NO_GROUP = "a trainer with a GPU of its own, that broadcasts by NCCL (the demo's `--nccl`)"
NOT_RUN = (
    "updates from tensors by CUDA IPC, with a trainer on the engines' own GPUs",
    "engines of more than one GPU, and engines across nodes",
    "the image of SGLang as it is published: the engines are an installed SGLang",
    "a driver of another vendor, GPUs in MIG mode",
)
HEAD = """\
# What ran on a real GPU

Made by `make real-engine` of what `make demo ARGS='--gpu --report FILE'` wrote on
{date}. [The demo](../how-to/demo-on-a-gpu.md) runs a real Kubernetes on one machine, and the SGLang
that is installed there, through the operator and its client.
"""
FAKES = """\
Everything else in these pages that is told of engines was run on the kit's fake engine, which is
held to what real ones answered (`tests/data/real-engine/README.md`).
"""


def page(report: Mapping[str, Any]) -> str:
    """The page of a report.  Raises ValueError for one that is not of a real GPU, or not whole."""
    if report["stand_in"]:
        raise ValueError("the report is of stand-ins, not of a GPU")
    if report["failed"]:
        raise ValueError(f"the report is of a run that failed at: {report['failed']}")
    parts = [HEAD.format(date=report["date"]), _where(report), _steps(report["steps"])]
    parts += [_syncs(report["steps"]), _memory(report["steps"]), _not_run(report["steps"]), FAKES]
    return "\n".join(parts)


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


def _not_run(steps: Sequence[Mapping[str, Any]]) -> str:
    left = () if any("syncs" in step for step in steps) else (NO_GROUP,)
    return "## What was not run\n\n" + "".join(f"- {text};\n" for text in (*left, *NOT_RUN))


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}"


def main(arguments: Sequence[str]) -> int:
    """Keep the report that is given, and write the page; 1 when it cannot be taken."""
    source = Path(arguments[0]) if arguments else DATA
    try:
        report = json.loads(source.read_text())
        text = page(report)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {source}: {error}", file=sys.stderr)
        return 1
    DATA.write_text(json.dumps(report, indent=2) + "\n")
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
