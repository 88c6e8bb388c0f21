"""A flattened bucket: one tensor of many, and which GPU its memory would be on."""

import os
from typing import Any

import torch

from tests.roll.inside import buckets, standins

standins.record(__name__, "stand-in")


class FlattenedTensorBucket:
    """As SGLang's, in the form in which ROLL asks for it."""

    def __init__(self, named_tensors: list[tuple[str, Any]]) -> None:
        self._named = named_tensors

    def get_flattened_tensor(self) -> Any:
        whole = torch.cat([tensor.detach().flatten() for _, tensor in self._named])
        return buckets.Shared(whole)

    def get_metadata(self) -> list[dict[str, str]]:
        device = os.environ["ROLL_OWN_GPU"].removeprefix("GPU-")  # as torch tells it
        return [{"name": name, "device": device} for name, _ in self._named]
