"""Which rules of ``engine.combinations`` a version has, and where: by breaking them.

``examples`` has arguments that break each rule and others that just hold.  A version has the rule
if its own check refuses the first on every ground, and has nothing there against the second on
one or more.
"""

from typing import Any

from generators.schema import checks, examples
from generators.schema.examples import Fields
from generators.schema.sglang import SGLang
from sglang_operator.engine.combination_rules import RULES

BASE: dict[str, Any] = {"mem_fraction_static": 0.7, "skip_tokenizer_init": True, "tp_size": 2}


def places(sglang: SGLang) -> dict[str, str]:
    """The rules of a version with their places in its source."""
    found = {name: _place(sglang, *examples.of(sglang, name)) for name in RULES}
    return {name: place for name, place in found.items() if place and _is_refused(sglang, name)}


def _is_refused(sglang: SGLang, name: str) -> bool:
    """Whether the terms of a rule are refused without what else its example has."""
    alone = examples.meeting(sglang, name)
    breaks, _ = examples.of(sglang, name)
    return alone in ({}, breaks) or all(
        verdict(sglang, alone, ground).place for ground in checks.GROUNDS
    )


def _place(sglang: SGLang, breaks: Fields, holds: Fields) -> str:
    if not {*breaks, *holds} <= set(sglang.names) or not _are_choices(sglang, breaks):
        return ""
    refusals = {}
    for ground in checks.GROUNDS:
        refusals[ground.name] = verdict(sglang, breaks, ground)
        if not refusals[ground.name].is_judgement:
            return ""
    # An older GPU may refuse a part of it for being old.
    place = refusals[checks.NEWEST].place
    if all(verdict(sglang, holds, ground).place == place for ground in checks.GROUNDS):
        return ""
    return place.removeprefix("sglang.srt.")


def _are_choices(sglang: SGLang, fields: Fields) -> bool:
    """Whether the parser takes these values, where it has a list of them."""
    actions = {field: sglang.action(field) for field in fields}
    return all(
        action is None or not action.choices or isinstance(value, list) or value in action.choices
        for action, value in zip(actions.values(), fields.values(), strict=True)
    )


def verdict(sglang: SGLang, fields: Fields, ground: checks.Ground) -> checks.Verdict:
    """What a version says of these fields beside the usual ones."""
    return checks.judge(sglang, {**BASE, **fields}, ground)
