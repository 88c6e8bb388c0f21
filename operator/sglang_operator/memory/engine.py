"""One engine on one kind of GPU: what it takes, what is left, how much work fits.  Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sglang_operator.engine import versions
from sglang_operator.memory import cache, rules, static_share, texts, weights
from sglang_operator.memory.cards import Card
from sglang_operator.memory.settings import Settings
from sglang_operator.memory.shape import Experts, Quantization, Shape

GIB = 2**30
_MIB = 2**20
# At start SGLang makes a table of where the tokens of each request are.
_LEAST_REQUESTS, _MOST_REQUESTS = 2048, 4096
_TABLE_BYTES = 4
_FREE_LIST_BYTES = 8  # of a token
# Measured on one H200 with graphs on: 1.06 GiB for 58 sizes of prefill, 0.38 GiB for decoding.
_PREFILL_GRAPH_MIB = 19
_DECODE_GRAPH_MIB = 1.5
_WORKSPACE_MIB = 512  # of attention, and what libraries keep
_ONLINE = {"fp8": "fp8", "w8a8_fp8": "fp8", "modelopt_fp8": "fp8", "modelopt": "fp8",
           "modelopt_fp4": "fp4", "awq": "awq", "awq_marlin": "awq", "gptq": "gptq",
           "gptq_marlin": "gptq", "mxfp4": "mxfp4", "w8a8_int8": "w8a8_int8"}  # fmt: skip


_DTYPES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """How long a sequence may get."""

    prompt: int
    response: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.response


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be planned."""

    shape: Shape
    card: Card
    version: versions.Version
    settings: Settings
    sequence: Sequence | None = None
    resident_gib: float = 0.0  # that others keep on the same GPU while this engine runs


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """What an engine takes of each of its GPUs, in GiB."""

    request: Request
    free: float  # before loading
    share: float  # mem_fraction_static
    share_given: bool
    weights: weights.Weights
    pools: cache.Pools
    cache: cache.Cache
    context: int
    max_running: int
    left: float  # outside of the static share, without the table of requests and what others keep
    table: float  # of requests
    needed: float  # of what is left: graphs and work
    graphs: float  # of that
    reserved_by_sglang: float
    impossible: tuple[str, ...]  # sizes that do not divide

    @property
    def weights_gib(self) -> float:
        """Of the GPU, without what is offloaded to the host."""
        return _on_gpu(self.weights, self.request.settings)

    @property
    def free_after(self) -> float:
        return self.free - self.weights_gib

    @property
    def available(self) -> float:
        """For caches; below 0: the weights alone do not fit into the static share."""
        return self.free_after + self.later - self.free * (1 - self.share)

    @property
    def later(self) -> float:
        """Weights of a draft that is loaded after the caches are made: before 0.5.14."""
        counted = rules.of(self.request.version).counts_draft_cache
        return 0.0 if counted else self.weights.draft / GIB

    @property
    def least_share(self) -> float:
        """The share at which the first token fits."""
        return (self.weights_gib - self.later) / self.free if self.free else 1.0

    @property
    def sequences(self) -> int | None:
        """That fit into the engine at their full length; None: their length is not known."""
        wanted = self.request.sequence
        if wanted is None:
            return None
        fit = self.pools.tokens // wanted.tokens
        if self.pools.window_tokens and self.request.shape.window is not None:
            seen = min(wanted.tokens, self.request.shape.window.size)
            fit = min(fit, self.pools.window_tokens // seen)
        return min(fit, self.max_running) * self.replicas

    @property
    def replicas(self) -> int:
        """Of attention, each with a cache of its own."""
        return self.request.settings.division.attention_dp

    @property
    def disk(self) -> float:
        """GiB of the checkpoint; nothing is read where weights come from a trainer alone."""
        if self.request.settings.load_format == "dummy":
            return 0.0
        quantization = self.request.shape.quantization
        return weights.on_disk(self.request.shape, quantization) / GIB

    @property
    def uncounted(self) -> tuple[str, ...]:
        """What takes memory too, and is not known."""
        settings, shape = self.request.settings, self.request.shape
        found = []
        if settings.drafts and (settings.draft_path or not shape.next_token_layers):
            found.append(texts.DRAFT.format(model=settings.draft_path or settings.speculative))
        if settings.lora:
            found.append(texts.LORA)
        return tuple(found)

    @property
    def host(self) -> float:
        """GiB of the host's memory that arguments ask for, of the whole engine."""
        settings = self.request.settings
        ranks = settings.division.tp * settings.division.pp
        each = self.weights_gib if settings.weights_on_host else 0.0
        each += settings.offload_gb
        if settings.hicache_ratio is not None:
            each += settings.hicache_gb or settings.hicache_ratio * self.pools.cache_gib
        return each * ranks


def plan(request: Request) -> EnginePlan:
    """The plan of an engine, whether it fits or not."""
    request = replace(request, shape=_kept_as_asked(request))
    shape, settings, card = request.shape, request.settings, request.card
    row = rules.of(request.version)
    division = settings.division
    free = max(0.1, card.free(division.tp * division.pp))
    given = settings.mem_fraction_static
    share = given if given is not None else static_share.chosen(row, card, shape, settings)
    found = weights.per_gpu(
        shape,
        division,
        kept_as(request),
        draft=settings.drafts and not settings.draft_path and shape.next_token_layers > 0,
    )
    blackwell = card.capability >= 10
    dtype = cache.dtype(shape, settings, card.capability)
    kept = cache.of(row, shape, settings, dtype, raw=blackwell)
    images = row.images_mib / 1024 if shape.tower is not None else 0.0
    later = 0.0 if row.counts_draft_cache else found.draft / GIB
    available = free * share - _on_gpu(found, settings) + later - images
    pools = cache.fit(row, kept, settings, available * GIB, cache.page(shape, settings))
    context = settings.context_length or shape.context
    max_running = requests_at_once(settings, pools, kept, context)
    table = _table(settings, max_running, context, pools.tokens)
    graphs = _graphs(row, request)
    return EnginePlan(
        request=request,
        free=free,
        share=share,
        share_given=given is not None,
        weights=found,
        pools=pools,
        cache=kept,
        context=context,
        max_running=max_running,
        left=free * (1 - share)
        + images
        - table
        - request.resident_gib
        - (later + _later_cache(shape, kept, pools) if later else 0.0),
        table=table,
        needed=graphs + _work(row, request) + _WORKSPACE_MIB / 1024,
        graphs=graphs,
        reserved_by_sglang=static_share.reserved_mib(row, card, shape, settings) / 1024,
        impossible=tuple(_impossible(shape, settings)),
    )


def _on_gpu(found: weights.Weights, settings: Settings) -> float:
    """GiB of weights; embeddings are not offloaded."""
    total = found.total / GIB
    return total - min(settings.offload_gb, total - found.embeddings / GIB)


def _later_cache(shape: Shape, kept: cache.Cache, pools: cache.Pools) -> float:
    """GiB of the cache of a draft that has a pool of its own."""
    layers = max(1, shape.cached_layers)
    return pools.tokens * kept.cell / layers * shape.next_token_layers / GIB


def _kept_as_asked(request: Request) -> Shape:
    """The model in the dtype that is asked for, whatever its checkpoint has."""
    size = _DTYPES.get(request.settings.dtype, request.shape.dtype_bytes)
    return replace(request.shape, dtype_bytes=size)


def understands(shape: Shape, settings: Settings) -> bool:
    """Whether it is known how weights are kept that are made smaller when they are loaded."""
    asked = settings.quantization
    return asked is None or shape.quantization is not None or asked in _ONLINE


def kept_as(request: Request) -> Quantization | None:
    """How weights are kept on the GPU: as in the checkpoint, or made so when it is loaded."""
    asked = request.settings.quantization
    if request.shape.quantization is not None or asked is None:
        return request.shape.quantization
    method = _ONLINE.get(asked)
    return Quantization(method=method) if method else None


def requests_at_once(
    settings: Settings, pools: cache.Pools, kept: cache.Cache, context: int
) -> int:
    """max_running_requests of one replica (``_resolve_max_num_reqs`` of 0.5.14)."""
    asked = settings.max_running_requests
    if asked is not None:
        most = asked // settings.division.attention_dp
    else:
        by_context = int(pools.tokens / context * 512)
        most = max(min(by_context, _MOST_REQUESTS), _LEAST_REQUESTS)
    most = min(most, pools.tokens // 2)
    return min(most, pools.state_slots // kept.slots) if kept.state_bytes else most


def _table(settings: Settings, requests: int, context: int, tokens: int) -> float:
    row = context + 4 + (settings.draft_tokens or 0)
    return ((requests + 1) * row * _TABLE_BYTES + tokens * _FREE_LIST_BYTES) / GIB


def _graphs(row: rules.Rules, request: Request) -> float:
    found = static_share.defaults(row, request.card, request.shape, request.settings)
    decode = found.graph_batch * _DECODE_GRAPH_MIB if request.settings.graphs else 0.0
    return (found.prefill_sizes * _PREFILL_GRAPH_MIB + decode) / 1024


def _work(row: rules.Rules, request: Request) -> float:
    """The largest tensors of one prefill: what goes through an MLP, and the logits of a batch."""
    shape, settings = request.shape, request.settings
    found = static_share.defaults(row, request.card, shape, settings)
    width = _widest(shape, settings)
    tokens = max(found.chunk, 2048)
    logits = found.graph_batch * shape.vocab / settings.division.tp * 4 * 2
    return (tokens * (width + 4 * shape.hidden) * shape.dtype_bytes + logits) / GIB


def _widest(shape: Shape, settings: Settings) -> float:
    """Numbers that a token has at once inside of a layer."""
    dense = 3 * shape.intermediate / settings.division.tp if shape.dense_layers else 0.0
    if shape.experts is None:
        return dense
    return max(dense, _of_experts(shape.experts, settings))


def _of_experts(experts: Experts, settings: Settings) -> float:
    """Every expert of a token at once."""
    inner = 3 * experts.intermediate / settings.division.expert_tp
    return experts.active * inner + 3 * experts.shared / settings.division.tp


def _impossible(shape: Shape, settings: Settings) -> Iterator[str]:
    """What SGLang asserts when it makes the layers."""
    division = settings.division
    tp = division.attention_tp
    if shape.q_heads % tp:
        yield texts.HEADS.format(heads=shape.q_heads, tp=tp)
    kv_heads = getattr(shape.attention, "kv_heads", tp)
    if kv_heads % tp and tp % kv_heads:
        yield texts.KV_HEADS.format(heads=kv_heads, tp=tp)
    if division.tp % division.attention_dp:
        yield texts.REPLICAS.format(dp=division.attention_dp, tp=division.tp)
    if division.pp > shape.layers:
        yield texts.STAGES.format(pp=division.pp, layers=shape.layers)
    yield from _experts_divide(shape, settings)
    if shape.linear is not None and shape.linear.value_heads % tp:
        yield texts.STATE_HEADS.format(heads=shape.linear.value_heads, tp=tp)


def _experts_divide(shape: Shape, settings: Settings) -> Iterator[str]:
    division, experts = settings.division, shape.experts
    if experts is None:
        return
    if division.tp % division.ep:
        yield texts.EXPERTS_TP.format(ep=division.ep, tp=division.tp)
    elif experts.number % division.ep:
        yield texts.EXPERTS.format(experts=experts.number, ep=division.ep)
    elif experts.intermediate % division.expert_tp:
        yield texts.EXPERT_SIZE.format(size=experts.intermediate, tp=division.expert_tp)


def changed(request: Request, **fields: object) -> Request:
    """The same with other settings; those of its division by their names there."""
    own = {key: value for key, value in fields.items() if key in ("tp", "pp", "ep", "attention_dp")}
    rest = {key: value for key, value in fields.items() if key not in own}
    settings = replace(request.settings, **rest)  # type: ignore[arg-type]
    if own:
        settings = replace(settings, division=replace(settings.division, **own))  # type: ignore[arg-type]
    return replace(request, settings=settings)
