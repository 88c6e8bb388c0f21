"""Arguments together: what we refuse of random command lines, SGLang's own check refuses too.

A case is a few arguments that share words of their names, or any, with values that each of them
allows and with numbers at the edges.  What nobody refuses for one argument alone is rendered, read
by the version's own parser, and handed to its own check on every machine and model of the
stand-ins.  A refusal of ours that the check does not share on each of them disproves; what it
refuses on each and we take is counted: some of it needs a plugin, a file or another model.
"""

import random
from collections.abc import Iterator
from typing import Any

from generators.schema import checks
from generators.schema.sglang import SGLang
from sglang_operator.api import errors
from sglang_operator.engine import arguments
from tests.proof import cases
from tests.proof.judge import Disproved, kubelet, request
from tests.proof.oracle import Case

AGREED, MISSED, SINGLE = "refused by both", "refused by SGLang alone", "refused alone"
ACCEPTED = "accepted"
EDGES = (0, 1, 2, 3, 4, 8, 16, 64, 100, -1, 1000)
_COMMON = {"enable", "disable", "size", "max", "num", "backend", "path", "mode"}
_MACHINE = frozenset({"device", "nccl_port", "disaggregation_ib_device", "mooncake_ib_device"})


def chance(sglang: SGLang, seed: int) -> Iterator[Case]:
    """Random configurations without end; the same for the same seed."""
    dice = random.Random(f"{sglang.version} {seed} together")
    names = [name for name in cases.keys(sglang) if name not in cases.OWNED | _MACHINE]
    words = {name: set(name.split("_")) - _COMMON for name in names}
    while True:
        first = dice.choice(names)
        near = [name for name in names if words[name] & words[first]]
        pool = near if dice.random() < 0.7 else names
        config = {name: _value(sglang, name, dice) for name in _some(pool, dice)}
        yield cases.case(sglang, {**cases.BASE, **config}, gpus=dice.choice((1, 2, 4, 8)))


def _some(names: list[str], dice: random.Random) -> list[str]:
    return dice.sample(names, min(len(names), dice.randint(2, 5)))


def _value(sglang: SGLang, name: str, dice: random.Random) -> Any:
    found = cases.good(sglang, name) or [None]
    if all(type(value) is int for value in found):
        return dice.choice(EDGES)
    if True in found:
        return dice.random() < 0.9
    return dice.choice(found)


def judge(sglang: SGLang, case: Case) -> str:
    """Who refuses it; raises Disproved where we alone do."""
    rendered = arguments.render(request(case))
    refused = [p for p in rendered.problems if p.severity is errors.Severity.ERROR]
    ours = [p for p in refused if "with which SGLang" in p.message]
    if len(ours) < len(refused):
        return SINGLE
    fields = _fields(sglang, rendered.argv)
    if fields is None:
        return SINGLE
    theirs = [checks.judge(sglang, fields, checks.GROUNDS[0])]
    if theirs[0].place:
        theirs += [checks.judge(sglang, fields, ground) for ground in checks.GROUNDS[1:]]
    if ours and not all(verdict.place for verdict in theirs):
        raise Disproved(f"{case}: SGLang takes it, but {ours[0].message}")
    if ours:
        return AGREED
    return MISSED if all(verdict.is_judgement for verdict in theirs) else ACCEPTED


def _fields(sglang: SGLang, argv: tuple[str, ...]) -> dict[str, Any] | None:
    """What the parser makes of it, where that is not the default; None: it does not take it."""
    try:
        found = sglang.parse([kubelet(token) for token in argv])
    except Exception:  # a value that is refused by what it means, such as a path
        return None
    return {name: value for name, value in found.items() if value != sglang.defaults.get(name)}
