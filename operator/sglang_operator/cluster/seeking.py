"""Asks for the pods of which no stream tells, each by its name, until it is over.

Once for all pools, and beside their passes: what cannot be learnt keeps the GPUs of that pod from
others, and nothing else.  Each namespace has its own turn: one in which no pod may be read, or
that is full of such pods, delays no other's answers.
"""

import asyncio
import logging
from dataclasses import dataclass

from sglang_operator import supervision
from sglang_operator.backoff import Backoff
from sglang_operator.clocks import steady
from sglang_operator.cluster.stores import PodStore
from sglang_operator.cluster.unseen import UnseenPod
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.decoding import Decoder, UnreadError
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.observed import wire

# Requests at a time: of one namespace, and of all.
AT_ONCE_OF_ONE = 4
AT_ONCE = 16
# Between two questions about one pod: the longer it is hidden already, the longer.
FIRST_SECONDS, MOST_SECONDS, PART = 2.0, 30.0, 0.1
# And no more than one of a namespace in so long, on average.
EACH_SECONDS = 0.02
# So many answers in a row that are none, and the rest of the namespace's waits for its next turn.
FEW_FAILURES = 8
PAGE = 500
_FAILED = Backoff(2.0, 60.0)  # of a namespace, whose pods cannot be read

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """When a pod was asked for, by the steady clock."""

    first: float
    last: float
    due: float  # again


@dataclass
class _Turn:
    """A namespace's turn."""

    due: float = 0.0  # the next
    failures: int = 0  # turns in a row
    task: asyncio.Task[None] | None = None


class Seeker:
    """Learns whether they are there; ``run`` goes on for ever."""

    def __init__(self, client: ApiClient, pods: PodStore) -> None:
        self._client = client
        self._pods = pods
        self._decoder = Decoder(wire.Pod)
        self._free = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[str, _Asked] = {}  # by UID
        self._turns: dict[str, _Turn] = {}  # by namespace

    async def run(self) -> None:
        """Begin a turn of each namespace where one is due."""
        unseen = self._pods.unseen
        try:
            while True:
                unseen.news.clear()
                known = set(unseen.namespaces)
                for namespace in known:
                    turn = self._turns.setdefault(namespace, _Turn())
                    if turn.task is None and self._is_due(namespace, turn):
                        turn.task = supervision.begun("unseen", self._take(namespace, turn))
                for namespace in [n for n, t in self._turns.items() if n not in known]:
                    if self._turns[namespace].task is None:
                        del self._turns[namespace]
                await self._wait()
        finally:
            for turn in self._turns.values():
                if turn.task is not None:
                    turn.task.cancel()

    async def _wait(self) -> None:
        """Until there is one more, a turn has ended, or the next is due."""
        waiting = [turn.due for turn in self._turns.values() if turn.task is None]
        pause = max(0.0, min(waiting) - steady()) if waiting else None
        try:
            async with asyncio.timeout(pause):
                await self._pods.unseen.news.wait()
        except TimeoutError:
            pass

    def _is_due(self, namespace: str, turn: "_Turn") -> bool:
        """Whether its time has come; of one that was never asked for it has, if others answer."""
        if turn.due <= steady():
            return True
        return not turn.failures and self._pods.unseen.has_new(namespace)

    async def _take(self, namespace: str, turn: "_Turn") -> None:
        """Ask for those that are due in this namespace."""
        begun, unseen = steady(), self._pods.unseen
        error: Exception | None = None
        try:
            error = await self._ask_for(self._due(namespace))
            if beyond := unseen.beyond(namespace):
                error = error or await self._recount(namespace, beyond)
        finally:
            if error is None:
                turn.failures = 0
            else:
                turn.failures += 1
                log.log(
                    logging.WARNING if turn.failures == 1 else logging.DEBUG,
                    "pods of %s that may be there, and of which no stream tells: %s",
                    namespace,
                    error,
                )
            pause = max(FIRST_SECONDS, EACH_SECONDS * len(unseen.of(namespace)))
            turn.due = begun + max(pause, _FAILED.pause(turn.failures) if turn.failures else 0.0)
            turn.task = None
            self._asked = {uid: each for uid, each in self._asked.items() if uid in unseen}
            unseen.news.set()

    def _due(self, namespace: str) -> list[UnseenPod]:
        """Those to be asked for, who waited longest first."""
        now, found = steady(), []
        for each in self._pods.unseen.of(namespace):
            asked = self._asked.get(each.pod.uid)
            if asked is None or asked.due <= now:
                found.append((asked.last if asked else 0.0, each))
        return [each for _, each in sorted(found, key=lambda one: one[0])]

    async def _ask_for(self, pods: list[UnseenPod]) -> Exception | None:
        """What kept some of them from being learnt."""
        steps, failed = iter(pods), list[Exception]()
        in_a_row = 0

        async def work() -> None:
            nonlocal in_a_row
            for each in steps:
                if in_a_row >= FEW_FAILURES:
                    return
                try:
                    async with self._free:
                        await self._ask(each)
                    in_a_row = 0
                except (ApiError, ApiUnreachableError) as error:
                    in_a_row += 1
                    failed.append(error)

        await asyncio.gather(*(work() for _ in range(min(AT_ONCE_OF_ONE, len(pods)))))
        return failed[-1] if failed else None

    async def _ask(self, each: UnseenPod) -> None:
        uid, now = each.pod.uid, steady()
        self._pods.unseen.asked(each)
        first = self._asked[uid].first if uid in self._asked else now
        pause = min(MOST_SECONDS, max(FIRST_SECONDS, PART * (now - first)))
        self._asked[uid] = _Asked(first=first, last=now, due=now + pause)
        try:
            answer = await self._client.request("GET", paths.pod(each.namespace, each.pod.name))
        except ApiError as error:
            if not error.missing:
                raise
            self._pods.looked(uid, None)
            return
        self._pods.looked(uid, self._decoder.object(answer))

    async def _recount(self, namespace: str, beyond: int) -> Exception | None:
        """Read all pods of the namespace; what keeps that from being done."""
        records: list[wire.Pod] = []
        params = {"limit": str(PAGE)}
        try:
            while True:
                async with self._free:
                    body = await self._client.request("GET", paths.pods(namespace), params=params)
                page = self._decoder.any_page(body)
                if page.unread:
                    return UnreadError(page.unread[0])
                records += page.records
                if not page.more:
                    break
                params["continue"] = page.more
        except (ApiError, ApiUnreachableError, ValueError) as error:
            return error
        self._pods.recount(namespace, records, beyond)
        return None
