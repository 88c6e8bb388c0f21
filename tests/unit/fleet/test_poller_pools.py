"""What one pool's pass costs does not grow with the engines of the others."""

import asyncio
from typing import Any

from sglang_operator.cluster.stores import PoolKey
from sglang_operator.fleet.poller import Poller


class Untouched(dict[Any, Any]):
    """Other pools' entries: nobody walks over them."""

    def __iter__(self) -> Any:
        raise AssertionError("a pass looks at every pool")

    keys = values = items = __iter__


def test_a_pass_looks_at_its_own_pool_alone():
    async def story() -> None:
        poller = Poller(None, lambda key, urgent: None)  # type: ignore[arg-type]
        poller._finished = Untouched({PoolKey("a", "other"): set()})
        poller._tasks = Untouched({PoolKey("a", "other"): {}})
        poller.ask(PoolKey("a", "pool"), (), ["x"])

    asyncio.run(story())
