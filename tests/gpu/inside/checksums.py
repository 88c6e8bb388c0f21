"""Whether an engine's tensors are the trainer's: by the checksum that SGLang itself computes."""

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

SECONDS = 60.0
# What SGLang keeps of these is one tensor, in this order.
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


def of_engine(url: str | None) -> dict[str, str]:
    """Of an engine's tensors, as it computes them."""
    body = json.dumps({"action": "checksum"}).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{url}/weights_checker", body, headers, method="POST")
    with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
        found: dict[str, str] = json.loads(answer.read())["ranks"][0]["checksums"]
    return found


def of_trainer(tensors: Mapping[str, Any]) -> dict[str, str]:
    """The same of the trainer's tensors, by SGLang's own function."""
    import torch
    from sglang.srt.utils.weight_checker import _hash_tensor

    kept = dict(tensors)
    for fused, parts in FUSED.items():
        for name in [each for each in tensors if f".{parts[0]}." in each]:
            pieces = [kept.pop(name.replace(parts[0], part)) for part in parts]
            kept[name.replace(parts[0], fused)] = torch.cat(pieces)
    return {name: _hash_tensor(tensor) for name, tensor in kept.items()}


def compared(url: str | None, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """How many tensors there are, and which of an engine's are not the trainer's."""
    engine, trainer = of_engine(url), of_trainer(tensors)
    unequal = [name for name in trainer if engine.get(name) != trainer[name]]
    return {"compared": len(trainer), "unequal": unequal}
