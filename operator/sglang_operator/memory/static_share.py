"""``mem_fraction_static`` as SGLang chooses it, by version, card and arguments.

The share is of the memory that was free before weights are loaded, and holds weights and caches;
what is not in it is left for graphs and for the work itself.
"""

from dataclasses import dataclass

from sglang_operator.memory.cards import Card
from sglang_operator.memory.rules import PrefillGraphs, Rules, ShareBy
from sglang_operator.memory.settings import Settings
from sglang_operator.memory.shape import Shape, Tower

_DIGITS = 3
_FLOOR_MIB = 10 * 1024  # of the reserve, on cards of more than 60 GiB


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What SGLang takes for a card where nobody says otherwise."""

    chunk: int  # tokens of a prefill
    graph_batch: int  # sequences of the largest graph of decoding
    prefill_sizes: int  # graphs of prefill


def defaults(rules: Rules, card: Card, shape: Shape, settings: Settings) -> Defaults:
    """The sizes that its reserve depends on."""
    chunk, batch = _by_card(rules, card.mib, settings.division.tp)
    chunk = settings.chunked_prefill_size or chunk
    if chunk < 0:
        chunk = settings.max_prefill_tokens
    requests = settings.max_running_requests
    if rules.graphs_follow_requests and requests is not None:
        batch = min(batch, requests)
    return Defaults(
        chunk=chunk,
        graph_batch=settings.graph_batch or batch,
        prefill_sizes=_prefill_sizes(rules, shape, settings, chunk),
    )


def _by_card(rules: Rules, mib: int, tp: int) -> tuple[int, int]:
    """Tokens of a prefill, sequences of a graph."""
    if rules.share is not ShareBy.FORMULA:
        return _by_card_before(rules, mib, tp)
    if mib < 20 * 1024:
        return 2048, 8
    if mib < 35 * 1024:
        chunk, few, many = rules.small_card
        return chunk, few if tp < 4 else many
    if mib < 60 * 1024:
        return 4096, 32 if tp < 4 else 160
    if mib < 160 * 1024:
        return 8192, 256 if tp < 4 else 512
    return 16384, 512


def _by_card_before(rules: Rules, mib: int, tp: int) -> tuple[int, int]:
    if rules.share is ShareBy.TABLE:
        few = mib < 25_000
        return (2048 if few else 8192), (8 if few and tp < 4 else 80 if few else 160)
    if mib < 35 * 1024:
        return 2048, 8 if tp < 4 else 80
    return (8192 if mib < 160 * 1024 else 16384), 160


def _prefill_sizes(rules: Rules, shape: Shape, settings: Settings, chunk: int) -> int:
    """How many graphs of prefill there are."""
    if not _has_prefill_graphs(rules, shape, settings):
        return 0
    most = chunk
    if shape.latent is not None and rules.latent_prefill_tokens is not None:
        most = min(rules.latent_prefill_tokens, chunk)
    most = settings.prefill_graph_tokens or most
    for bound in (settings.max_total_tokens, settings.context_length):
        most = min(most, bound or most)
    steps = ((4, 33, 4), (48, 257, 16), (288, 513, 32), (576, 1025, 64), (1280, 4097, 256))
    last = (4608, most + 1, 512)
    # Counted without a list of them: how many a user asks for has no bound.
    return sum(len(range(first, min(end, most + 1), step)) for first, end, step in (*steps, last))


def _has_prefill_graphs(rules: Rules, shape: Shape, settings: Settings) -> bool:
    if not settings.prefill_graphs or rules.prefill_graphs is PrefillGraphs.NONE:
        return False
    if rules.prefill_graphs is not PrefillGraphs.SIZES:
        return settings.prefill_graphs_asked
    # server_args.py of 0.5.14, _disable_tc_piecewise_cudagraph_if_incompatible.
    division = settings.division
    return not (
        shape.architecture == "Qwen3NextForCausalLM"
        or shape.tower is not None
        or division.attention_dp > 1
        or division.pp > 1
        or settings.deepep
        or settings.offload_gb > 0
        or settings.hicache_ratio is not None
    )


def chosen(rules: Rules, card: Card, shape: Shape, settings: Settings) -> float:
    """The share where nobody gives one."""
    if rules.share is ShareBy.TABLE:
        return _by_table(card.mib, settings.division.tp * settings.division.pp)
    reserve = reserved_mib(rules, card, shape, settings)
    share = round((card.mib - reserve) / card.mib, _DIGITS)
    return share * _of_tower(shape.tower) if shape.tower is not None else share


def _by_table(mib: int, ranks: int) -> float:
    share = 0.88
    if mib <= 81920:
        steps = ((16, 0.79), (8, 0.81), (4, 0.85), (2, 0.87))
        share = next((found for least, found in steps if ranks >= least), share)
    if mib > 96 * 1024:
        share = min(share + 48 * 1024 * (1 - share) / mib, (mib - 18 * 1024) / mib)
    return share


def reserved_mib(rules: Rules, card: Card, shape: Shape, settings: Settings) -> float:
    """What SGLang leaves for graphs and work, where it chooses."""
    if rules.share is ShareBy.TABLE:
        ranks = settings.division.tp * settings.division.pp
        return card.mib * (1 - _by_table(card.mib, ranks))
    if rules.share is ShareBy.CARD:
        return _by_size(rules, card, settings)
    return _by_formula(rules, card, shape, settings)


def _by_size(rules: Rules, card: Card, settings: Settings) -> float:
    ranks = settings.division.tp * settings.division.pp
    gib: float
    if card.mib < 35 * 1024:
        gib = 2.8 + ranks / 10
    elif card.mib < 90 * 1024:
        gib = 9.5 + ranks / 2
    elif card.mib < 160 * 1024:
        gib = 12 + ranks / 2
    else:
        gib = 32
    more = 4 * 1024 if settings.division.attention_dp > 1 else 0
    return gib * 1024 + more + _draft(rules, settings)


def _draft(rules: Rules, settings: Settings) -> int:
    if settings.speculative is None:
        return 0
    alone, other = rules.draft_mib
    if settings.speculative == "STANDALONE":
        return alone
    return 0 if settings.speculative == "NGRAM" and rules.share is ShareBy.FORMULA else other


def _by_formula(rules: Rules, card: Card, shape: Shape, settings: Settings) -> float:
    found = defaults(rules, card, shape, settings)
    division = settings.division
    reserve: float = 512 + 1.5 * max(found.chunk, 2048)
    reserve += division.tp * division.pp / 8 * 1024
    if settings.graphs or rules.disabled_graphs_reserve:
        reserve += 2 * found.graph_batch
    if division.attention_dp > 1:
        reserve += 3 * found.graph_batch * division.attention_dp
        if found.graph_batch > 300:
            reserve += 1.5 * found.graph_batch * division.attention_dp
    graphs = _graphs_of_prefill(rules, shape, settings, found)
    # Up to 0.5.7 what graphs of prefill and the draft take comes on top of the floor.
    floor = _FLOOR_MIB if card.mib > 60 * 1024 else 0
    on_top = rules.prefill_graphs in (PrefillGraphs.QUARTER, PrefillGraphs.EIGHTH)
    reserve = max(reserve, floor) + graphs if on_top else max(reserve + graphs, floor)
    deepep = rules.deepep_mib if settings.deepep and settings.graphs else 0
    return reserve + _draft(rules, settings) + deepep


def _graphs_of_prefill(rules: Rules, shape: Shape, settings: Settings, found: Defaults) -> float:
    if found.prefill_sizes == 0:
        return 0
    tokens = settings.prefill_graph_tokens or found.chunk
    match rules.prefill_graphs:
        case PrefillGraphs.QUARTER:
            return tokens // 4
        case PrefillGraphs.EIGHTH:
            return tokens // 8
        case PrefillGraphs.SIZES if shape.latent is not None:
            return 1.5 * 1024
    return 8 * found.prefill_sizes


def _of_tower(tower: Tower) -> float:
    """The part of the share that a model keeps which reads images (adjust_mem_fraction_for_vlm)."""
    layers = 24 if tower.layers is None else tower.layers
    hidden = 1024 if tower.hidden is None else tower.hidden
    ratio = layers * hidden**2 / (24 * 1024**2)
    return 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (ratio - 1.0)))
