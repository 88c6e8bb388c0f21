"""What an engine writes at its end is anybody's text: no pattern takes long for any of it.

The texts are made of the patterns' own words, so that a new row of a table is tried as well.
"""

import re
import time
from collections.abc import Iterator

import pytest

from sglang_operator.api.patterns import Pattern
from sglang_operator.diagnosis import causes, pod_signatures
from sglang_operator.engine import diagnosis, signatures
from tests.unit.engine.test_endings import ENDS

MOST = 0.02  # seconds of CPU, for what takes a few milliseconds
LENGTH = 8192
GROUP = re.compile(r"\(\?<?[!=][^)]*\)|\(\?P<\w+>|\(\?[:i]\)?")
SAMPLES = ((r"\\d[+*]*\??", "1"), (r"\\[wS][+*]*\??", "a"), (r"\\n", "\n"), (r"\\s", " "))
QUOTED = re.compile(r"\\([^a-zA-Z0-9])")
NO_WORD = re.compile(r"\0|\[\^?[^\]]+\]|\\[a-zA-Z]|\{[\d,]+\}|[.^$*+?()|]")
ANYTHING = ("1", "1 ", "a ", "a.", "a_", "[", "[a]: ", " ", "  \n", "  a\n", "\n", "a=1 ", "/a.so")


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    for row in signatures.SIGNATURES:
        yield row.reason, row.pattern.compiled
    for signature in pod_signatures.SIGNATURES:
        yield f"{signature.where[0]}-{signature.reason}", signature.pattern.compiled
    for module in (diagnosis, causes):
        for name, value in vars(module).items():
            if isinstance(value, Pattern):
                yield name, value.compiled
            elif isinstance(value, re.Pattern):
                yield name, value


PATTERNS = list(patterns())


def words(pattern: re.Pattern[str]) -> list[str]:
    """The parts of what a pattern wants, in order."""
    text = GROUP.sub("\0", pattern.pattern)
    for wanted, sample in SAMPLES:
        text = re.sub(wanted, sample, text)
    text = QUOTED.sub(lambda found: chr(0xE000 + ord(found[1])), text)
    found = (
        re.sub("[\ue000-\ue0ff]", lambda char: chr(ord(char[0]) - 0xE000), part)
        for part in NO_WORD.split(text)
    )
    return [part for part in found if part]


def hostile(pattern: re.Pattern[str]) -> set[str]:
    """Texts that come near to what the pattern wants, again and again."""
    found, before = set(), ""
    for word in words(pattern) or [""]:
        before += word
        alone = word * max(1, 240 // max(1, len(word)))
        own = (word, f"{word} ", f"{word} 1 ", f"{word}\n", before, f"{before} ", f"{before}1\n")
        long = (f"{'1' * 250} ", f"{'a' * 250} ", f"{'.' * 250} ", f"{alone} ", f"{alone}\n")
        for unit in filter(None, own + long + ANYTHING):
            many = unit * (LENGTH // len(unit) + 1)
            found |= {many[:LENGTH], (before + many)[:LENGTH], f"{before} 1\n{many}"[:LENGTH]}
    return found


def seconds(work, *args: object) -> float:
    """Of CPU: the least of a few tries, if the first took long."""
    least = float("inf")
    for _ in range(3):
        begun = time.process_time()
        work(*args)
        least = min(least, time.process_time() - begun)
        if least < MOST:
            break
    return least


@pytest.mark.parametrize(
    "pattern", [pattern for _, pattern in PATTERNS], ids=[name for name, _ in PATTERNS]
)
def test_no_text_keeps_a_pattern_busy(pattern):
    slowest = (0.0, "")
    for text in hostile(pattern):
        slowest = max(slowest, (seconds(pattern.search, diagnosis.bounded(text)), text))
        assert slowest[0] < MOST, slowest[1][:200]
    assert seconds(diagnosis.diagnose, slowest[1], 1, "Error") < MOST
    assert seconds(diagnosis.last_words, slowest[1]) < MOST


@pytest.mark.parametrize("reason", sorted({r.where[0] for r in pod_signatures.SIGNATURES}))
def test_no_message_of_kubernetes_keeps_its_reader_busy(reason):
    """Kubelets and schedulers quote names that users chose, and put many of them in a row."""
    rows = [row for row in pod_signatures.SIGNATURES if reason in row.where]
    units = {word for row in rows for word in words(row.pattern.compiled)} | set(ANYTHING)
    for unit in units:
        message = (unit * 32768)[:32768]
        assert seconds(pod_signatures.find, reason, message) < MOST, unit


def test_the_words_that_a_row_is_looked_for_by_are_in_all_that_it_matches():
    texts = {end[0] for end in ENDS} | {"failed deepep", "deep_ep failed", "is required"}
    for row in filter(lambda row: row.words, signatures.SIGNATURES):
        assert row.words == tuple(word.lower() for word in row.words)
        for text in texts | {text[:600] for text in hostile(row.pattern.compiled)}:
            found = row.pattern.search(text) is not None
            assert found == (row.found_in(text, text.lower()) is not None), text[:200]


def test_of_a_long_text_the_beginning_and_the_end_are_read():
    told = diagnosis.diagnose("x " * 50_000 + "\nRuntimeError: CUDA out of memory", 1, "Error")
    assert told.reason == signatures.CUDA_OUT_OF_MEMORY
    refused = "error: argument --a: wrong\n" + "x " * 50_000
    assert diagnosis.diagnose(refused, 2, "Error").reason == signatures.ARGUMENT_INVALID
