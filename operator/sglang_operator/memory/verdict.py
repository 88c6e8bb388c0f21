"""Whether an engine fits, by how much, and the one knob to turn.  Pure.

``CHECKS`` are asked in the order in which an engine would fail: at making its layers, at making its
caches, at capturing graphs, at the first long sequence; then what works and is wasteful.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from sglang_operator.engine import schema
from sglang_operator.memory import engine, texts
from sglang_operator.memory.engine import EnginePlan, Request

_FEW = 8  # sequences at once, below which GPUs wait for memory
_ENOUGH = 16
_MOST_RANKS = 64
_TIGHT_RESERVE = 0.6  # of what SGLang would leave
_SPARE = 1.25  # of what graphs and work need
_MOST_SHARE, _LEAST_SHARE = 0.95, 0.05
_GRAPH_BATCHES = (256, 160, 80, 32, 8)
_CHUNKS = (4096, 2048)
_DIGITS = 3
# Twelve engines on one H200 took at most 0.5 GiB more for weights than planned, or less (3.4 %,
# fp8; 0.4 % in bfloat16).  What is free before loading was measured there, and is assumed for other
# cards: a context takes 1.3 GiB of it.
_CLEAR_GIB, _CLEAR_SHARE = 2.0, 0.05


class Outcome(Enum):
    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One argument and the value to give it."""

    name: str
    value: object
    gains: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What there is to say of an engine, the worst first."""

    outcome: Outcome
    reason: str
    margin: float  # GiB that are left over, or lacking
    knob: Knob | None = None

    @property
    def line(self) -> str:
        """One line."""
        said = f"{self.outcome.value}: {self.reason}"
        if self.knob is None:
            lacking = self.outcome is not Outcome.FITS
            return f"{said}; {texts.NO_ONE_KNOB if lacking else texts.NO_KNOB}"
        gains = f" ({self.knob.gains})" if self.knob.gains else ""
        return f"{said}; {texts.SET.format(knob=self.knob)}{gains}"


Check = Callable[[EnginePlan], Verdict | None]


def judge(plan: EnginePlan) -> Verdict:
    """The first check that has something to say, else that all is well."""
    for check in CHECKS:
        found = check(plan)
        if found is not None:
            return found
    return Verdict(outcome=Outcome.FITS, reason=_room(plan), margin=plan.left - plan.needed)


def of_memory(plan: EnginePlan, *, runs: bool = False) -> Verdict | None:
    """What there is to say of memory alone; None: nothing is wrong with it.

    ``runs``: an engine like this one has made its caches and answers: where the plan says that it
    cannot, the plan is wrong, and says nothing.
    """
    found = next((found for check in _MEMORY_CHECKS if (found := check(plan))), None)
    wrong = runs and found is not None and found.outcome is Outcome.DOES_NOT_FIT
    return None if wrong else found


def cannot_fit(plan: EnginePlan) -> bool:
    """Whether the weights alone are too much, by more than plans were ever wrong.

    SGLang ends then, whatever graphs and work need, of which there are estimates alone.
    """
    return plan.available < -(_CLEAR_GIB + _CLEAR_SHARE * plan.weights_gib)


def next_share(plan: EnginePlan, direction: int) -> float | None:
    """The mem_fraction_static with which to go on after a failure for memory; None: none is better.

    ``direction`` 1: its cache was too small, so that it gets a whole context at least.  -1: it ran
    out of memory, so that graphs and work get what they need, and what SGLang would leave.
    """
    tokens = plan.context * plan.cache.cell
    if plan.cache.state_bytes:
        tokens *= 1 + plan.request.settings.state_ratio
    if direction > 0:
        value = min(_most_share(plan), (plan.weights_gib + tokens / engine.GIB) / plan.free)
    else:
        value = min(_most_share(plan), _by_sglang(plan))
        value = max(value, plan.least_share * 1.02)
    value = round(min(_MOST_SHARE, max(_LEAST_SHARE, value)), _DIGITS)
    return value if (value - plan.share) * direction > 0 else None


def _room(plan: EnginePlan) -> str:
    spare = plan.left - plan.needed
    if plan.sequences is None or plan.request.sequence is None:
        return texts.ROOM.format(tokens=_count(plan.pools.tokens), spare=f"{spare:.1f}")
    return texts.ROOM_OF.format(
        tokens=_count(plan.pools.tokens),
        sequences=plan.sequences,
        length=plan.request.sequence.tokens,
        spare=f"{spare:.1f}",
    )


def _count(tokens: int) -> str:
    return f"{tokens / 1e6:.2f} million" if tokens >= 1e6 else f"{tokens:,}".replace(",", " ")


# --- what cannot be made


def _divides(plan: EnginePlan) -> Verdict | None:
    if not plan.impossible:
        return None
    knob = _dividing_ep(plan.request) or _dividing_tp(plan.request)
    reason = texts.CANNOT_DIVIDE.format(what=plan.impossible[0])
    return Verdict(outcome=Outcome.DOES_NOT_FIT, reason=reason, margin=0, knob=knob)


def _dividing_ep(request: Request) -> Knob | None:
    tp = request.settings.division.tp
    for ep in range(min(request.settings.division.ep, tp, _MOST_RANKS), 0, -1):
        if not engine.plan(engine.changed(request, ep=ep)).impossible:
            return Knob(name="ep_size", value=ep) if ep != request.settings.division.ep else None
    return None


def _dividing_tp(request: Request) -> Knob | None:
    """The most GPUs below these that divide it, and the ep that goes with them."""
    asked = request.settings.division.ep
    for tp in range(min(request.settings.division.tp - 1, _MOST_RANKS), 0, -1):
        for ep in (ep for ep in range(min(tp, asked), 0, -1) if tp % ep == 0):
            changed = engine.changed(request, tp=tp, ep=ep)
            found = engine.plan(changed)
            if not found.impossible and found.available > 0:
                gains = "" if ep == asked else texts.WITH_EP.format(ep=ep)
                return replace(_gpus(changed), gains=gains)
    return None


# --- memory


def _weights(plan: EnginePlan) -> Verdict | None:
    """Weights that leave nothing of the static share."""
    if plan.available > 0 and plan.pools.tokens > 0:
        return None
    static = plan.free * plan.share
    reason = texts.WEIGHTS.format(
        weights=f"{plan.weights_gib:.1f}", static=f"{static:.1f}", share=f"{plan.share:.3g}"
    )
    knob = _larger_share(plan) or _more_gpus(plan.request) or _smaller_weights(plan.request)
    return Verdict(outcome=Outcome.DOES_NOT_FIT, reason=reason, margin=plan.available, knob=knob)


def _larger_share(plan: EnginePlan, *, tokens: int = 0) -> Knob | None:
    """A share with which the engine fits and does some work, if there is one below the most."""
    most = _most_share(plan)
    wanted = max(tokens, _wanted_tokens(plan.request))
    bytes_ = wanted * plan.cache.cell
    if plan.cache.state_bytes:
        bytes_ *= 1 + plan.request.settings.state_ratio
    least = (plan.weights_gib + bytes_ / engine.GIB) / plan.free + 0.5 * 10**-_DIGITS
    if plan.share < least <= most:
        value = min(most, max(least, _by_sglang(plan)))
        if value > plan.share:
            return Knob(name="mem_fraction_static", value=round(value, _DIGITS))
    return None


def _most_share(plan: EnginePlan) -> float:
    """The share above which graphs and work find too little."""
    others = plan.table + plan.request.resident_gib
    return min(_MOST_SHARE, 1 - (plan.needed * _SPARE + others) / plan.free)


def _by_sglang(plan: EnginePlan) -> float:
    """What SGLang would choose, less what others keep."""
    card = plan.request.card
    return 1 - plan.reserved_by_sglang / card.gib - plan.request.resident_gib / plan.free


def _wanted_tokens(request: Request) -> int:
    sequence = request.sequence
    return _FEW * sequence.tokens if sequence is not None else 4096


def _more_gpus(request: Request) -> Knob | None:
    """The fewest GPUs of an engine with which it fits, and does some work.

    With the share as it is, so that one knob is enough; else with the one that SGLang chooses.
    """
    found = _fewest(request)
    if found is not None or request.settings.mem_fraction_static is None:
        return found
    other = _fewest(engine.changed(request, mem_fraction_static=None))
    return replace(other, gains=texts.WITHOUT_SHARE) if other is not None else None


def _fewest(request: Request) -> Knob | None:
    ranks = request.settings.division.tp * 2
    while ranks <= _MOST_RANKS:
        changed = engine.changed(request, tp=ranks)
        if _works(engine.plan(changed)):
            return _gpus(changed)
        ranks *= 2
    return None


def _gpus(request: Request) -> Knob:
    """An engine's GPUs, as ROLL's field has them."""
    division = request.settings.division
    return Knob(name="num_gpus_per_worker", value=division.tp * division.pp)


def _works(plan: EnginePlan) -> bool:
    """Whether nothing stands in the way, with room for a few sequences."""
    if plan.impossible or plan.available <= 0 or plan.left < plan.needed:
        return False
    sequences = plan.sequences
    return plan.pools.tokens > _wanted_tokens(plan.request) and (
        sequences is None or sequences >= _FEW
    )


def _smaller_weights(request: Request) -> Knob | None:
    if request.shape.quantization is None and request.settings.quantization is None:
        changed = engine.changed(request, quantization="fp8")
        if _works(engine.plan(changed)):
            return Knob(name="quantization", value="fp8")
    return None


def _graphs(plan: EnginePlan) -> Verdict | None:
    """Too little outside of the share: the engine dies when it captures graphs, or at work."""
    lacking = plan.needed - plan.left
    if lacking <= 0:
        return None
    others = plan.request.resident_gib
    text = texts.RESIDENT if others else texts.OUT_OF_MEMORY
    reason = text.format(
        left=f"{max(0.0, plan.left):.1f}",
        needed=f"{plan.needed:.1f}",
        share=f"{plan.share:.3g}",
        others=f"{others:.1f}",
    )
    knob = _shorter_table(plan) or _smaller_share(plan)
    knob = knob or _fewer_graphs(plan.request) or _more_gpus(plan.request)
    if knob is None and others:
        knob = Knob(name="device_mapping", value=texts.OWN_GPUS)
    return Verdict(outcome=Outcome.DOES_NOT_FIT, reason=reason, margin=-lacking, knob=knob)


def _shorter_table(plan: EnginePlan) -> Knob | None:
    """A context no longer than sequences get costs nothing, and the table of requests shrinks."""
    wanted = plan.request.sequence
    if wanted is None:
        return None
    length = -(-wanted.tokens // 1024) * 1024
    if length >= plan.context:
        return None
    found = engine.plan(engine.changed(plan.request, context_length=length))
    if found.left < found.needed:
        return None
    return Knob(name="context_length", value=length)


def _smaller_share(plan: EnginePlan) -> Knob | None:
    most = max(_LEAST_SHARE, _most_share(plan))
    value = min(most, max(_by_sglang(plan), plan.least_share * 1.02))
    value = int(value * 100) / 100
    if value >= plan.share or value <= plan.least_share:
        return None
    found = engine.plan(engine.changed(plan.request, mem_fraction_static=value))
    if _works(found) or (found.pools.tokens > 0 and found.left >= found.needed):
        return Knob(name="mem_fraction_static", value=value)
    return None


def _fewer_graphs(request: Request) -> Knob | None:
    now = engine.plan(request)
    for batch in _GRAPH_BATCHES:
        found = engine.plan(engine.changed(request, graph_batch=batch))
        if found.needed < now.needed and found.left >= found.needed:
            return Knob(name=_name(request, "cuda_graph_max_bs"), value=batch)
    for chunk in _CHUNKS:
        found = engine.plan(engine.changed(request, chunked_prefill_size=chunk))
        if found.needed < now.needed and found.left >= found.needed:
            return Knob(name="chunked_prefill_size", value=chunk)
    return None


def _name(request: Request, name: str) -> str:
    """An argument's name in the version at hand: since 0.5.20 graphs have one for each phase."""
    return name if schema.nearest(request.version).key(name) else f"{name}_decode"


# --- sequences


def _context(plan: EnginePlan) -> Verdict | None:
    """A sequence that is longer than the engine takes."""
    wanted = plan.request.sequence
    if wanted is None or wanted.tokens <= plan.context:
        return None
    reason = texts.BEYOND_CONTEXT.format(length=wanted.tokens, context=plan.context)
    within = wanted.tokens <= plan.request.shape.context
    if within:
        knob = Knob(name="context_length", value=wanted.tokens)
    else:
        knob = Knob(name="response_length", value=max(1, plan.context - wanted.prompt))
    return Verdict(outcome=Outcome.DOES_NOT_FIT, reason=reason, margin=0, knob=knob)


def _beyond_model(plan: EnginePlan) -> Verdict | None:
    """A context that SGLang refuses, because the model was made for less."""
    asked, own = plan.request.settings.context_length, plan.request.shape.context
    if asked is None or asked <= own:
        return None
    reason = texts.BEYOND_MODEL.format(asked=asked, context=own)
    knob = Knob(name="context_length", value=own)
    return Verdict(outcome=Outcome.DOES_NOT_FIT, reason=reason, margin=0, knob=knob)


def _one_sequence(plan: EnginePlan) -> Verdict | None:
    """A sequence that is longer than all of the cache."""
    wanted = plan.request.sequence
    if wanted is None or plan.pools.tokens >= wanted.tokens:
        return None
    reason = texts.BEYOND_CACHE.format(
        length=wanted.tokens, tokens=_count(plan.pools.tokens), share=f"{plan.share:.3g}"
    )
    lacking = (wanted.tokens - plan.pools.tokens) * plan.cache.cell / engine.GIB
    return Verdict(
        outcome=Outcome.DOES_NOT_FIT, reason=reason, margin=-lacking, knob=_more_tokens(plan)
    )


def _more_tokens(plan: EnginePlan) -> Knob | None:
    """What makes room for tokens: the share, a smaller cache, more GPUs."""
    request = plan.request
    found = _larger_share(plan)
    if found is not None:
        return found
    if request.settings.kv_cache_dtype in ("auto", "bf16", "bfloat16"):
        changed = engine.changed(request, kv_cache_dtype="fp8_e4m3")
        if _works(engine.plan(changed)):
            return Knob(name="kv_cache_dtype", value="fp8_e4m3")
    return _more_gpus(request) or _smaller_weights(request)


def _few_sequences(plan: EnginePlan) -> Verdict | None:
    """Long sequences, of which only few fit at once."""
    wanted, sequences = plan.request.sequence, plan.sequences
    if wanted is None or sequences is None or sequences >= _FEW:
        return None
    asked = plan.request.settings.max_running_requests
    if asked is not None and asked < _FEW:
        return None
    reason = texts.FEW.format(sequences=sequences, length=wanted.tokens)
    knob = _slots(plan) or _more_tokens(plan)
    return Verdict(outcome=Outcome.TIGHT, reason=reason, margin=plan.left - plan.needed, knob=knob)


def _slots(plan: EnginePlan) -> Knob | None:
    """More states for sequences, where these are what lacks and not tokens."""
    wanted = plan.request.sequence
    if not plan.cache.state_bytes or wanted is None:
        return None
    if plan.pools.tokens // wanted.tokens <= plan.pools.state_slots // plan.cache.slots:
        return None
    if plan.request.settings.state_slots is not None:
        return Knob(name="max_mamba_cache_size", value=_ENOUGH * plan.cache.slots)
    return Knob(name="mamba_full_memory_ratio", value=plan.request.settings.state_ratio * 2)


def _long_context(plan: EnginePlan) -> Verdict | None:
    """Without a known length: SGLang takes requests that its cache cannot hold."""
    if plan.request.sequence is not None or plan.pools.tokens >= plan.context:
        return None
    reason = texts.CONTEXT_BEYOND.format(context=plan.context, tokens=_count(plan.pools.tokens))
    return Verdict(
        outcome=Outcome.TIGHT,
        reason=reason,
        margin=plan.left - plan.needed,
        knob=Knob(name="context_length", value=plan.pools.tokens // 1024 * 1024),
    )


# --- what works, and is wasteful


def _tight(plan: EnginePlan) -> Verdict | None:
    """Less outside of the share than SGLang would leave by far."""
    if plan.left >= min(_TIGHT_RESERVE * plan.reserved_by_sglang, plan.needed * 2):
        return None
    reason = texts.TIGHT.format(left=f"{plan.left:.1f}", reserve=f"{plan.reserved_by_sglang:.1f}")
    value = int(max(_by_sglang(plan), plan.least_share * 1.02) * 100) / 100
    knob = Knob(name="mem_fraction_static", value=value) if value < plan.share else None
    return Verdict(outcome=Outcome.TIGHT, reason=reason, margin=plan.left - plan.needed, knob=knob)


def _copied_heads(plan: EnginePlan) -> Verdict | None:
    """More GPUs than heads of keys and values: each keeps copies of what others have too."""
    kv_heads = getattr(plan.request.shape.attention, "kv_heads", 0)
    tp = plan.request.settings.division.attention_tp
    if not kv_heads or tp <= kv_heads:
        return None
    changed = engine.changed(plan.request, tp=kv_heads, ep=min(kv_heads, _ep(plan)))
    reason = texts.COPIED.format(tp=tp, heads=kv_heads, copies=tp // kv_heads)
    if _works(engine.plan(changed)):
        knob = _gpus(changed)
    else:
        knob = Knob(name="enable_dp_attention", value=f"true, dp_size {tp // kv_heads}")
    return Verdict(outcome=Outcome.TIGHT, reason=reason, margin=plan.left - plan.needed, knob=knob)


def _ep(plan: EnginePlan) -> int:
    return plan.request.settings.division.ep


def _room_for_more(plan: EnginePlan) -> Verdict | None:
    """A share that leaves far more outside than SGLang would."""
    if not plan.share_given or plan.request.resident_gib:
        return None
    value = round(_by_sglang(plan), 2)
    if value < plan.share + 0.05:
        return None
    more = engine.plan(engine.changed(plan.request, mem_fraction_static=value)).pools.tokens
    gains = texts.MORE_TOKENS.format(percent=round(100 * (more / max(1, plan.pools.tokens) - 1)))
    return Verdict(
        outcome=Outcome.FITS,
        reason=_room(plan),
        margin=plan.left - plan.needed,
        knob=Knob(name="mem_fraction_static", value=value, gains=gains),
    )


CHECKS: tuple[Check, ...] = (
    _divides,
    _weights,
    _graphs,
    _beyond_model,
    _context,
    _one_sequence,
    _few_sequences,
    _long_context,
    _tight,
    _copied_heads,
    _room_for_more,
)
_MEMORY_CHECKS: tuple[Check, ...] = (_weights, _graphs, _long_context, _tight)
