"""What a flow is, and how its outcome is told: one line of JSON on standard output."""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

Flow = tuple[str, Callable[[], str]]
WORKS, CANNOT, FAILS = "works", "cannot", "fails"
MAX_WORDS = 300


class CannotError(Exception):
    """What is known not to work, in the words that were seen; another end of it is a failure."""


def ask(what: str) -> None:
    """Have the other side do something, and wait until it is done."""
    print("ASK " + what, flush=True)
    sys.stdin.readline()


def run(flows: Iterable[Flow]) -> list[dict[str, str]]:
    """Each flow in turn, with how it ended; what it returns is told beside that."""
    rows = []
    for name, flow in flows:
        try:
            ended, told = WORKS, flow()
        except CannotError as error:
            ended, told = CANNOT, str(error)
        except Exception as error:
            logging.error("%s: %s", name, traceback.format_exc())
            ended, told = FAILS, " ".join(f"{type(error).__name__}: {error}".split())[:MAX_WORDS]
        rows.append({"flow": name, "ended": ended, "told": told})
        logging.warning("%s: %s %s", name, ended, told)
    return rows


def tell(rows: list[dict[str, str]], own: str, stood_in: Iterable[str]) -> None:
    """The result: how many modules of the trainer were real, and what was stood in for."""
    real = sum(name.partition(".")[0] == own for name in sys.modules)
    result: dict[str, Any] = {"rows": rows, "real": real, "standIns": sorted(stood_in)}
    print("RESULT " + json.dumps(result), flush=True)


def refused(call: Callable[[], object], words: str) -> str:
    """What this call is refused with; raises AssertionError if it is not, or in other words."""
    try:
        call()
    except Exception as error:
        said = " ".join([str(error), *getattr(error, "__notes__", ())])
        assert words in said, said
        return words
    raise AssertionError(f"it was not refused, as expected: {words}")
