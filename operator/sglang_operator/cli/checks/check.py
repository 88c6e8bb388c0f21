"""What an examination finds: a check, and how it came out."""

from dataclasses import dataclass
from enum import Enum

from sglang_operator.cli import texts
from sglang_operator.cli.cluster.kubectl import ClusterError


class Grade(Enum):
    """How a check came out."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"  # it could not be looked at


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check."""

    name: str
    grade: Grade
    what: str
    do: str = ""

    def record(self) -> dict[str, str]:
        return {"name": self.name, "grade": self.grade.value, "what": self.what, "do": self.do}


def unknown(name: str, error: ClusterError) -> Check:
    """The check of what could not be looked at."""
    what = texts.DOCTOR_UNKNOWN.format(detail=error.detail)
    return Check(name=name, grade=Grade.UNKNOWN, what=what)
