"""By which a pool is known in its cluster."""

from typing import NamedTuple


class PoolKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
