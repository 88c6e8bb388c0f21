"""Which of the watched namespaces can be read.

Where the operator watches namespaces one by one, each has a Role of its own, and whoever rules a
namespace may take it away.  Then nothing is planned from what was seen there before, and all other
namespaces are served on.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sglang_operator.kube.errors import ApiError
from sglang_operator.kube.informer import BACKOFF, Informer

log = logging.getLogger(__name__)

Stream = Informer[Any]

# An API server that has just begun refuses what it has not read the roles for yet, and streams ask
# again so far apart at most.  Each tells its own refusal at once, as a warning.
TOLD_AFTER_SECONDS = BACKOFF.most


class Coverage:
    """The streams of pools and their children, by scope: a namespace, or "" for all at once.

    A scope is read while none of its streams is refused, and each has listed since it last was.
    Of a kind that may be absent from the cluster, and is, there is nothing to read.  ``again`` is
    called with a scope that is read from now on, or of which a kind came or went.
    """

    def __init__(self, again: Callable[[str], None]) -> None:
        self._again = again
        self._streams: dict[str, list[Stream]] = {}
        self._unread: set[str] = set()
        self._absent: defaultdict[str, set[str]] = defaultdict(set)
        self._to_be_told: dict[str, asyncio.TimerHandle] = {}  # by scope that is refused
        self._news = asyncio.Event()

    def add(self, scope: str, stream: Stream) -> None:
        """This stream belongs to what must be read of the scope."""
        self._streams.setdefault(scope, []).append(stream)
        self._unread.add(scope)
        stream.on_refused = lambda error: self._on_refused(scope, stream, error)
        stream.on_served = lambda: self._on_kind_served(scope, stream)

    def __contains__(self, stream: Stream) -> bool:
        return any(stream is of for streams in self._streams.values() for of in streams)

    def reads(self, namespace: str) -> bool:
        """Whether what is known of this namespace is of the present."""
        return namespace not in self._unread and "" not in self._unread

    def absent(self, namespace: str) -> frozenset[str]:
        """The kinds that pools do without now: unknown to the cluster, or not to be read."""
        return frozenset(self._absent.get("", set()) | self._absent.get(namespace, set()))

    def refused(self) -> list[str]:
        """The scopes of which something may not be read."""
        return [scope for scope, streams in self._streams.items() if any(map(_refused, streams))]

    def told(self) -> list[str]:
        """The same in words, and which streams these are."""
        return [
            f"{_called(scope)} ({', '.join(_kind(s) for s in self._streams[scope] if _refused(s))})"
            for scope in self.refused()
        ]

    def excused(self) -> list[str]:
        """The scopes without which the operator does its work: refused, while others are not."""
        refused = self.refused()
        return refused if len(refused) < len(self._streams) else []

    def excuses(self, stream: Stream) -> bool:
        """Whether the operator does its work without this stream."""
        excused = (of for scope in self.excused() for of in self._streams[scope])
        return stream.is_absent or any(stream is of for of in excused)

    async def settled(self) -> None:
        """Return once a scope is read, and each of the others is read or refused."""
        while not self._is_settled():
            self._news.clear()
            await self._news.wait()

    def _is_settled(self) -> bool:
        return self._unread <= set(self.excused())

    def _on_refused(self, scope: str, stream: Stream, error: ApiError) -> None:
        if stream.is_absent:
            self._absent[scope].add(stream.resource.optional)
            self._on_served(scope)
            self._again(scope)
            return
        if scope not in self._to_be_told:
            later = asyncio.get_running_loop().call_later
            self._to_be_told[scope] = later(TOLD_AFTER_SECONDS, self._tell, scope, stream, error)
        self._unread.add(scope)
        self._news.set()

    def _tell(self, scope: str, stream: Stream, error: ApiError) -> None:
        log.error(
            "%s: nothing is done for its pools until all of it can be read again: %s: %s",
            _called(scope),
            stream.resource.name,
            error,
        )

    def _on_kind_served(self, scope: str, stream: Stream) -> None:
        self._on_served(scope)
        if stream.resource.optional in self._absent[scope]:
            self._absent[scope].discard(stream.resource.optional)
            self._again(scope)

    def _on_served(self, scope: str) -> None:
        self._news.set()
        streams = self._streams[scope]
        if not any(map(_refused, streams)) and scope in self._to_be_told:
            self._to_be_told.pop(scope).cancel()
        whole = all(map(_is_read, streams))
        if whole and scope in self._unread:
            self._unread.discard(scope)
            log.info("%s: its pools are served", _called(scope))
            self._again(scope)


def _refused(stream: Stream) -> bool:
    return stream.refused is not None and not stream.is_absent


def _is_read(stream: Stream) -> bool:
    return stream.is_absent or (stream.synced.is_set() and stream.refused is None)


def _kind(stream: Stream) -> str:
    return stream.resource.path.rpartition("/")[2]


def _called(scope: str) -> str:
    return f"namespace {scope}" if scope else "all namespaces"
