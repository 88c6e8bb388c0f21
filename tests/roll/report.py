"""What became of the flows, and the tables that are made of it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.roll.flows import FLOWS, Flow

_WIDTH = 44


@dataclass(frozen=True)
class Outcome:
    """A flow and how it ended."""

    flow: Flow
    good: bool
    result: str
    told: str  # what happened to the pool meanwhile
    modules: Mapping[str, str]


def judge(flow: Flow, found: Mapping[str, Any]) -> Outcome:
    """Whether it ended as it should: right, or refused at the start in words."""
    answers = Counter(found.get("answers", {}))
    if found["ended"] == "right":
        text = f"ends right, {answers['right']} answers"
        if answers["aborted"]:
            text += f" and {answers['aborted']} aborted"
        whole = answers["right"] >= flow.answers  # whatever happened to the pool meanwhile
        good = flow.ends == "right" and not answers["wrong"] and whole
        ends = {"Closed"} if flow.shared else {"Open"}  # beside a trainer they sleep in the end
        if flow.plane and set(found["pool"]["gates"]) != ends:
            good, text = False, f"{text}; the operator left gates as {found['pool']['gates']}"
        if answers["wrong"]:
            text += f", {answers['wrong']} of them FROM OTHER WEIGHTS"
        if flow.ends == "right" and not whole:
            text += f", of {flow.answers} at least"
        if flow.ends == "refused":
            text += ", and should have been refused"
    else:
        error = str(found["error"])
        good = flow.ends != "right" and flow.says in error
        if flow.ends == "refused":
            good &= not answers
        if flow.ends == "told":
            good &= answers["right"] >= flow.answers and not answers["wrong"]
        begin = {"refused": "refused: ", "told": "ends, and says: "}
        text = (begin[flow.ends] if good else "FAILS: ") + _first(error)
    if flow.story and not found.get("told"):
        good, text = False, f"{text}; nothing happened to the pool: {found.get('story_error')}"
    if flow.shared and flow.ends == "right":
        held = found.get("memory", {})
        text += f"; the trainer held memory {held.get('turns', 0)} times"
        if moments := held.get("moments", 0):
            text += f", AND AN ENGINE TOO MUCH WITH IT, {moments} times"
        good &= bool(held.get("turns")) and not moments
    told = str(found.get("told") or "")
    if told:
        text += f"; {told}"
    return Outcome(flow, good, text, told, found.get("modules", {}))


def lines(commit: str, outcomes: Iterable[Outcome]) -> Iterator[str]:
    """The table to print."""
    outcomes = list(outcomes)
    yield ""
    yield f"ROLL {commit}"
    real, stood = modules(outcomes)
    yield f"  real:     {len(real)} modules: {', '.join(real)}"
    yield f"  stand-in: {', '.join(stood)}"
    yield ""
    for each in outcomes:
        mark = "ok  " if each.good else "FAIL"
        yield f"  {mark} {each.flow.name:{_WIDTH}} {each.result}"


def modules(outcomes: Iterable[Outcome]) -> tuple[list[str], list[str]]:
    """Names of those that were ROLL's own, and of those that were not."""
    real: set[str] = set()
    stood: set[str] = set()
    for each in outcomes:
        real |= {name for name, origin in each.modules.items() if origin == "real"}
        stood |= {name for name, origin in each.modules.items() if origin != "real"}
    return sorted(real - stood), sorted(stood)


def _first(text: str) -> str:
    """The last line that says something, as long as a table can hold."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return (found[0] if found else "nothing was said")[:300]


def kept(
    commit: str, outcomes: Iterable[Outcome], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What runs leave for the documentation: nothing that differs from run to run.

    ``before``: what earlier runs left, which stays for flows that did not run now.
    """
    outcomes = list(outcomes)
    real, stood = modules(outcomes)
    found = {
        each.flow.name: {
            "flow": each.flow.name,
            "example": each.flow.example,
            "ended": each.flow.ends if each.good else "fails",
            "told": each.told,
        }
        for each in outcomes
    }
    if before and before["commit"] == commit:
        found = {each["flow"]: each for each in before["flows"]} | found
        stood = sorted({*stood, *before["stand-in"]})
        real = sorted({*real, *before["real"]} - set(stood))
    flows = [found[flow.name] for flow in FLOWS if flow.name in found]
    return {"commit": commit, "flows": flows, "real": real, "stand-in": stood}


def row(run: Mapping[str, Any]) -> str:
    """ROLL's line in the table of all trainers, of what ``kept`` left."""
    ends = Counter(each["ended"] for each in run["flows"])
    works = ", ".join(f"{ends[how]} {words}" for how, words in _COUNTED.items() if ends[how])
    return f"| ROLL | {run['commit']} | {_NEEDS} | {works} |"


def section(run: Mapping[str, Any]) -> str:
    """ROLL's part of the page, of the same."""
    rows = [
        f"| {each['flow']} | `{each['example']}` | {_END[each['ended']]}{_also(each['told'])} |"
        for each in run["flows"]
    ]
    return _SECTION.format(
        rows="\n".join(rows),
        real=len(run["real"]),
        stood=", ".join(f"`{name}`" for name in run["stand-in"]),
    )


def write(root: Path, commit: str, outcomes: Iterable[Outcome], interface: Any) -> None:
    """Into the tests' data; the page is made of them (``tests.trainers``)."""
    path = root / RUN
    before = json.loads(path.read_text()) if path.is_file() else None
    for place, table in (
        (path, kept(commit, outcomes, before)),
        (root / "tests/data/roll-interface.json", interface),
    ):
        place.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")


RUN = Path("tests/data/roll-run.json")
PAGE = Path("operator/docs/reference/trainers.md")  # made by ``tests.trainers``
_END = {
    "right": "ends right",
    "refused": "is refused at the start, in words",
    "told": "ends, and says why",
    "fails": "does neither",
}


def _also(told: str) -> str:
    return f"; {told}" if told else ""


_COUNTED = {
    "right": "flows end right",
    "refused": "are refused at the start",
    "told": "ends and says why",
    "fails": "do neither",
}
_NEEDS = (
    "`worker_cls`, the hook, and ids apart from actor_train's or a pool of mode `Shared`: "
    "[attach ROLL](../how-to/roll.md)"
)
_SECTION = """\
## ROLL's flows

Every answer came from the whole weights of the model update that its version names: all elements of
the trainer's tensors have one value in each update, and the engines write down from which they
answered. Engines are of SGLang 0.5.7, where nothing else is said, and processes beside an API
server of the tests. On the real control plane they are containers, of the object that `kubectl
sglang convert` writes of the same file, and ROLL has the rights of its page's Role.

Where engines are on the trainer's GPUs (colocated, and `partial_gpu_mode`) they start once ROLL's
workers have published these, and open handles of what the trainer's processes hold. Trainer and
engines write down which memory of which GPU they have: the trainer had some in every step, and no
engine beside it, but for the weights that are written in a model update.

| flow | example | result |
|---|---|---|
{rows}

{real} of ROLL's modules were its own; in place of its `sglang_strategy` stands that of a pool.
Stood in for: {stood}; and the training itself (`worker_cls` of actor_train, reference and the rule
that rewards), whose workers send weights by ROLL's own updaters.
"""
