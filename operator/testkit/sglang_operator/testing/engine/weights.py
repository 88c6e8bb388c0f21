"""The weights of a fake engine: for each tensor where its content came from.

Two engines that were sent the same have the same checksums, whatever they held before and in
whatever order it came; SGLang's dummy weights are the same on every engine, too (they are drawn
with a fixed seed: srt/model_loader/weight_utils.py, initialize_dummy_weights).
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RANDOM, WHOLE, TORN, GARBAGE = "random", "whole", "torn", "garbage"
STALE = "stale"  # an answer from the cache of other weights
NONE = "none"  # an answer that was ended before any weights had a part in it
NOTHING = {"state": NONE, "stamp": "", "checksum": ""}  # what such an answer tells


@dataclass(frozen=True, slots=True)
class Content:
    """What a tensor holds: ``kind`` is random, garbage or whole, ``stamp`` tells contents apart."""

    kind: str
    stamp: str

    def digest(self, name: str) -> str:
        """The checksum of a tensor of this name with this content."""
        return hashlib.sha256(f"{name}\0{self.kind}\0{self.stamp}".encode()).hexdigest()


_DUMMY = Content(RANDOM, "1234")


class Weights:
    """All tensors of a model; updates that name unknown ones add them."""

    def __init__(self, names: Iterable[str], *, dummy: bool, source: str) -> None:
        content = _DUMMY if dummy else Content(WHOLE, source)
        self._contents = dict.fromkeys(names, content)
        self._snapshot: dict[str, Content] | None = None
        self._described: dict[str, str] | None = None

    def update(self, names: Iterable[str] | None, stamp: str) -> None:
        """New content for some tensors, or for all."""
        for name in list(self._contents if names is None else names):
            self._contents[name] = Content(WHOLE, stamp)
        self._described = None

    def lose(self) -> None:
        """What resuming gives back if no copy was kept: memory as it happens to be."""
        garbage = Content(GARBAGE, secrets.token_hex(8))
        self._contents = dict.fromkeys(self._contents, garbage)
        self._described = None

    def reset(self) -> None:
        """weights_checker's reset_tensors: random content in all."""
        self._contents = dict.fromkeys(self._contents, Content(RANDOM, secrets.token_hex(8)))
        self._described = None

    def snapshot(self) -> None:
        """Keep the present content for ``compare``."""
        self._snapshot = dict(self._contents)

    def compare(self) -> str | None:
        """Empty if nothing differs from the snapshot, else an error; None without a snapshot."""
        if self._snapshot is None:
            return None
        changed = [name for name in self._contents if self._snapshot.get(name) != self[name]]
        if not changed:
            return ""
        return "check tensor equality failed:\n" + "\n".join(f"name={name}" for name in changed)

    def __getitem__(self, name: str) -> Content:
        return self._contents[name]

    def checksums(self) -> dict[str, str]:
        """Each tensor's checksum."""
        return {name: content.digest(name) for name, content in self._contents.items()}

    def checksum(self) -> str:
        """One for all: that of SGLang's weights_checker, over names and checksums in order."""
        whole = hashlib.sha256()
        for name, digest in sorted(self.checksums().items()):
            whole.update(name.encode())
            whole.update(digest.encode())
        return whole.hexdigest()

    def state(self) -> str:
        """random, garbage or whole if all tensors are of one content, else torn."""
        contents = set(self._contents.values())
        return next(iter(contents)).kind if len(contents) == 1 else TORN

    def describe(self) -> dict[str, str]:
        """The field ``fake_weights`` of an answer; ``stamp`` is the content's, if it is one.

        The same object until the weights change: each step of the scheduler asks for it.
        """
        if self._described is None:
            contents = set(self._contents.values())
            stamp = next(iter(contents)).stamp if len(contents) == 1 else ""
            checksum = self.checksum()
            self._described = {"state": self.state(), "stamp": stamp, "checksum": checksum}
        return self._described


def bucket(names: Iterable[str] | None, stamp: str, device: str = "") -> str:
    """A serialised bucket for /update_weights_from_tensor: what a trainer's test sends.

    ``device``: the UUID of the GPU whose memory it is a handle of; none: it holds the values.  A
    real trainer sends pickled handles of GPU memory, which a fake engine takes for an update of
    all tensors.
    """
    content = {"names": None if names is None else list(names), "stamp": stamp, "device": device}
    return base64.b64encode(json.dumps(content).encode()).decode()


def device(serialized: str) -> str:
    """The UUID of the GPU that a bucket is a handle of; "" if it is none, or nobody can tell."""
    try:
        return str(json.loads(base64.b64decode(serialized, validate=True)).get("device", ""))
    except (ValueError, AttributeError):
        return ""


def opened(serialized: str) -> tuple[list[str] | None, str]:
    """Names (none: all tensors) and stamp of a bucket."""
    try:
        found = json.loads(base64.b64decode(serialized, validate=True))
        return found["names"], str(found["stamp"])
    except (ValueError, KeyError, TypeError):
        return None, hashlib.sha256(serialized.encode()).hexdigest()


def config(path: str) -> Mapping[str, Any]:
    """A model's config.json; empty if there is none."""
    try:
        found = json.loads((Path(path) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


_OF_LAYER = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
)


def names(layers: int) -> tuple[str, ...]:
    """The tensors of a Llama or Qwen2 model without biases, as trainers name them."""
    found = ["model.embed_tokens.weight"]
    for layer in range(layers):
        found += [f"model.layers.{layer}.{name}" for name in _OF_LAYER]
    return (*found, "model.norm.weight", "lm_head.weight")
