"""An informer: a kind's objects as the API server has them, kept current by LIST and WATCH.

The rules (explanation/kubernetes.md): the list is a quorum read, paged; what vanished between two
lists is deleted from the store; the watch goes on from the last version seen, bookmarks included; a
410 in any form lists again, and so does what was refused; everything else backs off and tries on;
nothing ends the process.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol

import msgspec

from sglang_operator import supervision
from sglang_operator.backoff import Backoff
from sglang_operator.clocks import steady
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.decoding import (
    Decoder,
    Page,
    R,
    Unread,
    UnreadError,
    WatchEvent,
    called,
    is_named,
)
from sglang_operator.kube.errors import (
    ApiError,
    ApiTooLargeError,
    ApiUnreachableError,
)
from sglang_operator.kube.transport import lines
from sglang_operator.observed.wire import Meta

PAGE = 500
MAX_LINE = 32 * 1024 * 1024
# Bookmarks come every minute: a stream that is silent for longer is dead.
IDLE_SECONDS = 75.0
WATCH_SECONDS = (300, 600)
BACKOFF = Backoff(0.1, 30.0, jitter=0.5)
# A stream that was up for so long was a good one, however it ended.
GOOD_SECONDS = 20.0
# After somebody else heard of what a stream did not, it is begun anew no more often than this.
ANEW_SECONDS = 30.0
# One that ends sooner, however politely, was none: a server that shuts down, or a proxy's answer.
SHORT_SECONDS = 1.0
# A stream that only ever fails from one version on is not going to get better from there.
FAILURES_BEFORE_RELIST = 5
# The rights to read it are not there, or what it is about is not: until somebody changes that.
REFUSALS = (403, 404)

log = logging.getLogger(__name__)


class Sink(Protocol[R]):
    """Where an informer puts what it learns."""

    def replace(
        self, scope: str, records: list[R], version: int, unread: Sequence[Meta] = ()
    ) -> None:
        """These are all objects of the scope as of this version; what is known to be newer stays.

        ``unread`` are there too, but what they are is not known: they stay as they were.
        """

    def restored(self) -> None:
        """The next list is of an earlier state of the cluster: its versions began anew."""

    def put(self, record: R) -> None:
        """This object is there, in this state."""

    def drop(self, record: R) -> None:
        """This object is gone."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """What to list and watch.  ``path`` is that of the collection."""

    path: str
    scope: str  # the namespace, or "" for all
    selector: str = ""
    name: str = ""  # for logs and probes
    optional: str = ""  # its kind, where a cluster may not know it: then there is none of it
    spare: bool = False  # nor is there where it may not be read

    @property
    def params(self) -> dict[str, str]:
        return {"labelSelector": self.selector} if self.selector else {}


class _ErrorObject(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Error(msgspec.Struct):
    type: str
    object: _ErrorObject


class ExpiredError(Exception):
    """The version to go on from is too old: list again."""


@dataclass
class Informer(Generic[R]):
    """One stream.  ``run`` never returns; ``synced`` is set after the first list."""

    client: ApiClient
    resource: Resource
    kind: type[R]
    sink: Sink[R]
    kept: Callable[[R], R] | None = None  # as much of an object as the sink keeps
    on_refused: Callable[[ApiError], None] | None = None  # at the first refusal of its kind
    on_list: Callable[[], None] | None = None  # before each list
    on_served: Callable[[], None] | None = None  # after each list
    refused: ApiError | None = None  # why it may not be read, since the last list
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    on_heard: Callable[[float], None] | None = None  # with the seconds of silence before
    last_heard: float = field(default_factory=steady)  # or when it was made
    tried: float = field(default_factory=steady)  # when an attempt got on, or the next is due
    lists: int = 0

    def __post_init__(self) -> None:
        self._version = ""
        self._decoder = Decoder(self.kind)
        self._newest = 0  # the highest version that was heard of
        self._missed = False  # an event of nobody knows what
        self._watching: asyncio.Timeout | None = None  # ends the watch that is under way
        self._begun_anew = -ANEW_SECONDS
        self.unread: dict[tuple[str, str], Unread] = {}  # by namespace and name

    def age(self) -> float:
        """Seconds since anything was heard from the API server on this stream."""
        return steady() - self.last_heard

    @property
    def is_absent(self) -> bool:
        """Whether it is of a kind that may be absent from the cluster, and is, or as good as."""
        refused, resource = self.refused, self.resource
        if refused is None or not resource.optional:
            return False
        return refused.status == 404 or (resource.spare and refused.status == 403)

    def idle(self) -> float:
        """Seconds since it was last seen to try, whatever the answer was.

        Nothing is heard while the API server is away, and nobody can help that by beginning anew.
        """
        return steady() - max(self.tried, self.last_heard)

    @property
    def newest(self) -> int:
        """The highest version that this stream has heard of; 0 before its first list."""
        return self._newest

    def begin_anew(self) -> bool:
        """End the watch that is under way, and list again; whether that is done.

        For somebody else has heard of what this stream should have told by now.  It is not done
        before the first list, nor twice within ``ANEW_SECONDS``.
        """
        if self._watching is None or steady() - self._begun_anew < ANEW_SECONDS:
            return False
        self._begun_anew = steady()
        self._watching.reschedule(asyncio.get_running_loop().time())
        return True

    async def run(self) -> None:
        """List, watch, and begin again, for ever; run again, it lists anew."""
        self._version = ""
        tries, failures = 0, 0
        while True:
            begun = time.monotonic()
            answered, asked = True, 0.0
            try:
                if not self._version:
                    await self._relist()
                watching = time.monotonic()
                await self._watch()
                if time.monotonic() - watching > SHORT_SECONDS:
                    tries, failures = 0, 0
                    self._version = "" if self._missed else self._version
                    self.tried = steady()
                    continue  # the server ended the watch in good order
                failures += 1
            except ExpiredError:
                log.info("%s: version expired, listing again", self.resource.name)
                self._version = ""
                failures = 0
            except ApiError as error:
                self._note_failure(error)
                answered = not error.own
                asked = min(error.retry_after or 0.0, BACKOFF.most)
                failures += 1
            except ApiUnreachableError as error:
                answered = not error.own
                log.warning("%s: %s", self.resource.name, error)
                failures += 1
            except (msgspec.DecodeError, ValueError) as error:
                log.warning("%s: %s", self.resource.name, error)
                failures += 1
            if time.monotonic() - begun > GOOD_SECONDS:
                tries, failures = 0, 0  # it only broke in the end
            if failures >= FAILURES_BEFORE_RELIST:
                self._version, failures = "", 0
            pause = max(asked, BACKOFF.pause(tries, random.random()))
            if answered:
                self.tried = steady() + pause
            await asyncio.sleep(pause)
            tries += 1

    async def _relist(self) -> None:
        if self.on_list is not None:
            self.on_list()
        records: list[R] = []
        unread: list[Unread] = []
        params = {**self.resource.params, "limit": str(PAGE)}
        while True:
            try:
                page = await self._page(params)
            except ApiError as error:
                if error.status == 410:
                    raise ExpiredError from error
                raise
            self.tried = steady()
            # Page by page: all that a list brings would not fit.
            records += map(self.kept, page.records) if self.kept else page.records
            unread += page.unread
            if not page.more:
                break
            params["continue"] = page.more
        self._heard()
        self._note_unread(unread)
        # What cannot be read is there: an object is never deleted for that.
        there = ([known.metadata for known in unread],) if unread else ()
        version = int(page.version)
        if version < self._newest:
            # A quorum read is never older than what was seen before it, but for etcd's backups.
            log.warning("%s: the cluster was restored from a backup", self.resource.name)
            self.sink.restored()
        self._newest = version
        self.sink.replace(self.resource.scope, records, version, *there)
        self._version = page.version  # only now is the list done
        self._missed = False
        self.lists += 1
        self.synced.set()
        if self.refused is None:
            self._served()  # else it is once it may be watched as well

    async def _page(self, params: dict[str, str]) -> Page[R]:
        """The next page, with fewer objects from then on if these are too large together."""
        while True:
            try:
                body = await self.client.request("GET", self.resource.path, params=params)
                break
            except ApiTooLargeError:
                if params["limit"] == "1":
                    raise
                params["limit"] = str(max(1, int(params["limit"]) // 8))
        try:
            return self._decoder.page(body)
        except Exception:  # of one object, or of the list itself
            return await asyncio.to_thread(self._decoder.page_in_pieces, body)

    def _note_unread(self, unread: list[Unread]) -> None:
        """These are all that cannot be read; who is new among them is told."""
        before, self.unread = self.unread, {}
        for known in unread:
            key = (known.metadata.namespace, known.metadata.name)
            if key not in before:
                log.error("%s: %s; it stays as it was last seen", self.resource.name, known)
            self.unread[key] = known

    async def _watch(self) -> None:
        params: Mapping[str, str] = {
            **self.resource.params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),
        }
        try:
            async with asyncio.timeout(None) as self._watching:
                await self._follow(params)
        except ApiError as error:
            if error.status == 410:
                raise ExpiredError from error
            raise
        except TimeoutError as error:
            raise ExpiredError from error  # begun anew
        finally:
            self._watching = None

    async def _follow(self, params: Mapping[str, str]) -> None:
        async with self.client.stream(self.resource.path, params, idle=IDLE_SECONDS) as chunks:
            if self.refused is not None:
                self._served()
            async for line in lines(chunks, MAX_LINE):
                self._heard()
                await self._handle(line)

    async def _handle(self, line: bytes) -> None:
        try:
            event = self._decoder.event(line)
        except Exception:
            # Where nothing can be made of the line at all, this raises ValueError.
            self._fail(line)  # an error's object is of another kind
            try:
                event = await asyncio.to_thread(self._decoder.event_in_pieces, line)
            except UnreadError as error:
                self._pass_over(error.unread)
                return
        if event.type == "ERROR":
            self._fail(line)
        meta = event.object.metadata
        if 0 < meta.version < self._newest:
            raise ExpiredError  # a stream never goes back: it is another cluster's
        self._newest = max(self._newest, meta.version)
        self.unread.pop((meta.namespace, meta.name), None)
        # An object that a store cannot take costs itself alone.
        try:
            self._take(event)
        except Exception as error:
            supervision.failed(self.resource.name, error, about=called(event.object))
        self._version = meta.resource_version

    def _take(self, event: WatchEvent[R]) -> None:
        if event.type == "DELETED":
            self.sink.drop(event.object)
        elif event.type != "BOOKMARK":
            self.sink.put(event.object)

    def _pass_over(self, unread: Unread) -> None:
        """Go on without an event; what it was about stays as it was last seen."""
        meta = unread.metadata
        if is_named(meta):
            self._note_unread([*self.unread.values(), unread])
            self._version = meta.resource_version
        else:
            log.error("%s: an event is passed over: %s", self.resource.name, unread)
            self._missed = True  # the next list tells

    def _fail(self, line: bytes) -> None:
        """Raise what the API server tells by an event of type ERROR, if this is one."""
        try:
            told = msgspec.json.decode(line, type=_Error)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return
        if told.type == "ERROR":
            if told.object.code == 410:
                raise ExpiredError
            raise ApiError(told.object.code, "WatchError", told.object.message, None)

    def _note_failure(self, error: ApiError) -> None:
        """Tell an error; of a refusal, which may last for ever, only the first.

        After one it is listed anew: nobody knows what happened meanwhile.
        """
        if error.status not in REFUSALS:
            log.warning("%s: %s", self.resource.name, error)
            return
        self._version = ""
        is_first = self.refused is None or self.refused.status != error.status
        self.refused = error
        untold = self.is_absent and error.status == 404
        level = logging.INFO if untold else logging.WARNING
        log.log(level if is_first else logging.DEBUG, "%s: %s", self.resource.name, error)
        if is_first and self.on_refused is not None:
            self.on_refused(error)

    def _served(self) -> None:
        """The API server lets this be read."""
        if self.refused is not None:
            log.info("%s: can be read again", self.resource.name)
            self.refused = None
        if self.on_served is not None:
            self.on_served()

    def _heard(self) -> None:
        silent, self.last_heard = self.age(), steady()
        if self.on_heard is not None:
            self.on_heard(silent)
