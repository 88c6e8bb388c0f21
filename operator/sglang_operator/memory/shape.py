"""What of a model's config.json decides how much memory it takes.  Data."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Attention with heads of keys and values: MHA, GQA, MQA."""

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    gated: bool = False  # q has a gate of its own size beside it


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek): one compressed vector a token for all heads."""

    heads: int
    q_rank: int  # 0: q is not compressed
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_head_dim: int
    index_heads: int = 0  # of the indexer of sparse attention; 0: there is none
    index_dim: int = 0


@dataclass(frozen=True, kw_only=True)
class Window:
    """Layers that see only the last tokens, in models where SGLang keeps a pool for them."""

    layers: int
    size: int  # tokens
    kv_heads: int
    head_dim: int
    v_head_dim: int


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Layers with a state of fixed size instead of a cache (gated delta net)."""

    layers: int
    key_heads: int
    value_heads: int
    key_dim: int  # of a head
    value_dim: int
    kernel: int
    state_bytes: int  # of an element of the state: float32 unless the config says otherwise


@dataclass(frozen=True, kw_only=True)
class Experts:
    """The MoE layers."""

    layers: int
    number: int
    active: int  # of them, for each token
    intermediate: int  # of one expert
    shared: int  # intermediate size of what every token uses, together
    shared_gate: bool = False
    bias: bool = False  # of each expert's projections (gpt-oss)


@dataclass(frozen=True, kw_only=True)
class Tower:
    """What reads images."""

    parameters: int
    # SGLang's rule for the static share looks at these two under names of its own.
    layers: int | None
    hidden: int | None


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How weights are kept."""

    method: str  # fp8, awq, gptq, fp4, mxfp4, w8a8_int8
    experts_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model."""

    architecture: str
    hidden: int
    layers: int
    vocab: int
    context: int  # tokens that it was made for
    tied: bool  # embeddings
    intermediate: int  # of a dense MLP
    attention: Heads | Latent
    rotary_dim: int
    dtype_bytes: int = 2
    window: Window | None = None
    linear: Linear | None = None
    experts: Experts | None = None
    tower: Tower | None = None
    quantization: Quantization | None = None
    next_token_layers: int = 0  # that can draft (MTP)

    @property
    def cached_layers(self) -> int:
        """Layers whose cache grows with every token of a sequence."""
        others = (self.window.layers if self.window else 0) + (
            self.linear.layers if self.linear else 0
        )
        return self.layers - others

    @property
    def dense_layers(self) -> int:
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def latent(self) -> Latent | None:
        """Its attention, if it is latent."""
        return self.attention if isinstance(self.attention, Latent) else None

    @property
    def q_heads(self) -> int:
        return self.attention.heads
