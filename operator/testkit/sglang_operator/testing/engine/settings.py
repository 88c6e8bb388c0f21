"""What a fake engine is told beside SGLang's own command line: environment variables, no flags."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sglang_operator.engine import versions

PREFIX = "FAKE_SGLANG_"
_SEEN = "NVIDIA_VISIBLE_DEVICES"  # by which NVIDIA's runtime gives a container its GPUs


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """``FAKE_SGLANG_`` and the name of the field in capitals sets it; times are in seconds."""

    version: str = str(versions.ROLL_VERSIONS[-1])  # which SGLang it is
    load_seconds: float = 0.2  # before it listens
    warm_up_seconds: float = 0.1  # listening, /health is 503
    warm_up_tries: int = 120  # questions to whoever has its port, where that is taken
    token_seconds: float = 0.002  # for each generated token
    update_seconds: float = 0.0  # that each bucket of weights takes
    read_seconds: float = 0.0  # that a checkpoint takes
    crash_seconds: float = 0.1  # from a scheduler's exception to the end; 0.5.14 takes 5
    drain_poll_seconds: float = 5.0  # how often SIGTERM is looked at, as in SGLang
    answer_seconds: float = 0.0  # added to every answer
    rendezvous_seconds: float = 1800.0  # that a group of weights may take to come together
    nccl_seconds: float = 600.0  # after which a broadcast that does not come kills the engine
    peer_seconds: float = (
        0.0  # until a pod notices that another of its engine is gone, unless NCCL tells
    )
    models: str = "any"  # "strict": a path that is absent is not found, as in SGLang
    layers: int = 2  # of the model, where its folder has no config.json
    # The UUIDs of its GPUs, with commas, or those that NVIDIA's runtime was told: a handle of any
    # other is its end.
    devices: str = ""
    taken: bool = False  # what it releases is somebody else's then: no memory to wake in
    memory: str = ""  # a folder in which each process says what it holds of these (held)
    gpus: int = -1  # GPUs that the container sees; -1: as many as it asks for
    min_mem_fraction: float = 0.0  # --mem-fraction-static below it: no room for the KV cache
    max_mem_fraction: float = 1.0  # above it: out of memory
    fail: str = ""  # the name of a failure (failures.AT_START) that ends the start
    control_port: int = 0  # where faults can be injected while it runs (control); 0: nowhere


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in an environment; raises ValueError for a variable that is not known."""
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    if (seen := environment.get(_SEEN, "")).startswith("GPU-"):
        given.setdefault("devices", seen)
    kinds = {name: type(getattr(Settings(), name)) for name in Settings.__dataclass_fields__}
    if unknown := sorted(set(given) - set(kinds)):
        known = ", ".join(PREFIX + name.upper() for name in kinds)
        raise ValueError(f"{PREFIX}{unknown[0].upper()} is not known; the variables are {known}")
    return Settings(**{name: kinds[name](value) for name, value in given.items()})
