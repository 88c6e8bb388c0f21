"""The pages of the documentation, their blocks, and which blocks are not run, with the reason.

A block's language says what a test does with it: ``sh`` is run, in the order of the page, on a
control plane with the operator; ``yaml`` is judged as a file (its first line may name one, which
the commands then find; ``mistake…`` is one that has to be refused) or, where it begins with
``spec:``, as a part of a pool; of ``python`` the imports are made and the rest is compiled;
``text`` is what the commands above it print.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "operator" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LANGUAGES = frozenset({"sh", "yaml", "python", "text"})

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w.-]+\.yaml)\n")

# Why a block, or the beginning of one, is not run here.  Other tests run the same thing where it
# can be run, or nothing can.
REASONS = {
    "docker": "there is no container engine in the test kit",
    "make": "the target is run by CI itself, or by a test of its own",
    "chart": "tests of the chart run it, on a plane without an operator",
    "image": "the nodes of this plane run no containers",
    "roll": "it starts ROLL, or Ray for it, on nodes of its own",
    "kueue": "there is no Kueue on this plane; tests/kueue runs the page beside one",
    "pip": "it installs into the environment that runs the tests",
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that a block of YAML is."""
        match = _NAMED.match(self.text)
        return match[1] if match else None

    @property
    def not_run(self) -> str | None:
        """Why its commands are not run; None if they are."""
        for start, reason in NOT_RUN.items():
            if self.language == "sh" and self.text.startswith(start):
                return REASONS[reason]
        return None


# The beginning of a block of commands -> the key of its reason.
NOT_RUN: dict[str, str] = {
    "docker build": "docker",
    "make ": "make",
    "helm ": "chart",
    "kubectl apply -f queues.yaml": "kueue",
    "pip install": "pip",
    "kubectl run ": "image",
    "export RAY_JOB_CONFIG_JSON_ENV_VAR": "roll",
    "NODE_RANK=": "roll",
}


def name(path: Path) -> str:
    """A page's name as tests have it."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """The blocks of a page in order."""
    text = path.read_text()
    return [
        Block(
            page=name(path),
            line=text.count("\n", 0, match.start()) + 1,
            language=match[2],
            text=textwrap.dedent(match[3]),
        )
        for match in _FENCE.finditer(text)
    ]


def links(path: Path) -> list[str]:
    """The targets of links to other files."""
    text = _FENCE.sub("", path.read_text())
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:|#", target)]
