"""What the engines of a pool take of a card, by SGLang's own rules.  Pure.

The operator cannot read a model's config.json: of models that are not shipped as data nothing is
planned, and nothing is said.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_operator.engine import versions
from sglang_operator.memory import cards, engine, known, settings, verdict
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import EnginePlan, Request
from sglang_operator.memory.known import NotKnown
from sglang_operator.memory.verdict import Verdict
from sglang_operator.pool.model import Pool
from sglang_operator.roll import worker


@dataclass(frozen=True, kw_only=True)
class PlannedMemory:
    """An engine on a card, and what there is to say of it."""

    plan: EnginePlan
    verdict: Verdict


def of(pool: Pool, seen: Card | None) -> PlannedMemory | None:
    """The plan of an engine of this pool; None where the card or the model is not known.

    ``seen``: the card of the engine's node, where that tells; else the one that the pool asks for.
    """
    card = seen or asked_for(pool)
    if card is None or pool.resource != cards.RESOURCE:
        return None
    return of_argv(worker.model(pool.spec.model_args), pool.arguments.argv, pool.version, card)


def asked_for(pool: Pool) -> Card | None:
    """The card that the pool's nodes are selected by, if they are."""
    return cards.of_labels(pool.template.spec.get("nodeSelector", {}))


def of_argv(
    model: str, argv: Sequence[str], version: versions.Version, card: Card
) -> PlannedMemory | None:
    """The same of a command line."""
    return _planned(model, tuple(argv), version, card)


@functools.lru_cache(maxsize=512)
def _planned(
    model: str, argv: tuple[str, ...], version: versions.Version, card: Card
) -> PlannedMemory | None:
    try:
        given = settings.of_argv(argv, version)
        shape = known.shape(model, version, given)
        if isinstance(shape, NotKnown):
            return None
        plan = engine.plan(Request(shape=shape, card=card, version=version, settings=given))
        return PlannedMemory(plan=plan, verdict=verdict.judge(plan))
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # Sizes of which there are no engines.  A plan is advice, and stands in nobody's way.
        return None
