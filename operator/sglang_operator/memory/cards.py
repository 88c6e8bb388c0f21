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
from collections.abc import Mapping
from dataclasses import dataclass, replace

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

    @property
    def known(self) -> bool:
        """Whether it is one of ``CARDS``, and not a size that somebody gave."""
        return self.name in CARDS

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


# --- by the labels of nodes, which pods may ask for too

# As NVIDIA's GPU feature discovery writes them: the product by nvidia-smi's name of it, its memory
# in MiB, and among how many pods the GPU is shared.
PRODUCT = "nvidia.com/gpu.product"
MEMORY = "nvidia.com/gpu.memory"
CAPABILITY = "nvidia.com/gpu.compute.major"
REPLICAS = "nvidia.com/gpu.replicas"
RESOURCE = "nvidia.com/gpu"  # the resource that those labels are about
GKE = "cloud.google.com/gke-accelerator"
_SHARED = "-SHARED"
_MOST_MIB = 2**24
# Products of one name and another memory, such as H100 NVL (94 GB) and H20-3e (141 GB), are others.
_PRODUCTS = {
    "NVIDIA-GeForce-RTX-4090": "RTX4090-24GB",
    "NVIDIA-GeForce-RTX-5090": "RTX5090-32GB",
    "NVIDIA-A10": "A10-24GB",
    "NVIDIA-L40S": "L40S-48GB",
    "NVIDIA-A100-SXM4-40GB": "A100-40GB",
    "NVIDIA-A100-PCIE-40GB": "A100-40GB",
    "NVIDIA-A100-SXM4-80GB": "A100-80GB",
    "NVIDIA-A100-80GB-PCIe": "A100-80GB",
    "NVIDIA-H100-80GB-HBM3": "H100-80GB",
    "NVIDIA-H100-PCIe": "H100-80GB",
    "NVIDIA-H800": "H800-80GB",
    "NVIDIA-H20": "H20-96GB",
    "NVIDIA-H200": "H200-141GB",
    "NVIDIA-B200": "B200-180GB",
}
_OF_GKE = {
    "nvidia-tesla-a100": "A100-40GB",
    "nvidia-a100-80gb": "A100-80GB",
    "nvidia-h100-80gb": "H100-80GB",
    "nvidia-h100-mega-80gb": "H100-80GB",
    "nvidia-h200-141gb": "H200-141GB",
    "nvidia-b200": "B200-180GB",
}


def of_labels(labels: Mapping[str, object]) -> Card | None:
    """The card of nodes with these labels; None where they do not tell.

    A product that is not known is a card of its own name, if its memory stands beside it
    (``known`` is False).  Of a GPU that pods share in turns nobody has the memory: None.
    """
    product = labels.get(PRODUCT)
    known = _PRODUCTS.get(str(product)) or _OF_GKE.get(str(labels.get(GKE)))
    shared = str(product).endswith(_SHARED) or labels.get(REPLICAS, "1") not in ("0", "1")
    if shared:
        return None
    mib = _number(labels.get(MEMORY))
    if known is not None:
        card = CARDS[known]
        return card if mib in (0, card.mib) else replace(card, mib=mib)
    if not isinstance(product, str) or mib < MIB_IN_GIB:
        return None
    return Card(name=product, mib=mib, capability=_number(labels.get(CAPABILITY)) or 9)


def _number(text: object) -> int:
    """A label's number, as far as a GPU can have so much; 0: it is none."""
    good = isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 9
    return min(int(str(text)), _MOST_MIB) if good else 0
