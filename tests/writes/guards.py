"""What keeps a write from hitting anything but what it means, and its loss, one at a time.

A guard is a UID or a version in the body of a write, or the operator's own fence.  Each guard is
tried where it matters: :class:`Guarded` changes the world in the moment of the write, so that only
this guard can keep it from doing harm.  A :class:`Mutant` is a write that lost one.
"""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Any

import orjson

from sglang_operator.kube.errors import FencedError
from tests.memory_api import MemoryApi
from tests.writes.sites import Site, sites


class Guard(Enum):
    """What a write may carry, and in which part of its body the API server looks for it."""

    UID = ("uid", ("preconditions", "metadata"))
    VERSION = ("resourceVersion", ("preconditions", "metadata"))
    FENCE = ("fence", ())
    DRY_RUN = ("dryRun", ())  # of a create that is not to be carried out

    def __init__(self, key: str, parts: tuple[str, ...]) -> None:
        self.key = key
        self.parts = parts

    def carried(self, body: Mapping[str, Any]) -> bool:
        """Whether this body asks for it."""
        return any((body.get(part) or {}).get(self.key) for part in self.parts)

    def lose(self, body: Mapping[str, Any]) -> None:
        """Take it out of the body."""
        for part in self.parts:
            (body.get(part) or {}).pop(self.key, None)


@dataclass(frozen=True)
class Mutant:
    """A write without one of its guards."""

    site: Site
    guard: Guard

    def __str__(self) -> str:
        return f"{self.site} without its {self.guard.key}"


class Guarded:
    """A client over an API server in memory, with the fence of the operator's own client.

    ``tried``: the guard that the world is turned against, in the moment of a write.
    ``harmed``: the writes that went through all the same.
    """

    def __init__(
        self, api: MemoryApi, tried: Guard | None = None, mutant: Mutant | None = None
    ) -> None:
        self.api = api
        self.carried: dict[Site, set[Guard]] = {}
        self.harmed: set[Site] = set()
        self.wrote = asyncio.Event()
        self._tried = tried
        self._mutant = mutant

    async def request(
        self, method: str, path: str, *, body: bytes | None = None, fenced: bool = True, **rest: Any
    ) -> bytes:
        """As ``ApiClient.request``."""
        if method == "GET":
            return await self.api.request(method, path, **rest)
        site = _site(sys._getframe(1))
        content = orjson.loads(body) if body else {}
        lost = self._mutant.guard if self._mutant and self._mutant.site == site else None
        if lost is Guard.FENCE:
            fenced = False
        elif lost is Guard.DRY_RUN:
            rest["params"] = {}
        elif lost is not None:
            lost.lose(content)
        guards = {guard for guard in Guard if guard.carried(content)} if method != "POST" else set()
        if (rest.get("params") or {}).get(Guard.DRY_RUN.key) == "All":
            guards.add(Guard.DRY_RUN)
        # A second try is made of what was read after the first: that one may go through.
        tried = self._tried if site not in self.carried else None
        self.carried.setdefault(site, set()).update(guards | ({Guard.FENCE} if fenced else set()))
        await asyncio.sleep(0)
        try:
            if tried is Guard.FENCE and fenced:
                raise FencedError(f"{method} {path}: another operator holds the Lease")
            self._turn(path, tried)
            before = len(self.api.objects)
            answer = await self.api.request(method, path, body=orjson.dumps(content), **rest)
            made = len(self.api.objects) > before
            if tried is not None and (tried is not Guard.DRY_RUN or made):
                self.harmed.add(site)
            return answer
        finally:
            self.wrote.set()

    def _turn(self, path: str, tried: Guard | None) -> None:
        """Make the object another of the same name and version, or let somebody change it."""
        path = path.removesuffix("/status")
        known = self.api.objects.get(path)
        if known is None:
            return
        if tried is Guard.UID:
            # The same version: as after etcd was restored from a backup.
            self.api.add(path, known, version=known["metadata"]["resourceVersion"])
        elif tried is Guard.VERSION:
            self.api.touch(path, {"metadata": {"annotations": {"somebody": "else"}}})


def _site(frame: FrameType | None) -> Site:
    """The innermost write of the source that this request comes from."""
    while frame is not None:
        for site in sites():
            if site.holds(frame.f_code.co_filename, frame.f_lineno):
                return site
        frame = frame.f_back
    raise AssertionError("a write that is not in the list of writes")
