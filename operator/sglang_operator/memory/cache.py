"""Caches of keys and values, and states: their bytes, and how many tokens fit.

``cell`` is what SGLang divides the memory that is left by (``_compute_cell_size`` in
``model_executor/pool_configurator.py`` of 0.5.14, ``profile_max_num_token`` before).
"""

from dataclasses import dataclass

from sglang_operator.memory.rules import Rules
from sglang_operator.memory.settings import Settings
from sglang_operator.memory.shape import Heads, Latent, Shape, Window

_SCALE_BLOCK = 16  # of fp4
_INDEX_BLOCK = 128  # of the indexer's keys: a scale of 4 bytes each
_CONV_BYTES = 2
_SPARSE_PAGE = 64

_SIZES = {"bfloat16": 2.0, "bf16": 2.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "fp4_e2m1": 1.0}
FP4, FP8 = "fp4_e2m1", "fp8_e4m3"


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What is kept of sequences on one GPU."""

    cell: float  # bytes that a token of the pool takes, those of window layers included
    window_tokens_ratio: float  # tokens of the window layers' pool for each token; 0: no such
    state_bytes: int  # of a slot of state; 0: the model has no states
    slots: int  # of state for each sequence that runs


def of(rules: Rules, shape: Shape, settings: Settings, dtype: str, *, raw: bool = False) -> Cache:
    """The cache of this model, kept as ``dtype``.

    ``raw``: sparse attention keeps it without scales, as its kernels of Blackwell do.
    """
    size = _SIZES.get(dtype, float(shape.dtype_bytes))
    tp, pp = settings.division.attention_tp, settings.division.pp
    layers = -(-shape.cached_layers // pp)
    scaled = rules.sparse_layout and not raw and dtype == FP8
    cell = _per_token(rules, shape, tp, size, dtype, scaled=scaled) * layers
    ratio = 0.0
    if shape.window is not None:
        ratio = settings.window_ratio
        cell += ratio * _of_window(shape.window, tp, size) * -(-shape.window.layers // pp)
    if rules.counts_draft_cache and settings.drafts and shape.cached_layers:
        cell = int(cell * (1 + max(1, shape.next_token_layers) / shape.cached_layers))
    return Cache(
        cell=cell,
        window_tokens_ratio=ratio,
        state_bytes=state_bytes(shape, tp),
        slots=_slots(rules, settings),
    )


def _per_token(
    rules: Rules, shape: Shape, tp: int, size: float, dtype: str, *, scaled: bool
) -> float:
    """Bytes of a token in one layer."""
    fp4 = dtype == FP4 and rules.fp4_cache
    if isinstance(shape.attention, Latent):
        return _of_latent(rules, shape.attention, size, fp4=fp4, scaled=scaled)
    return _of_heads(rules, shape.attention, tp, size, fp4=fp4)


def _of_heads(rules: Rules, attention: Heads, tp: int, size: float, *, fp4: bool) -> float:
    kv_heads = max(1, attention.kv_heads // tp)
    v_dim = attention.v_head_dim if rules.v_head_dim else attention.head_dim
    whole = kv_heads * (attention.head_dim + v_dim) * size
    if not fp4:
        return whole
    return whole / 2 + kv_heads * attention.head_dim * 2 * size / _SCALE_BLOCK


def _of_latent(rules: Rules, latent: Latent, size: float, *, fp4: bool, scaled: bool) -> float:
    """Not divided by tp: every GPU keeps the same."""
    width = latent.kv_rank + latent.rope_dim
    whole = width * size
    if scaled and latent.index_dim:
        whole = latent.kv_rank + latent.kv_rank // _INDEX_BLOCK * 4 + 2 * latent.rope_dim
    if fp4:
        whole = whole / 2 + width // _SCALE_BLOCK * size
    if latent.index_dim and rules.sparse_index:
        whole += latent.index_dim + latent.index_dim // _INDEX_BLOCK * 4
    return whole


def _of_window(window: Window, tp: int, size: float) -> float:
    return max(1, window.kv_heads // tp) * (window.head_dim + window.v_head_dim) * size


def state_bytes(shape: Shape, tp: int) -> int:
    """Of one sequence, in all layers (``configs/mamba_utils.py``)."""
    linear = shape.linear
    if linear is None:
        return 0
    keys = linear.key_heads + (0 if linear.key_heads % tp == 0 else tp - linear.key_heads)
    width = linear.value_dim * linear.value_heads + 2 * keys * linear.key_dim
    conv = width // tp * (linear.kernel - 1)
    state = linear.value_heads // tp * linear.value_dim * linear.key_dim
    return (conv * _CONV_BYTES + state * linear.state_bytes) * linear.layers


def _slots(rules: Rules, settings: Settings) -> int:
    """Of state that a sequence which runs takes."""
    if not settings.radix_cache:
        return 1
    base, overlapped = rules.state_slots
    return base + (overlapped if settings.overlap else 0)


def page(shape: Shape, settings: Settings) -> int:
    """Tokens of a page; sparse attention has its own (``server_args.py`` of 0.5.14)."""
    sparse = shape.latent is not None and shape.latent.index_dim
    return _SPARSE_PAGE if sparse else settings.page_size


def dtype(shape: Shape, settings: Settings, capability: int) -> str:
    """How the cache is kept: sparse attention takes fp8 on Blackwell."""
    given = settings.kv_cache_dtype
    sparse = shape.latent is not None and shape.latent.index_dim
    if given == "auto" and sparse and capability >= 10:
        return FP8
    return given


@dataclass(frozen=True, kw_only=True)
class Pools:
    """What fits into the memory that is left for caches."""

    tokens: int
    window_tokens: int  # 0: no such pool
    state_slots: int
    state_gib: float
    cache_gib: float


def fit(
    rules: Rules, cache: Cache, settings: Settings, available: float, page_tokens: int
) -> Pools:
    """The pools that SGLang makes of so many bytes; of less than nothing, none."""
    slots = _state_slots(rules, cache, settings, available)
    states = slots * cache.state_bytes
    draft_states = 0.0
    if cache.state_bytes and settings.speculative and settings.max_running_requests:
        draft_states = (
            min(settings.max_running_requests, slots // max(1, cache.slots))
            * cache.state_bytes
            * (settings.draft_tokens or 1)
        )
    rest = max(0.0, available - states - draft_states)
    tokens = int(rest // cache.cell) if cache.cell else 0
    if settings.max_total_tokens is not None:
        tokens = min(tokens, settings.max_total_tokens)
    tokens = tokens // page_tokens * page_tokens
    window = int(tokens * cache.window_tokens_ratio) // page_tokens * page_tokens
    return Pools(
        tokens=tokens,
        window_tokens=window,
        state_slots=slots,
        state_gib=(states + draft_states) / 2**30,
        cache_gib=tokens * cache.cell / 2**30,
    )


def _state_slots(rules: Rules, cache: Cache, settings: Settings, available: float) -> int:
    if not cache.state_bytes:
        return 0
    replicas = settings.division.attention_dp
    late = rules.state_slots_late and settings.radix_cache
    if settings.state_slots is not None and not late:
        return settings.state_slots // replicas
    requests = settings.max_running_requests
    if not rules.state_share or not settings.radix_cache:
        return (requests if requests is not None else 512) // replicas
    share = settings.state_ratio / (1 + settings.state_ratio)
    each: float = cache.state_bytes
    if settings.speculative:
        each = each * (1 + (settings.draft_tokens or 1) / cache.slots)
    return max(0, int(available * share // each))
