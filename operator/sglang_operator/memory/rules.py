"""What of SGLang's memory rules differs between its versions, read in their wheels.

A version without a row of its own goes by the newest before it.
"""

from dataclasses import dataclass
from enum import Enum

from sglang_operator.engine import versions


class ShareBy(Enum):
    """How SGLang chooses mem_fraction_static where nobody does (``server_args.py``)."""

    TABLE = "a table by tp x pp"  # 0.4.6
    CARD = "a reserve by the size of the card"  # 0.4.10 to 0.5.2
    FORMULA = "a reserve by chunk, batch and graphs"  # since 0.5.4


class PrefillGraphs(Enum):
    """What is reserved for graphs of prefill."""

    NONE = "none"
    QUARTER = "a MiB for 4 tokens, where enabled"
    EIGHTH = "a MiB for 8 tokens, where enabled"
    SIZES_ASKED = "8 MiB for each size, where enabled"
    SIZES = "8 MiB for each size, unless disabled"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of one version."""

    version: versions.Version
    share: ShareBy
    fallback: float = 0.88  # where the size of the card is not known
    # Cards below 35 GiB: (chunk, graphs with tp below 4, with tp of 4 and more).
    small_card: tuple[int, int, int] = (2048, 24, 80)
    prefill_graphs: PrefillGraphs = PrefillGraphs.NONE
    latent_prefill_tokens: int | None = None  # graphs of latent attention reach so far
    # MiB for a draft model, STANDALONE and EAGLE; since 0.5.14 its weights are counted instead.
    draft_mib: tuple[int, int] = (0, 0)
    deepep_mib: int = 0
    # The graphs of decoding are no larger than max_running_requests allows.
    graphs_follow_requests: bool = False
    disabled_graphs_reserve: bool = True  # 2 MiB for each sequence, even without graphs
    sparse_index: bool = True  # the indexer's keys of DSA are counted
    sparse_layout: bool = False  # with fp8, scales and positions in bfloat16 are counted too
    v_head_dim: bool = True  # keys and values may differ in size
    fp4_cache: bool = True
    counts_draft_cache: bool = False  # the cell grows by the draft's layers
    images_mib: int = 0  # kept back from the cache of models that read images
    state_share: bool = True  # states get a share of what is left, not a fixed number
    # A number of slots that is given counts only without the radix cache.
    state_slots_late: bool = False
    # Slots of state for each sequence: with radix cache, and more where overlapped.
    state_slots: tuple[int, int] = (3, 0)


def _row(version: str, **fields: object) -> Rules:
    return Rules(version=versions.parse(version), **fields)  # type: ignore[arg-type]


_OLD = {
    "sparse_index": False,
    "v_head_dim": False,
    "fp4_cache": False,
    "state_share": False,
}
ROWS = (
    _row("0.4.6.post5", share=ShareBy.TABLE, **_OLD),
    _row("0.4.10.post2", share=ShareBy.CARD, draft_mib=(2048, 2048), **_OLD),
    _row("0.5.2", share=ShareBy.CARD, draft_mib=(6144, 2048), **_OLD),
    _row(
        "0.5.4.post2",
        share=ShareBy.FORMULA,
        state_slots_late=True,
        draft_mib=(6144, 2048),
        v_head_dim=False,
        fp4_cache=False,
    ),
    _row(
        "0.5.5.post3",
        share=ShareBy.FORMULA,
        state_slots_late=True,
        draft_mib=(6144, 2048),
        prefill_graphs=PrefillGraphs.QUARTER,
        v_head_dim=False,
    ),
    _row(
        "0.5.6.post2",
        share=ShareBy.FORMULA,
        state_slots_late=True,
        draft_mib=(6144, 2048),
        prefill_graphs=PrefillGraphs.QUARTER,
        v_head_dim=False,
    ),
    _row(
        "0.5.7",
        share=ShareBy.FORMULA,
        draft_mib=(6144, 2048),
        prefill_graphs=PrefillGraphs.EIGHTH,
        state_slots=(3, 2),
    ),
    _row(
        "0.5.9",
        share=ShareBy.FORMULA,
        draft_mib=(6144, 2048),
        prefill_graphs=PrefillGraphs.SIZES_ASKED,
        latent_prefill_tokens=2048,
        state_slots=(3, 2),
    ),
    _row(
        "0.5.13",
        share=ShareBy.FORMULA,
        draft_mib=(6144, 4096),
        prefill_graphs=PrefillGraphs.SIZES,
        latent_prefill_tokens=2048,
        state_slots=(3, 2),
    ),
    _row(
        "0.5.14",
        share=ShareBy.FORMULA,
        prefill_graphs=PrefillGraphs.SIZES,
        latent_prefill_tokens=2048,
        counts_draft_cache=True,
        state_slots=(3, 2),
    ),
    _row(
        "0.5.20",
        share=ShareBy.FORMULA,
        fallback=0.95,
        small_card=(4096, 48, 160),
        prefill_graphs=PrefillGraphs.SIZES,
        latent_prefill_tokens=2048,
        deepep_mib=2048,
        disabled_graphs_reserve=False,
        sparse_layout=True,
        counts_draft_cache=True,
        images_mib=100,
        state_slots=(3, 2),
    ),
    _row(
        "0.5.23",
        share=ShareBy.FORMULA,
        fallback=0.95,
        small_card=(4096, 48, 160),
        prefill_graphs=PrefillGraphs.SIZES,
        latent_prefill_tokens=8192,
        deepep_mib=2048,
        graphs_follow_requests=True,
        disabled_graphs_reserve=False,
        sparse_layout=True,
        counts_draft_cache=True,
        images_mib=100,
        state_slots=(3, 2),
    ),
)


def of(version: versions.Version) -> Rules:
    """The rules of a version: its own, else those of the newest read before it."""
    older = [row for row in ROWS if row.version <= version]
    return older[-1] if older else ROWS[0]


# The first of the wheels that were read which has each architecture (``EntryClass`` of its models).
SINCE = {
    "Glm4ForCausalLM": "0.4.10.post2",
    "Glm4MoeForCausalLM": "0.4.10.post2",
    "GptOssForCausalLM": "0.5.2",
    "Qwen3NextForCausalLM": "0.5.2",
    "DeepseekV32ForCausalLM": "0.5.4.post2",
    "MiniMaxM2ForCausalLM": "0.5.4.post2",
    "Qwen3VLForConditionalGeneration": "0.5.4.post2",
    "Qwen3VLMoeForConditionalGeneration": "0.5.4.post2",
    "Glm4MoeLiteForCausalLM": "0.5.9",
    "GlmMoeDsaForCausalLM": "0.5.9",
    "Qwen3_5ForConditionalGeneration": "0.5.9",
    "Qwen3_5MoeForConditionalGeneration": "0.5.9",
}


def lacks(version: versions.Version, architecture: str) -> str:
    """The first version with an architecture that this one does not have; empty: it has it."""
    since = SINCE.get(architecture, "")
    return since if since and version < versions.parse(since) else ""
