"""Scrapes as Prometheus would store them, and what its own engine answers on them."""

import dataclasses
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence

from sglang_operator.testing import extratools

SECONDS = 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scrape:
    """One answer of a target's /metrics.  ``at`` is in seconds since 1970."""

    at: float
    labels: Mapping[str, str]  # of the target
    honor_labels: bool
    text: str

    def altered(self, name: str, value: Callable[[float], float]) -> "Scrape":
        """The same with other values for the series of this name; its labels are in ``name`` too.

        Raises AssertionError if it has none: what is altered must have been scraped.
        """
        pattern = re.compile(rf"^({name}(?:{{[^}}]*}})?) (\S+)$", re.MULTILINE)
        text, count = pattern.subn(lambda found: f"{found[1]} {value(float(found[2]))}", self.text)
        assert count, f"no series {name} in a scrape of {self.labels}"
        return dataclasses.replace(self, text=text)


@dataclasses.dataclass(frozen=True)
class Answer:
    """Of one query: label sets with values, or an error; and what the engine finds odd."""

    series: Sequence[tuple[Mapping[str, str], float]]
    warnings: Sequence[str]
    error: str


def ask(
    scrapes: Sequence[Scrape], queries: Mapping[str, str], at: float | None = None
) -> dict[str, Answer]:
    """The answers by the queries' names, at a moment: that of the last scrape, unless given."""
    given = {
        "scrapes": [dataclasses.asdict(scrape) for scrape in scrapes],
        "at": at if at is not None else max(scrape.at for scrape in scrapes) + 0.5,
        "queries": dict(queries),
    }
    done = subprocess.run(
        [str(extratools.promql())],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: Answer(
            [(each["labels"], float(each["value"])) for each in told["series"] or ()],
            told["warnings"] or (),
            told["error"],
        )
        for name, told in json.loads(done.stdout).items()
    }
