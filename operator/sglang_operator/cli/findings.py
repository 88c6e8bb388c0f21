"""What the commands find, where, and how they say it."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_operator.api import bounds, errors
from sglang_operator.api.errors import Problem, Severity
from sglang_operator.cli.yaml_tree.nodes import Mark

OK, WARNED, FAILED = 0, 1, 2  # exit codes


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem, at one place of one file."""

    mark: Mark
    problem: Problem
    subject: str = ""  # the pool or the role it is about

    @property
    def is_error(self) -> bool:
        return self.problem.severity is Severity.ERROR

    def line(self) -> str:
        """``file:line:column: error: field: what is wrong [Reason]``, on one line."""
        problem = self.problem
        where = f"{self.subject}: " if self.subject else ""
        severity = problem.severity.value
        return one_line(f"{self.mark}: {severity}: {where}{problem} [{problem.reason}]")

    def record(self) -> dict[str, object]:
        """The same for programs."""
        return {
            **dataclasses.asdict(self.mark),
            "severity": self.problem.severity.value,
            "reason": self.problem.reason,
            "subject": self.subject,
            "field": self.problem.field,
            "message": self.problem.message,
        }


class StopError(Exception):
    """Nothing more can be done with this input; carries what was found."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(f"{len(findings)} findings")
        self.findings = tuple(findings)


def stop(mark: Mark, problem: Problem) -> StopError:
    """To raise at a place where reading cannot go on."""
    return StopError([Finding(mark=mark, problem=problem)])


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """In the order of the files' lines, each only once."""
    unique = dict.fromkeys(findings)
    return sorted(unique, key=lambda found: (found.mark.file, found.mark.line, found.mark.column))


def as_json(findings: Iterable[Finding], notes: Iterable[str]) -> str:
    """One document for programs."""
    document = {"findings": [found.record() for found in findings], "notes": list(notes)}
    return json.dumps(document, indent=2, ensure_ascii=False)


def exit_code(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """2 with an error, 1 with a warning if warnings count, else 0."""
    found = list(findings)
    if any(finding.is_error for finding in found):
        return FAILED
    return WARNED if strict and found else OK


def one_line(text: str) -> str:
    """Text without anything that a terminal would act on."""
    return bounds.printable(text)


def file_name(name: str) -> str:
    """A file's name as messages quote it."""
    return errors.shown(name)
