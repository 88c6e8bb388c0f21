"""What README.md shows of the demo is what the demo, and the operator in it, would say.

The block is not run: that takes a control plane with real nodes (tests/integration/test_demo.py).
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sglang_operator.api import conditions
from sglang_operator.observed.model import Gate, ObservedPod
from sglang_operator.status import compute
from tests.builders import NOW, OWNER, a_lease, a_pool, all_pods, planned, weighed
from tests.docs import pages

ROOT = pages.ROOT
(DEMO,) = (b.text for b in pages.blocks(ROOT / "README.md") if b.text.startswith("$ make demo\n"))
KIT = "operator/testkit/sglang_operator/testing"
# Who speaks in it, besides the operator and kubectl.
SPEAKERS = (f"{KIT}/demo.py", f"{KIT}/demo_engines.py", "manifests/samples/trainer/trainer.py")
_HOLE = "\0"
_WORDS = 2  # with fewer of its own a text is a frame for others'
_MARKUP = re.compile(r"\[/?[a-z ]*\]")


def texts(path: str) -> Iterator[str]:
    """What a module says; what it fills in is a hole."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    filled = [node.values for node in nodes if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for values in filled for part in values}
    whole: list[list[ast.expr]] = [
        [node] for node in nodes if isinstance(node, ast.Constant) and id(node) not in parts
    ]
    for values in [*filled, *whole]:
        yield _MARKUP.sub("", "".join(map(_part, values)))


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else _HOLE


def told() -> Iterator[str]:
    """What the operator says of the pool from its first pass to its last of the demo."""
    pool, opened = a_pool(), Gate(is_open=True, version="step-1", reason="Committed")
    up = all_pods(pool, container_id="containerd://1", gate=opened)
    covered = ",".join(str(pod.instance) for pod in up)
    commit = a_lease(pool, phase="Committed", version="step-1", instances=covered)
    situations: list[tuple[list[ObservedPod], dict[str, Any]]] = [
        ([], {}),
        (all_pods(pool, containers_ready=False), {}),
        (all_pods(pool), {}),
        (up, {"children": commit}),
    ]
    for pods, beside in situations:
        found = compute.compute(
            pool,
            planned(pool, pods, **beside),
            weighed(pool, pods, **beside),
            ignored=(),
            troubles=(),
            previous={},
            now=NOW,
        )
        ready = conditions.find(found["conditions"], conditions.READY)
        assert ready is not None
        yield f"READY {found['readySummary']}  {ready['reason']}: {ready['message']}"
        cells = (OWNER.name, found["readySummary"], found["syncedSummary"], ready["reason"])
        yield "   ".join([*cells, _HOLE])


def columns() -> str:
    """The head of what kubectl shows of a pool."""
    (version,) = yaml.safe_load((ROOT / "manifests/crd/sglanginferences.yaml").read_text())["spec"][
        "versions"
    ]
    shown = [each for each in version["additionalPrinterColumns"] if not each.get("priority")]
    return "   ".join(["NAME", *(each["name"].upper() for each in shown)])


def pattern(text: str) -> str:
    """A text as it may be broken into lines; what is filled in stands on one."""
    spaces = re.compile(r"\s+")
    parts = (map(re.escape, spaces.split(part)) for part in text.split(_HOLE))
    return r"[^\n]+?".join(map(r"\s+".join, parts))


def unsaid(block: str) -> list[str]:
    """The lines of it in which there is what nobody says; pictures and JSON are nobody's words."""
    said = {text.strip() for path in SPEAKERS for text in texts(path)} | {*told(), columns()}
    left = block
    for text in sorted(said, key=len, reverse=True):
        if sum(bool(re.search("[A-Za-z]{2}", word)) for word in text.split()) >= _WORDS:
            found = rf"(?<!\S){pattern(text)}(?=\s)"
            left = re.sub(found, lambda match: re.sub(r"\S", " ", match[0]), left)
    left = re.sub(r"(?m)^(\$ make demo|[╭│╰].*| +(/\w+ +)?\{.*)$", "", left)
    # What the demo writes before what others say.
    left = re.sub(r"(?m)^ +([\d.]+ s|trainer:) +$", "", left)
    return [line for line in left.splitlines() if line.strip()]


def test_what_the_readme_shows_of_the_demo_is_said_there():
    assert unsaid(DEMO) == []


@pytest.mark.parametrize(
    ("written", "before"),
    [
        ("12 load their model or warm up", "12 start"),
        ("EnginesStarting:", "Starting:"),
        ("random weights until", "no weights until"),
        ("does and needs no GPU", "does"),
        ("and every gate is open", "and all gates are open"),
        ("SYNCED   REASON", "SYNC   REASON"),
        ("READY 12/12", "READY 12"),
    ],
)
def test_words_that_nobody_says_any_more_are_found(written, before):
    assert written in DEMO
    assert unsaid(DEMO.replace(written, before))
