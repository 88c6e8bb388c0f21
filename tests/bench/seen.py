"""An independent watch on the pods of a namespace: when each was created, up, and gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sglang_operator.kube import informer, paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.observed import wire

TIMEOUT = 600.0


@dataclass
class Seen:
    """What was seen so far; times by ``perf_counter``."""

    created: dict[str, float] = field(default_factory=dict)  # by UID
    up: dict[str, float] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # name of the controller
    deleting: set[str] = field(default_factory=set)
    dying: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def replace(
        self, scope: str, records: list[wire.Pod], version: int, unread: Sequence[wire.Meta] = ()
    ) -> None:
        for record in records:
            self.put(record)

    def restored(self) -> None:
        """Nothing: no version is compared."""

    def put(self, record: wire.Pod) -> None:
        now, meta = time.perf_counter(), record.metadata
        if meta.uid not in self.created:
            self.created[meta.uid] = now
            self.names[meta.uid] = meta.name
            self.namespaces[meta.uid] = meta.namespace
            self.owners[meta.uid] = meta.controller.name if meta.controller else ""
        if meta.deletion_timestamp is not None:
            self.deleting.add(meta.uid)
            self.dying.set()
        if any(
            c.type == "ContainersReady" and c.status == "True" for c in record.status.conditions
        ):
            self.up.setdefault(meta.uid, now)
        self.changed.set()

    def drop(self, record: wire.Pod) -> None:
        self.deleting.add(record.metadata.uid)
        self.dying.set()
        self.gone.add(record.metadata.uid)
        self.changed.set()

    async def until(self, check: Callable[[], bool], what: str) -> None:
        """Wait until something seen makes this true; raises TimeoutError."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while not check():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            counts = f"{len(self.created)} created, {len(self.up)} up, {len(self.gone)} gone"
            raise TimeoutError(f"waited {TIMEOUT:g} s for {what}: {counts}") from None


@asynccontextmanager
async def watching(client: ApiClient, namespace: str) -> AsyncIterator[Seen]:
    """Follow the pods of a namespace, or of all if it is empty."""
    seen = Seen()
    resource = informer.Resource(path=paths.pods(namespace), scope=namespace, name="bench")
    stream = informer.Informer(client, resource, wire.Pod, seen)
    task = asyncio.create_task(stream.run())
    await stream.synced.wait()
    try:
        yield seen
    finally:
        task.cancel()
