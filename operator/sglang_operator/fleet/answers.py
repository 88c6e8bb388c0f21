"""What engines answer, reduced to what is used.

Unknown fields are skipped and never kept: ``/server_info`` holds keys in clear.  Of what is kept
every part is bounded, for an engine is not trusted.
"""

from typing import TypeVar

import msgspec

from sglang_operator.api import bounds
from sglang_operator.observed.model import Resolved

Answer = TypeVar("Answer")
Kind = msgspec.json.Decoder[Answer]


class _ModelInfo(msgspec.Struct, frozen=True):
    """``/model_info``, or ``/get_model_info`` before 0.5.6."""

    weight_version: str | None = None
    # Whatever stands there: an answer of another kind must not keep the version from being read.
    has_image_understanding: msgspec.Raw = msgspec.Raw(b"")

    @property
    def sees_images(self) -> bool:
        return bytes(self.has_image_understanding).strip() == b"true"


class _MemoryUsage(msgspec.Struct, frozen=True):
    """GiB of one GPU, as the scheduler counted them when it loaded weights and made its caches."""

    weight: float | None = None
    kvcache: float | None = None


class _InternalState(msgspec.Struct, frozen=True):
    """What the scheduler of one replica adds to ``/server_info``."""

    memory_usage: _MemoryUsage = _MemoryUsage()


class _ServerInfo(msgspec.Struct, frozen=True):
    """``/server_info``, or ``/get_server_info`` before 0.5.6: arguments as they are in use."""

    version: str = ""
    mem_fraction_static: float | None = None
    max_total_num_tokens: int | None = None
    max_running_requests: int | None = None
    context_length: int | None = None
    attention_backend: str | None = None
    # Not the same in all versions: what cannot be read says nothing, and the rest still counts.
    internal_states: msgspec.Raw = msgspec.Raw(b"[]")

    @property
    def resolved(self) -> Resolved:
        memory = self._memory()
        return Resolved(
            version=bounds.words(self.version, 64),
            mem_fraction_static=bounds.number(self.mem_fraction_static),
            max_total_tokens=bounds.integer(self.max_total_num_tokens),
            max_running_requests=bounds.integer(self.max_running_requests),
            context_length=bounds.integer(self.context_length),
            attention_backend=self.attention_backend and bounds.words(self.attention_backend, 64),
            weights_gib=bounds.number(memory.weight),
            cache_gib=bounds.number(memory.kvcache),
        )

    def _memory(self) -> _MemoryUsage:
        """Of the first replica: all of an engine are alike."""
        try:
            states = _STATES.decode(self.internal_states)
        except (ValueError, RecursionError):
            return _MemoryUsage()
        return states[0].memory_usage if states else _MemoryUsage()


_STATES = msgspec.json.Decoder(list[_InternalState])


class _RankLoad(msgspec.Struct, frozen=True):
    """The load of one scheduler, by the names of all versions; what is not told is 0."""

    num_reqs: int = 0
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_tokens: int = 0
    num_used_tokens: int = 0
    num_total_tokens: int = 0
    timestamp: float = 0.0  # of the scheduler's last step, where it keeps a snapshot


class _Loads(msgspec.Struct, frozen=True):
    """``/v1/loads``; ``load`` alone is ``/get_load`` up to 0.5.2: tokens, no requests."""

    loads: list[_RankLoad] = []
    load: int = 0


MODEL_INFO = msgspec.json.Decoder(_ModelInfo)
SERVER_INFO = msgspec.json.Decoder(_ServerInfo)
LOADS: Kind[_Loads | list[_RankLoad]] = msgspec.json.Decoder(_Loads | list[_RankLoad])
MAX_LOAD = 2**18  # bytes; a rank tells some 700, and what is decoded takes ten times its text


def load(told: _Loads | list[_RankLoad]) -> tuple[bool, int]:
    """Whether there is work, and a number that changes as it is done."""
    ranks = told if isinstance(told, list) else told.loads
    tokens = 0 if isinstance(told, list) else told.load
    busy = tokens > 0 or any(r.num_reqs + r.num_running_reqs + r.num_waiting_reqs for r in ranks)
    return busy, hash((tokens, *map(msgspec.structs.astuple, ranks)))


def weight_version(told: _ModelInfo) -> str | None:
    """The version of the weights, in the form in which it is compared with a trainer's."""
    return told.weight_version and bounds.label(told.weight_version)
