"""What a run saw: for a terminal, for the tests' data, and for the documentation."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.roll import report as of_roll

Run = Mapping[str, Any]
FOLDER = Path("tests/data/trainers")
NEEDS = {
    "slime": "`skip_tokenizer_init: false`; `--rollout-external-engine-addrs` and the form `slime`",
    "miles": "as slime, `network.listenOnPodIP: true`, and `--rollout-external` besides",
    "areal": "SPMD mode; `AREAL_LLM_SERVER_ADDRS` with the form `areal`",
}
TITLES = {"slime": "slime", "miles": "miles", "areal": "AReaL"}


def lines(run: Run) -> Iterator[str]:
    """For a terminal."""
    yield f"{TITLES[run['trainer']]} {run['commit']}, SGLang {run['sglang']}"
    yield f"  {run['real']} of its modules were real; stood in for: {', '.join(run['standIns'])}"
    for row in run["rows"]:
        yield f"  {row['ended']:<6} {row['flow']}: {row['told']}"


def unexpected(run: Run) -> list[str]:
    """The flows that ended otherwise than they are known to."""
    return [row["flow"] for row in run["rows"] if row["ended"] == "fails"]


def keep(root: Path, run: Run) -> None:
    """As data, from which the page is made."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    path = root / FOLDER / f"{run['trainer']}.json"
    path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def kept(root: Path) -> list[dict[str, Any]]:
    """What the last runs saw, in the table's order."""
    paths = (root / FOLDER / f"{name}.json" for name in TITLES)
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def table(root: Path) -> Iterator[str]:
    """Rows of the page's first table: trainer, commit, what it needs, what works."""
    for run in kept(root):
        done = sum(row["ended"] == "works" for row in run["rows"])
        which = f"{done} of {len(run['rows'])} flows, below"
        yield f"| {TITLES[run['trainer']]} | {run['commit']} | {NEEDS[run['trainer']]} | {which} |"


def sections(root: Path) -> Iterator[str]:
    """The rest of the page: each trainer's flows."""
    for run in kept(root):
        rows = "\n".join(f"| {r['flow']} | {r['ended']} | {r['told']} |" for r in run["rows"])
        yield _SECTION.format(
            title=TITLES[run["trainer"]],
            sglang=run["sglang"],
            rows=rows,
            real=run["real"],
            stood=", ".join(run["standIns"]),
        )


def roll(root: Path) -> tuple[str, str]:
    """ROLL's row and section, of what ``make roll`` kept; empty if there is none yet."""
    path = root / "tests/data/roll-run.json"
    if not path.is_file():
        return "", ""
    run = json.loads(path.read_text())
    return of_roll.row(run), of_roll.section(run)


def page(root: Path) -> str:
    """The documentation's page: ROLL, and then the others."""
    row, section = roll(root)
    rows = "\n".join(filter(None, [row, *table(root)]))
    return _PAGE.format(rows=rows) + "\n".join(filter(None, [section, *sections(root)]))


def write(root: Path) -> None:
    """Into the documentation."""
    (root / PAGE).write_text(page(root))


PAGE = of_roll.PAGE
_PAGE = """\
# Trainers, and what was run of them

`make roll ROLL_SOURCE=…` runs ROLL's own pipelines, from its own example files made small, on fake
engines that join real process groups of torch (gloo). `make trainers SLIME_SOURCE=… MILES_SOURCE=…
AREAL_SOURCE=…` runs modules of the others' own, from checkouts, on fake engines. With
`ARGS=--write` they make this page of what they saw; nothing here was run on a GPU.

| trainer | commit | what it needs | what works |
|---|---|---|---|
{rows}
| verl | none | engines that it starts itself: the registry has no form for it | nothing was run |

"""
_SECTION = """\
## {title}

Two fake engines of SGLang {sglang}, with the command lines of `manifests/samples/replicas.yaml`.

| flow | seen | |
|---|---|---|
{rows}

{real} of its modules were its own. Stood in for: {stood}.
"""
