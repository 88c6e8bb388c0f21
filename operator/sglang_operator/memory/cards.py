"""GPUs as data: how much memory each has, and how much of it an engine finds free.

``mib`` is what ``nvidia-smi --query-gpu=memory.total`` prints, by which SGLang chooses its
defaults.  ``context`` is what is gone before weights are loaded: what the driver keeps, the CUDA
context and the first communicator.  It was measured on one H200 (143771 MiB by nvidia-smi, 139.13
GiB free before loading, SGLang 0.5.14); for the others the same is assumed.  With tp 8 an H200
had 137.3 GiB (log in sgl-project/sglang pull request 11716): 0.6 GiB for each doubling of tp.

Memory sizes, bandwidth and bfloat16 rates without sparsity are those of NVIDIA's data
sheets; the MiB are those of nvidia-smi's listings in public logs of these cards.
"""

import math
import re
from dataclasses import dataclass

GIB = 2**30
MIB_IN_GIB = 1024
CONTEXT_GIB = 1.27  # measured: 140.40 - 139.13
COMMUNICATOR_GIB = 0.6  # for each doubling of the ranks
_LITERAL = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)\s?(GiB|MiB)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU."""

    name: str
    mib: int
    bandwidth: float = 0.0  # bytes per second; 0: not known
    flops: float = 0.0  # bfloat16, dense
    capability: int = 9  # major compute capability; 10 and more is Blackwell

    @property
    def gib(self) -> float:
        return self.mib / MIB_IN_GIB

    def free(self, ranks: int) -> float:
        """GiB that each of so many ranks finds free before it loads weights."""
        gone = CONTEXT_GIB + COMMUNICATOR_GIB * math.log2(max(1, ranks))
        return max(0.0, self.gib - gone)


def _card(name: str, mib: int, tb_per_s: float, tflops: float, capability: int = 9) -> Card:
    return Card(
        name=name,
        mib=mib,
        bandwidth=tb_per_s * 1e12,
        flops=tflops * 1e12,
        capability=capability,
    )


CARDS = {
    card.name: card
    for card in (
        _card("RTX4090-24GB", 24564, 1.008, 165, 8),
        _card("RTX5090-32GB", 32607, 1.792, 209, 12),
        _card("A10-24GB", 23028, 0.6, 125, 8),
        _card("L40S-48GB", 46068, 0.864, 362, 8),
        _card("A100-40GB", 40960, 1.555, 312, 8),
        _card("A100-80GB", 81920, 2.039, 312, 8),
        _card("H100-80GB", 81559, 3.35, 989),
        _card("H800-80GB", 81559, 3.35, 989),
        _card("H20-96GB", 97871, 4.0, 148),
        _card("H200-141GB", 143771, 4.8, 989),
        _card("B200-180GB", 183359, 7.7, 2250, 10),
    )
}
# The card alone, where there is one of its name.
_SHORT = {name.partition("-")[0]: name for name in CARDS if not name.startswith("A100")}


def parse(text: str) -> Card | None:
    """A card by its name, in any case, or a size such as ``141GiB``; None: it is neither."""
    wanted = text.strip().upper().replace("_", "-").replace(" ", "")
    known = {name.upper(): card for name, card in CARDS.items()}
    found = known.get(wanted) or known.get(_SHORT.get(wanted, "").upper())
    if found is not None:
        return found
    match = _LITERAL.fullmatch(text.strip())
    if match is None:
        return None
    size = float(match[1]) * (MIB_IN_GIB if match[2].lower() == "gib" else 1)
    return Card(name=text.strip(), mib=round(size)) if size >= MIB_IN_GIB else None
