"""Bytes of weights on each GPU.

The division among GPUs is that of SGLang's layers: columns and rows of matrices over tp, heads of
keys and values no further than one for each GPU, experts over ep and inside of each over what of tp
is left, what latent attention compresses on every GPU in whole; embeddings padded to 64 tokens
(``layers/vocab_parallel_embedding.py``), and whole on each GPU with attention data parallelism.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sglang_operator.memory.shape import Heads, Latent, Linear, Quantization, Shape

_PADDING = 64
# What the allocator cannot use of its blocks; in four measured engines 0.01 to 0.03 GiB.
ALLOCATOR_BYTES = 20 * 2**20
_ROTARY_BYTES = 4  # float32 on CUDA (layers/rotary_embedding/base.py)

# Bytes of a parameter with its scales, by how weights are kept.
BYTES = {
    "fp8": 1 + 4 / 128**2,  # blocks of 128 x 128, float32
    "w8a8_int8": 1.0,
    "awq": 0.5 + (2 + 0.5) / 128,  # groups of 128: a scale of 2 bytes, a zero of 4 bits
    "gptq": 0.5 + (2 + 0.5) / 128,
    "int4": 0.5 + 2 / 32,  # groups of 32 (compressed-tensors)
    "fp4": 0.5 + 1 / 16,  # blocks of 16, a scale of 1 byte
    "mxfp4": 0.5 + 1 / 32,
}


@dataclass(frozen=True, kw_only=True)
class Division:
    """How one engine is divided among its GPUs."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1  # replicas of attention within tp
    dense_tp: int | None = None  # moe_dense_tp_size
    head_dp: bool = False  # enable_dp_lm_head

    @property
    def attention_tp(self) -> int:
        return max(1, self.tp // self.attention_dp)

    @property
    def expert_tp(self) -> int:
        return max(1, self.tp // self.ep)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Bytes on the fullest GPU, by what they are."""

    embeddings: float
    attention: float
    mlp: float
    experts: float
    tower: float
    draft: float
    other: float

    @property
    def total(self) -> float:
        return sum(value for _, value in self.terms())

    def terms(self) -> Iterator[tuple[str, float]]:
        for name in ("embeddings", "attention", "mlp", "experts", "tower", "draft", "other"):
            yield name, getattr(self, name)


def per_gpu(
    shape: Shape, division: Division, quantization: Quantization | None, *, draft: bool = False
) -> Weights:
    """The weights on the GPU that has most of them."""
    plain = shape.dtype_bytes
    kept = _bytes(quantization, plain, experts=False)
    experts = _bytes(quantization, plain, experts=True)
    share = -(-shape.layers // division.pp) / shape.layers  # of the largest stage
    linear = shape.linear.layers if shape.linear else 0
    attention = (shape.layers - linear) * _attention(shape, division, kept, plain)
    if shape.linear is not None:
        attention += linear * _delta(shape.hidden, shape.linear, division.attention_tp) * kept
    dense_tp = division.dense_tp or division.tp
    mlp = shape.dense_layers * 3 * shape.hidden * shape.intermediate / dense_tp * kept
    routed = _experts(shape, division, experts, kept, plain)
    return Weights(
        embeddings=_embeddings(shape, division) * plain,
        attention=attention * share,
        mlp=mlp * share,
        experts=routed * share,
        tower=_tower(shape, division),
        draft=_draft(shape, division, quantization) if draft else 0,
        other=_other(shape) + 2 * shape.hidden * shape.layers * plain * share,
    )


def _bytes(quantization: Quantization | None, plain: int, *, experts: bool) -> float:
    if quantization is None or (quantization.experts_only and not experts):
        return plain
    return BYTES[quantization.method]


def _embeddings(shape: Shape, division: Division) -> float:
    """Parameters: of the fuller end of a pipeline, of both ends where there is one stage."""
    padded = -(-shape.vocab // _PADDING) * _PADDING
    table = padded * shape.hidden
    own = table / (1 if division.attention_dp > 1 else division.tp)
    head = table / (division.attention_tp if division.head_dp else division.tp)
    if shape.tied:
        return own
    return max(own, head) if division.pp > 1 else own + head


def _attention(shape: Shape, division: Division, kept: float, plain: int) -> float:
    """Bytes of one layer."""
    tp = division.attention_tp
    if isinstance(shape.attention, Latent):
        return _latent(shape.hidden, shape.attention, tp, kept, plain)
    return _heads(shape.hidden, shape.attention, tp) * kept


def _heads(hidden: int, attention: Heads, tp: int) -> float:
    q = attention.heads / tp * attention.head_dim * (2 if attention.gated else 1)
    kv_heads = max(1, attention.kv_heads / tp)
    kv = kv_heads * (attention.head_dim + attention.v_head_dim)
    out = attention.heads / tp * attention.v_head_dim
    return hidden * (q + kv + out)


def _latent(hidden: int, latent: Latent, tp: int, kept: float, plain: int) -> float:
    """What is compressed is on every GPU; of kv_b there is a second copy, ready to be absorbed."""
    heads = latent.heads / tp
    q_dim = latent.nope_dim + latent.rope_dim
    down = hidden * (latent.q_rank + latent.kv_rank + latent.rope_dim)
    up = (latent.q_rank or hidden) * heads * q_dim
    kv_b = latent.kv_rank * heads * (latent.nope_dim + latent.v_head_dim)
    out = heads * latent.v_head_dim * hidden
    index = latent.index_dim * ((latent.q_rank or hidden) * latent.index_heads + hidden)
    gates = hidden * latent.index_heads
    return (down + up + 2 * kv_b + out + index) * kept + gates * plain


def _delta(hidden: int, linear: Linear, tp: int) -> float:
    """Parameters of one gated delta net."""
    keys, values = linear.key_heads * linear.key_dim, linear.value_heads * linear.value_dim
    into = hidden * (2 * keys + 2 * values + 2 * linear.value_heads)
    kernel = (2 * keys + values) * linear.kernel
    return (into + kernel + values * hidden) / tp


def _experts(shape: Shape, division: Division, experts: float, kept: float, plain: int) -> float:
    found = shape.experts
    if found is None:
        return 0
    one = 3 * shape.hidden * found.intermediate / division.expert_tp * experts
    if found.bias:
        one += (2 * found.intermediate / division.expert_tp + shape.hidden) * plain
    shared = 3 * shape.hidden * found.shared / division.tp * kept
    router = shape.hidden * (found.number + (1 if found.shared_gate else 0)) * plain
    return found.layers * (found.number / division.ep * one + shared + router)


def _tower(shape: Shape, division: Division) -> float:
    return shape.tower.parameters / division.tp * shape.dtype_bytes if shape.tower else 0


def _draft(shape: Shape, division: Division, quantization: Quantization | None) -> float:
    """One layer more and the matrix that joins two hidden states; embeddings are shared."""
    plain = shape.dtype_bytes
    one = _attention(shape, division, _bytes(quantization, plain, experts=False), plain)
    if shape.experts is not None:
        kept = _bytes(quantization, plain, experts=False)
        routed = _bytes(quantization, plain, experts=True)
        one += _experts(shape, division, routed, kept, plain) / shape.experts.layers
    else:
        one += 3 * shape.hidden * shape.intermediate / division.tp * plain
    return one + 2 * shape.hidden * shape.hidden * plain


def _other(shape: Shape) -> float:
    """Tables of sines and cosines, and what the allocator cannot use."""
    return shape.context * shape.rotary_dim * _ROTARY_BYTES + ALLOCATOR_BYTES


def parameters(shape: Shape) -> float:
    """All parameters of the model."""
    one = per_gpu(shape, Division(), None)
    return (one.total - _other(shape) - _copies(shape)) / shape.dtype_bytes


def _copies(shape: Shape) -> float:
    """What an engine has twice, and a checkpoint once."""
    latent = shape.latent
    if latent is None:
        return 0
    kv_b = latent.kv_rank * latent.heads * (latent.nope_dim + latent.v_head_dim)
    return kv_b * shape.layers * shape.dtype_bytes


def active(shape: Shape) -> float:
    """Parameters that each token goes through, without the table that only looks it up."""
    found = shape.experts
    idle = 0.0
    if found is not None:
        one = 3 * shape.hidden * found.intermediate
        idle = found.layers * (found.number - found.active) * one
    table = 0 if shape.tied else shape.vocab * shape.hidden
    tower = shape.tower.parameters if shape.tower else 0
    return parameters(shape) - idle - table - tower


def on_disk(shape: Shape, quantization: Quantization | None) -> float:
    """Bytes of the checkpoint."""
    one = per_gpu(shape, Division(), quantization)
    return one.total - _other(shape) - _copies(shape)
