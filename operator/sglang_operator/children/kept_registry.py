"""The registry of a pool whose spec is refused: its engines run on, and their trainer with them.

Who the engines are stays as the spec was last understood: none is made or replaced meanwhile.  What
becomes of those that run, and of a trainer's steps, is told as ever.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sglang_operator.api import names, spec
from sglang_operator.children import trainer_registry
from sglang_operator.children.last_known import LastKnown, told_port
from sglang_operator.gates.decide import epoch
from sglang_operator.observed import groups, health
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import Observed
from sglang_operator.pool.resolve import Engine

MOST_ENGINES = 10_000  # of a registry that is kept; a pool's own has room for fewer
_LONGEST = 253  # characters of a name
_OF_SPEC = ("keepImages", "noSync", "turns")  # what stays as it was told of the weights


def kept(known: LastKnown) -> dict[str, Any] | None:
    """The registry that is there, as its engines, their gates and weights stand now.

    None where none says who the engines are: somebody else may have written it.
    """
    told, observed = known.registry, known.observed
    try:
        engines, weights = _engines(told["engines"], observed, known.now), told["weights"]
        content = {
            **told,
            "epoch": epoch(engines),
            "weights": {
                **{key: weights[key] for key in ("gate", "lease")},
                **trainer_registry.acted_upon(known.weights, engines),
                **_by_weights(known, engines, turns=weights.get("turns") is True),
                **trainer_registry.contended(known.weights),
                **{key: weights[key] for key in _OF_SPEC if key in weights},
            },
            "engines": [
                {
                    **{k: v for k, v in each.items() if k != trainer_registry.RUNS_IN_PART},
                    **trainer_registry.standing(
                        engine, _port(told, engine, observed), gated=each["gate"] is not None
                    ),
                }
                for each, engine in zip(told["engines"], engines, strict=True)
            ],
        }
        beside = _still(told.get("unlisted", ()), observed)
        told_of = {e["pod"] for e in (*content["engines"], *beside) if e["instance"]}
        hidden = [pod for pod in known.weights.hidden if pod not in told_of]
        named = hidden[: trainer_registry.MOST_NAMED]
        untold = [each for each in known.weights.holders if each.pod not in told_of]
        in_turns = weights.get("turns") is True
        held = trainer_registry.holding(untold if in_turns else []).get(trainer_registry.HOLDERS)
        found_by = {"unlisted": beside, "hidden": named, trainer_registry.HOLDERS: held}
        for key, found in found_by.items():
            content.pop(key, None)
            if found:
                content[key] = found
        return trainer_registry.config_map(known.owner, content)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _by_weights(
    known: LastKnown, engines: Sequence[EngineStatus], *, turns: bool
) -> dict[str, list[list[int]]]:
    """None is made meanwhile, in whosever turn; it is told where engines have theirs."""
    found = trainer_registry.by_weights(known.weights, engines)
    return {key: ranks for key, ranks in found.items() if turns or key != "waits"}


def _engines(
    told: Sequence[Mapping[str, Any]], observed: Observed, now: float
) -> tuple[EngineStatus, ...]:
    """How the engines stand that it names.  Raises ValueError, KeyError, TypeError."""
    if len(told) > MOST_ENGINES:
        raise ValueError
    nodes = health.believed(observed, now)
    there = {group.first.name: group for group in groups.of(observed.pods)}
    return tuple(
        _status(_engine(rank, each), there.get(each["pod"] or ""), nodes, now)
        for rank, each in enumerate(told)
    )


def _engine(rank: int, told: Mapping[str, Any]) -> Engine:
    match told:
        case {"rank": int(found), "engine": str(name), "devices": [*devices], "pod": str() | None}:
            if found == rank and len(name) <= _LONGEST and all(type(d) is int for d in devices):
                return Engine(rank=rank, name=names.EngineName(name), devices=tuple(devices))
    raise ValueError


def _status(
    engine: Engine, group: Group | None, nodes: health.Believed, now: float
) -> EngineStatus:
    if group is None or group.engine != engine.name or group.ended:
        return EngineStatus(engine=engine, state=EngineState.BACKOFF)
    stands = [health.health(pod, nodes, spec.Restart(), now) for pod in group.members]
    return groups.status(engine, group, stands)


def _port(told: Mapping[str, Any], engine: EngineStatus, observed: Observed) -> int:
    """Where the engine listens, as it was started."""
    known = observed.revisions.get(engine.revision)
    return known.port if known is not None else told_port(told)


def _still(told: Sequence[Mapping[str, Any]], observed: Observed) -> list[Mapping[str, Any]]:
    """Those of the engines beside the pool's own that run on, in sight or not."""
    there = (g for g in groups.of(observed.all_pods) if g.runs or g.out_of_sight)
    running = {(group.first.name, group.last_instance) for group in there}
    return [each for each in told if (each["pod"], each["instance"]) in running]
