"""What engines answer, reduced to what is used.

Unknown fields are skipped and never kept: ``/server_info`` holds keys in clear.
"""

from typing import TypeVar

import msgspec

from sglang_operator.planner.observed import Resolved

Answer = TypeVar("Answer", bound=msgspec.Struct)


class ModelInfo(msgspec.Struct, frozen=True):
    """``/model_info``, or ``/get_model_info`` before 0.5.6."""

    weight_version: str | None = None


class ServerInfo(msgspec.Struct, frozen=True):
    """``/server_info``, or ``/get_server_info`` before 0.5.6: arguments as they are in use."""

    version: str = ""
    mem_fraction_static: float | None = None
    max_total_num_tokens: int | None = None
    max_running_requests: int | None = None
    context_length: int | None = None
    attention_backend: str | None = None

    @property
    def resolved(self) -> Resolved:
        return Resolved(
            version=self.version[:64],
            mem_fraction_static=self.mem_fraction_static,
            max_total_tokens=self.max_total_num_tokens,
            max_running_requests=self.max_running_requests,
            context_length=self.context_length,
            attention_backend=self.attention_backend and self.attention_backend[:64],
        )
