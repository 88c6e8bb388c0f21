"""Which rules of ``engine.combinations`` a version has, and where: by breaking them.

``examples`` has arguments that break each rule and others that just hold.  A version has the rule
if its own check refuses the first on every ground, and takes the second on one or more.
"""

from typing import Any

from tests.schema import checks
from tests.schema.examples import EXAMPLES, Fields
from tests.schema.sglang import SGLang

BASE: dict[str, Any] = {"mem_fraction_static": 0.7, "skip_tokenizer_init": True, "tp_size": 2}


def places(sglang: SGLang) -> dict[str, str]:
    """The rules of a version with their places in its source."""
    found = {name: _place(sglang, *EXAMPLES[name]) for name in EXAMPLES}
    return {name: place for name, place in found.items() if place}


def _place(sglang: SGLang, breaks: Fields, holds: Fields) -> str:
    if not {*breaks, *holds} <= set(sglang.names):
        return ""
    refusals = {ground.name: verdict(sglang, breaks, ground) for ground in checks.GROUNDS}
    if not all(refusal.is_judgement for refusal in refusals.values()):
        return ""
    if all(verdict(sglang, holds, ground).place for ground in checks.GROUNDS):
        return ""
    # An older GPU may refuse a part of it for being old.
    return refusals[checks.NEWEST].place.removeprefix("sglang.srt.")


def verdict(sglang: SGLang, fields: Fields, ground: checks.Ground) -> checks.Verdict:
    """What a version says of these fields beside the usual ones."""
    return checks.judge(sglang, {**BASE, **fields}, ground)
