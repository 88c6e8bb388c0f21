"""An engine's side of a real process group: torch's gloo, one member for each GPU.

As the ranks of an engine do it, each member joins by the store of rank 0 and receives every
tensor of a bucket.  An engine says that it has joined as soon as it has reached the store: NCCL's
connections are made with the first broadcast, and so several groups may form at once, in whatever
order each engine hears of them.  Gloo's are made at once; here that goes on beside.

The members are made below torch.distributed's global tables, so that one process may hold several;
the keys in the store are those that ROLL's ``init_custom_process_group`` leads to
(torch.distributed.distributed_c10d, ``_new_process_group_helper``).
"""

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_JOIN = timedelta(seconds=120)


class Group:
    """As ``rendezvous.Group``; ``told`` is the request that announces the next bucket."""

    def __init__(self, members: list[Future[Any]]) -> None:
        self._members = members
        self.told: Mapping[str, Any] = {}

    async def receive(self) -> dict[str, Any]:
        """The next bucket: what its tensors hold, if every rank got the same."""
        return await asyncio.to_thread(self._receive, dict(self.told))

    def _receive(self, told: Mapping[str, Any]) -> dict[str, Any]:
        forms = list(zip(told["dtypes"], told["shapes"], strict=True))
        held, works = [], []
        for member in [each.result() for each in self._members]:
            own = [torch.empty(shape, dtype=getattr(torch, dtype)) for dtype, shape in forms]
            works += [member.broadcast(each, 0) for each in own]
            held.append(own)
        for work in works:
            work.wait()
        stamps = {content(own) for own in held}
        stamp = stamps.pop() if len(stamps) == 1 else "differs from rank to rank"
        return {"names": told["names"], "stamp": stamp}

    def leave(self) -> None:
        """Let go of the members; torch ends their connections."""
        self._members.clear()


def content(tensors: list[torch.Tensor]) -> str:
    """The value that all elements have, as these tests' trainers write them; else a digest."""
    values = {value for each in tensors for value in each.float().unique().tolist()}
    if len(values) == 1:
        return f"{values.pop():g}"
    whole = hashlib.sha256()
    for each in tensors:
        whole.update(each.contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


async def join(host: str, port: int, hello: dict[str, Any]) -> Group:
    """Join the trainer's group, with each rank; returns when its store is reached."""
    ranks, size, name = hello["ranks"], int(hello["world_size"]), hello["group"]
    stores = [asyncio.to_thread(_store, host, port, name, size) for _ in ranks]
    threads = ThreadPoolExecutor(len(ranks))
    try:
        return Group(
            [
                threads.submit(dist.ProcessGroupGloo, store, rank, size, _JOIN)
                for store, rank in zip(await asyncio.gather(*stores), ranks, strict=True)
            ]
        )
    finally:
        threads.shutdown(wait=False)


def _store(host: str, port: int, name: str, size: int) -> Any:
    store: Any = dist.TCPStore(host, port, size, is_master=False, timeout=_JOIN)
    for prefix in (name, f"{name}/", "cpu/"):
        store = dist.PrefixStore(prefix, store)
    return store
