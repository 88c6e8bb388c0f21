"""How the weights of a pool stand, in a number and a condition.  Pure."""

from collections.abc import Sequence

from sglang_operator.api import conditions, redaction, spec, texts
from sglang_operator.api.conditions import Condition
from sglang_operator.gates import standing
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import Phase, Transaction

_NAMED = 4  # engines in a message, at most


def count(pool: Pool, weights: GatePlan, in_service: int) -> int:
    """SYNCED: engines whose gate is open; without a gate, those that serve."""
    if pool.gated:
        return weights.synced
    apart = standing.apart(weights.engines, weights.transaction)
    return in_service - sum(engine.in_service for engine in apart)


def summary(pool: Pool, weights: GatePlan, desired: int, in_service: int) -> str:
    """The column SYNCED.  Engines that a trainer keeps out of service are told beside the rest."""
    told = f"{count(pool, weights, in_service)}/{desired}"
    apart = len(standing.apart(weights.engines, weights.transaction))
    return texts.SYNCED_BESIDE.format(synced=told, asleep=apart) if apart else told


def condition(pool: Pool, weights: GatePlan, desired: int, in_service: int) -> Condition:
    """The condition WeightsSynced of a pool with so many engines."""
    synced = count(pool, weights, in_service)
    current = weights.transaction
    other = weights.unguarded if pool.gated else weights.kept_away
    apart = standing.apart(weights.engines, current)
    if other and pool.gated:
        status, reason = conditions.FALSE, conditions.ENGINES_WITHOUT_GATE
        text = texts.WITHOUT_GATE
    elif apart and synced and synced + len(apart) == desired:
        # Each training step of such a trainer comes by here: it is as the trainer wants it.
        status, reason, text = conditions.TRUE, conditions.PART_ASLEEP, texts.PART_ASLEEP
    elif current.phase is Phase.SLEEPING and not current.released:
        status, (reason, text) = conditions.FALSE, _nothing_released(pool, current)
    elif current.version and current.memory_lost and pool.gated:
        status, reason = conditions.FALSE, conditions.WEIGHTS_RELEASED
        known = current.phase is Phase.SLEEPING and not current.releases
        text = texts.WEIGHTS_RELEASED if known else texts.WEIGHTS_GONE
    elif current.phase is Phase.SLEEPING:
        status, reason = conditions.FALSE, conditions.ASLEEP
        text = texts.ASLEEP_SOON if current.releases else texts.ASLEEP
    elif pool.gate is spec.WeightsGate.OFF:
        text = texts.GATE_OFF_LATER if other else texts.GATE_OFF
        status, reason = conditions.TRUE, conditions.GATE_OFF
    elif desired and synced == desired:
        status, reason, text = conditions.TRUE, conditions.SYNCED, texts.SYNCED
    elif current.phase is Phase.ABORTED:
        status, reason, text = conditions.FALSE, conditions.SYNC_ABORTED, texts.SYNC_ABORTED
    elif pool.gate is spec.WeightsGate.VERSIONED and desired:
        status, reason, text = conditions.FALSE, conditions.WAITING_FOR_VERSION, texts.UNVERSIONED
    elif desired and weights.holding == desired:
        status, reason, text = conditions.FALSE, conditions.GATES_OPENING, texts.GATES_OPENING
    else:
        reason = conditions.WAITING_FOR_TRAINER if desired else conditions.NO_ENGINES
        left = _left_out(weights)
        status, text = conditions.FALSE, texts.LEFT_OUT if left else texts.WAITING_FOR_TRAINER
    return Condition(
        type=conditions.WEIGHTS_SYNCED,
        status=status,
        reason=reason,
        message=_beside(weights)
        + text.format(
            synced=synced,
            holding=weights.holding,
            covered=weights.covered,
            left=_left_out(weights),
            gate=pool.gate.value,
            other=_named(other),
            others=len(other),
            released=" and ".join(current.released) or "GPU",
            desired=desired,
            apart=_named(apart),
            message=redaction.in_words(current.message),
            phase=current.phase.value,
        ),
    )


def _nothing_released(pool: Pool, current: Transaction) -> tuple[str, str]:
    """Reason and words for a sleep that came to nothing: gates are closed, and all have memory."""
    if current.intact or not pool.gated:
        return conditions.ASLEEP, texts.NOT_ASLEEP
    return conditions.WAITING_FOR_TRAINER, texts.NOT_ASLEEP_NOR_WHOLE


def _beside(weights: GatePlan) -> str:
    """What is in every trainer's way, or goes otherwise than the Lease seems to say, first."""
    current = weights.transaction
    unclear = [e for e in (*weights.engines, *weights.unlisted) if e.instance in current.unclear]
    told = list[str]()
    if unclear:
        shown = [each.pod_name for each in unclear if each.pod_name]
        pods = " ".join(shown[:_NAMED]) + (" …" if len(shown) > _NAMED else "")
        told.append(texts.MEMORY_UNCLEAR.format(pods=pods))
    if current.edited_duration and (current.holder or current.vacant):
        seconds, said = int(current.duration), int(current.edited_duration)
        told.append(texts.LEASE_SHORTENED.format(seconds=seconds, said=said))
    return "".join(f"{each}; " for each in told)


def _left_out(weights: GatePlan) -> str:
    """The engines that run and that the last commit did not cover, if there was one."""
    covered = weights.transaction.instances
    left = [e for e in weights.engines if covered and e.instance and e.instance not in covered]
    return _named(left)


def _named(engines: Sequence[EngineStatus]) -> str:
    named = [f"engine {each.rank} ({each.name})" for each in engines[:_NAMED]]
    more = f" and {len(engines) - _NAMED} more" if len(engines) > _NAMED else ""
    return ", ".join(named) + more
