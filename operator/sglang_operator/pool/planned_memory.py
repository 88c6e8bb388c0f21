"""What the engines of a pool take of a card, by SGLang's own rules.  Pure.

The operator cannot read a model's config.json: of models that are not shipped as data nothing is
planned, and nothing is said.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sglang_operator.api import errors, pod_template
from sglang_operator.api.spec import MemoryCheck, Restart
from sglang_operator.engine import versions
from sglang_operator.memory import cards, engine, known, settings, verdict
from sglang_operator.memory.cards import Card
from sglang_operator.memory.engine import EnginePlan, Request
from sglang_operator.memory.known import NotKnown
from sglang_operator.memory.verdict import Verdict
from sglang_operator.placement import modes
from sglang_operator.pool.draft import Draft
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
    model = worker.model(pool.spec.model_args) or ""
    return _planned(model, pool.arguments.argv, pool.version, card)


def asked_for(pool: Pool) -> Card | None:
    """The card that the pool's nodes are selected by, if they are."""
    return _selected(pool.template)


def _selected(template: pod_template.Overlay) -> Card | None:
    labels = template.spec.get("nodeSelector")
    return cards.of_labels(labels) if isinstance(labels, Mapping) else None


def problems(draft: Draft) -> Iterator[errors.Problem]:
    """That engines cannot fit the card that the pool asks for, whatever was only estimated.

    What is not known is never refused: another card, a model that is not shipped as data, and one
    at a path, where somebody may have put a smaller one under a name that is known.
    """
    parsed, card = draft.spec, _selected(draft.template)
    if parsed.memory_check is not MemoryCheck.REFUSE or card is None or not card.known:
        return
    model = worker.model(parsed.model_args) or ""
    if modes.resource(parsed) != cards.RESOURCE or not _HUB_NAME.match(model):
        return
    found = _planned(model, draft.arguments.argv, draft.version, card)
    if found is not None and all(map(verdict.cannot_fit, _tried(found.plan, parsed.restart))):
        yield errors.MEMORY_REFUSED("spec", card=card.name, verdict=found.verdict.line)


def _tried(plan: EnginePlan, restart: Restart) -> Iterator[EnginePlan]:
    """The plan, and the one that tuning may come to."""
    yield plan
    bounds = restart.auto_tune.mem_fraction_static if restart.auto_tune is not None else None
    if bounds is not None and 0 < bounds.max < 1:
        yield engine.plan(engine.changed(plan.request, mem_fraction_static=bounds.max))


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+\Z")


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
