"""What a sync writes to its engines, kept until the commit: nothing is vouched for that failed.

The rule: a commit waits for the updates that are under way.  One that failed, was cancelled or came
too late is in the way of the commit, whether the trainer has looked at its error or not, until on
every engine that it concerned an update that was begun afterwards succeeds: the same one again, or
all weights from disk.  An engine that got no update while others did is in the way too.

An update counts from the moment in which the trainer asks for it (``Asked``), not from that in
which it is under way: what is lost before is as absent from the engine as what is lost on its way.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sglang_operator.client import texts
from sglang_operator.client.errors import NotReady
from sglang_operator.client.registry import Engine

WHOLE = "/update_weights_from_disk"
# SGLang's calls that change weights.
_WRITES = ("/update_weights", "/post_process_weights")
_UPDATES = "/update_weights"
# That a commit waits for updates which nobody waited for.
UNDER_WAY_SECONDS = 60.0


@dataclass(kw_only=True)
class _Failed:
    path: str
    what: object
    engines: set[str]  # that still lack it
    error: Exception


class Ledger:
    """The updates of one sync; used in its loop's thread."""

    def __init__(self) -> None:
        self.elsewhere = False  # whether the sync has updates that another ledger saw
        self._under_way = 0
        self._idle = asyncio.Event()
        self._failed: list[_Failed] = []
        self._written: set[str] = set()
        self._over = False

    @contextmanager
    def update(self, path: str, what: object, engines: Iterable[Engine]) -> Iterator[None]:
        """An update of these engines, from its first moment to its end.

        ``what`` is equal for an update that is made again.  Raises NotReady for one that comes
        after the trainer has said that all are done.  Calls that change no weights are let through.
        """
        if not path.startswith(_WRITES):
            yield
            return
        concerned = {engine.engine for engine in engines}
        before = self._so_far()
        self._under_way += 1
        try:
            if self._over:
                raise NotReady(texts.UPDATE_LATE.format(path=path))
            yield
        except BaseException as error:
            self._fail(path, what, concerned, error)
            raise
        else:
            self._make_good(before, path, what, concerned)
            self._written |= concerned if path.startswith(_UPDATES) else set()
        finally:
            self._under_way -= 1
            self._idle.set()

    def _so_far(self) -> list[_Failed]:
        return list(self._failed)

    def _entered(self, error: BaseException) -> bool:
        """Whether what failed with this error is known already: engine by engine."""
        return any(failed.error is error for failed in self._failed)

    def _fail(self, path: str, what: object, engines: set[str], error: BaseException) -> None:
        if self._entered(error):
            return
        if not isinstance(error, Exception):
            error = NotReady(texts.UPDATE_CANCELLED.format(path=path))
        self._failed.append(_Failed(path=path, what=what, engines=engines, error=error))

    def _make_good(self, before: list[_Failed], path: str, what: object, done: set[str]) -> None:
        for failed in before:
            if path == WHOLE or (failed.path, failed.what) == (path, what):
                failed.engines -= done
        self._failed = [failed for failed in self._failed if failed.engines]

    async def settled(self, engines: Iterable[Engine] = ()) -> None:
        """Wait for what is under way; from then on nothing may come.

        Raises as ``vouch``, NotReady if an update does not end.
        """
        await self.ended()
        self._over = True
        self.vouch(engines)

    async def ended(self) -> None:
        """Wait for what is under way.  Raises NotReady if an update does not end."""
        await asyncio.sleep(0)  # tasks that were just created take their first step
        try:
            async with asyncio.timeout(UNDER_WAY_SECONDS):
                while self._under_way:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            raise NotReady(
                texts.UNDER_WAY.format(count=self._under_way, seconds=UNDER_WAY_SECONDS)
            ) from None

    def vouch(self, engines: Iterable[Engine] = ()) -> None:
        """Raises the first error that was not made good; NotReady if one of these got no update.

        Where nothing was written through this ledger, the trainer has means of its own.
        """
        for failed in self._failed:
            raise failed.error
        left_out = [engine for engine in engines if engine.engine not in self._written]
        if left_out and self._written and not self.elsewhere:
            first = left_out[0]
            raise NotReady(
                texts.LEFT_OUT.format(
                    count=len(left_out), rank=first.rank, engine=first.engine, url=first.url
                )
            )

    @property
    def lacking(self) -> bool:
        """Whether an update failed and was not made good yet."""
        return bool(self._failed)

    def written(self, engines: Iterable[Engine]) -> list[Engine]:
        """Those of these engines that got an update."""
        return [engine for engine in engines if engine.engine in self._written]


class Asked(Ledger):
    """What a trainer asks of one process in an attempt at an update, through all of its syncs.

    The attempt's first sync may begin after the first bucket is asked for, and another one may
    begin in its course, over an abort.  Only what is written in that last one is in its commit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: list[_Failed] = []  # in the sync that goes on; see begins

    def begins(self) -> None:
        """Another sync: who had the engines between the two may have written over the first."""
        self._failed += [made for made in self._made if made.engines]
        self._made = []

    def _so_far(self) -> list[_Failed]:
        return [*self._failed, *self._made]

    def _entered(self, error: BaseException) -> bool:
        return False  # one error may be that of many buckets, as a sync's that was lost

    def _make_good(self, before: list[_Failed], path: str, what: object, done: set[str]) -> None:
        super()._make_good(before, path, what, done)
        self._made = [made for made in self._made if made.engines]
        error = NotReady(texts.WRITTEN_BEFORE.format(path=path))
        self._made.append(_Failed(path=path, what=what, engines=set(done), error=error))
