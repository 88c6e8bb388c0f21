"""The Lease ``<pool>-weights``, one step at a time: read, decide, put if nobody was quicker."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sglang_operator import supervision
from sglang_operator.client import texts
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import (
    ClusterError,
    Expired,
    Held,
    NotReady,
    PoolError,
)
from sglang_operator.client.lease_watch import LeaseWatch
from sglang_operator.client.refusals import typed
from sglang_operator.clocks import steady
from sglang_operator.sending import DELIVERY_SECONDS
from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights import lease_state, steps
from sglang_operator.weights.lease_state import Transaction

RETRY_SECONDS = 0.1  # after an API server that did not answer, doubling
MAX_RETRY_SECONDS = 2.0
CONFLICT_SECONDS = 0.02  # after somebody else was quicker, doubling; as often as patience lasts
UNANSWERED_SECONDS = 60.0  # after which the API server has given up a request, too
CLOSE_SECONDS = 2.0  # that a process which ends gives what it still owes to the Lease
# What a request may still take to arrive once it has left, and how exact a holder's timing is.
_IN_FLIGHT = DELIVERY_SECONDS + 1.0
MARGIN = 0.7  # of its duration for which a renewal counts: less than others wait
POLL_SECONDS = 0.5  # while another holds the Lease
WATCHED_SECONDS = 5.0  # between two looks at a Lease that is watched: a watch may die in silence
# For which the operator's loads are waited for, by everybody: an engine that reads its weights
# does nothing else before it is done.  A large model from a slow volume takes minutes.
RECOVERY_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class LeaseObservation:
    """When the Lease was looked at, and since when it was seen in its state; one clock, ours."""

    now: float
    seen: float
    groups: float = 0.0  # since when what it says of process groups was seen
    lease: str = ""  # the UID of this very Lease
    pool: str = ""  # the UID of the pool that it is of


@dataclass(frozen=True, kw_only=True)
class Written:
    """A state that was put, into which Lease, and when it was sent, by the steady clock."""

    state: Transaction
    lease: str
    pool: str
    at: float


Step = Callable[[Transaction, LeaseObservation], Transaction]
_Known = tuple[Mapping[str, Any], Transaction]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Owed:
    """What has happened to engines, or to a sync, and is not on record yet."""

    lease: str | None  # the UID of the one that it belongs into; None: the step itself looks
    step: Step
    words: str  # what is told where it was not put on record
    passes: bool  # where its transaction is over by itself, nothing is lost


def recorded(duration: float) -> float:
    """The duration that a Lease says, by which others wait, for one that a trainer gives.

    Longer where what left at the last moment could arrive after others have begun.
    """
    return max(duration, duration * MARGIN + _IN_FLIGHT)


def counted(recorded: float) -> float:
    """For how long its holder counts on a renewal, of a Lease that says this duration."""
    return min(recorded * MARGIN, recorded - _IN_FLIGHT)


class WeightsLease:
    """The Lease of one pool.  Steps of one process are taken one after the other.

    What has happened to engines, and that a sync is over, stays owed until it stands there, however
    long the API server is away: it goes with the next step, whichever that is, and is tried by
    itself meanwhile.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = asyncio.Lock()
        self._owed: list[_Owed] = []
        self._paying: asyncio.Task[None] | None = None
        # The resource version on which a write rests that may still come through, and until when.
        self._unanswered = ("", 0.0)
        # Of the state as last read: the whole but for its resource version, and when it appeared.
        self._state: Transaction | None = None
        self._since = 0.0
        self._asked = float("-inf")  # when the last request left that showed it
        self._appeared = float("-inf")  # what it was not there before
        # The same of what it says of process groups, which is no sign of its holder.
        self._groups_since = 0.0
        self._groups_appeared = float("-inf")
        self._number = 0  # its resource version
        self._lease: Mapping[str, Any] | None = None  # the object itself
        self._own = False  # whether this process has put it there
        self._told_at = float("-inf")  # when the watch told of that
        self.watch = LeaseWatch(cluster, self._hear, lambda: self._number)

    async def read(self) -> Transaction:
        """What stands in the Lease now.  Raises PoolError."""
        _, state = await self._read()
        return state

    async def current(self) -> Transaction:
        """The state as the watch shows it; as it is read now where none does.  Raises PoolError."""
        return self._state if self._state and self.watch.alive else await self.read()

    async def step(self, step: Step, *, patience: float) -> Written:
        """Take one step; the state after it.  One that gives back the very state writes nothing.

        ``patience``: seconds to go on without an API server, or while others are quicker.  Raises
        the typed form of a refusal, NotReady without a Lease, or ClusterError once patience ends.
        """
        async with self._lock:
            return await self._step(step, steady() + patience)

    async def record(
        self,
        lease: str | None,
        step: Step,
        *,
        patience: float,
        words: str = texts.OWED,
        passes: bool = False,
    ) -> None:
        """Put on record what has happened to engines, or to a sync.

        After ``patience`` seconds this raises PoolError, and it is tried on all the same, whatever
        went wrong.  It is given up in a Lease that is another's, or another one, by then, once no
        write without an answer can come through any more.
        ``words`` are told then, unless it ``passes`` with its transaction, and at the end.
        """
        self._owed.append(_Owed(lease=lease, step=step, words=words, passes=passes))
        try:
            await self._pay(patience)
        except Exception:
            if self._owed and self._paying is None:
                self._paying = asyncio.create_task(self._keep_paying(), name="owed to the Lease")
            raise

    async def newer(self, known: Transaction, seconds: float, *, most: float) -> Transaction:
        """The state once it is another, or after ``seconds`` as it is then.

        While it is watched, that is asked for each WATCHED_SECONDS only, or after ``most``.  Raises
        PoolError.
        """
        self.watch.start()
        begun = steady()
        while self._state is None or self._state == known:
            watched = max(seconds, min(WATCHED_SECONDS, most))
            limit = watched if self.watch.alive else seconds
            left = begun + limit - steady()
            if left <= 0:
                return await self.read()
            await self.watch.happened(left)
        return self._state

    async def quiet(self) -> None:
        """Wait for a step under way, for a while: whoever takes the Lease knows it by then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS), self._lock:
                pass

    async def close(self) -> None:
        """One last try to put on record what is owed."""
        await self.watch.close()
        paying, self._paying = self._paying, None
        if paying is not None:
            paying.cancel()
            await asyncio.wait({paying})
        if self._owed:
            try:
                await self._pay(CLOSE_SECONDS)
            except Exception as error:
                for owed in self._owed:
                    log.warning(owed.words.format(detail=error))

    async def _pay(self, patience: float) -> None:
        """Also into the Lease that the operator makes in place of one that was deleted."""
        deadline = steady() + patience
        while self._owed:
            try:
                await self.step(_as_it_is, patience=max(0.0, deadline - steady()))
            except NotReady:
                if steady() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)
            else:
                if self._owed:
                    if steady() > deadline:
                        raise ClusterError(texts.UNANSWERED)
                    await asyncio.sleep(POLL_SECONDS)

    async def _keep_paying(self) -> None:
        while self._owed:
            await asyncio.sleep(MAX_RETRY_SECONDS)
            try:
                await self._pay(MAX_RETRY_SECONDS)
            except PoolError as error:
                log.debug("owed to the Lease: %s", error)
            except Exception as error:
                supervision.failed("owed to the Lease", error)
        self._paying = None

    async def step_when_free(self, step: Step, *, wait: float, patience: float) -> Written:
        """The same for a step that another holder is in the way of, for ``wait`` seconds.

        A holder that says itself that its time is over is waited for until that was also seen:
        its clock may be wrong.  The operator, which loads weights into engines that restarted, and
        another process of this name, which puts them to sleep or wakes them, are waited for until
        they are done; so are those that may not know yet that its shared sync was ended, and who
        forms process groups.
        """
        begun = steady()
        while True:
            try:
                return await self.step(step, patience=patience)
            except Held as held:
                waited = steady() - begun
                claimed = held.until < time.time()
                limit = max(wait, self._duration() + 1) if claimed or held.at_work else wait
                if held.recovering:
                    limit = max(limit, RECOVERY_SECONDS)
                if held.forming:
                    limit = max(limit, weights_groups.FORMING_SECONDS + 1)
                if waited >= limit:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    @property
    def seen(self) -> Transaction | None:
        """The state as last read, here or by a step."""
        return self._state

    def age(self) -> float:
        """Seconds since the last renewal that was seen, at most.

        It was not there when the last request left that did not show it.  To who looks for the
        first time, or after a long time, it may be of any age, however new it is.
        """
        return steady() - self._appeared

    def groups_age(self) -> float:
        """The same of what it says of process groups."""
        return steady() - self._groups_appeared

    def _duration(self) -> float:
        return self._state.duration if self._state else float(lease_state.LEASE_SECONDS)

    async def _step(self, step: Step, deadline: float) -> Written:
        begun, retry, conflicts = steady(), RETRY_SECONDS, 0
        sent: list[tuple[Written, list[_Owed]]] = []
        unread = self._known()
        while True:
            known, unread = unread, None
            try:
                if (done := await self._once(step, known, sent)) is not None:
                    return done
                continue
            except ClusterError as error:
                if error.status == 409:
                    conflicts += 1
                    wait = _after_conflict(conflicts)
                    error = _conflicts(conflicts, steady() - begun, error)
                elif _worth_another_try(error):
                    wait = retry
                    retry = min(retry * 2, MAX_RETRY_SECONDS)
                else:
                    raise
                if steady() + wait > deadline:
                    raise error
            await asyncio.sleep(wait)

    def _known(self) -> _Known | None:
        """The Lease as it probably stands there: a step may be tried on it without another look.

        The write tells whether it does, by the resource version that it rests on.
        """
        if self._lease is None or self._state is None or not (self.watch.alive or self._own):
            return None
        return self._lease, self._state

    async def _once(
        self, step: Step, known: _Known | None, sent: list[tuple[Written, list[_Owed]]]
    ) -> Written | None:
        """One try of a step: on the Lease as it is ``known``, else as it is read now.

        None where it has to be read after all: what is known alone refuses nothing, and is no
        answer.  ``sent``: what was put before, perhaps, and now.  Raises PoolError.
        """
        lease, state = before = known or await self._read()
        for earlier, paid in sent:
            if earlier.state == state:  # it was written; the answer got lost
                self._paid(paid)
                return earlier
        sight = self._sight(lease)
        open_yet = known is not None or self._may_change(lease)
        try:
            state, paid = self._with_owed(state, sight, open_yet=open_yet)
            after = _refusing(step, state, sight)
        except PoolError:
            if known is None:
                raise
            return None
        if after is state and not paid:
            return _written(state, sight) if known is None else None
        body = lease_state.written(lease, after)
        put = _written(lease_state.read(body), sight)
        sent.append((put, paid))
        try:
            answer = await self._put(body, put.at)
        except ClusterError as error:
            if known is None or error.status != 409:
                raise
            return None
        self._saw(answer, put.at)
        self._wrote(before[1], put)
        self._paid(paid)
        return put

    async def _put(self, body: Mapping[str, Any], now: float) -> Mapping[str, Any]:
        """Who is cancelled here is told how it ended, else nobody would know whose it is."""
        before, self._unanswered = self._unanswered, (_version(body), now)
        try:
            return await supervision.to_its_end(self._cluster.put_lease(body))
        except BaseException as error:
            refused = isinstance(error, ClusterError) and _is_refusal(error)
            # It may have left as late as this, once there was a newer token.
            self._unanswered = before if refused else (_version(body), steady())
            raise

    def _may_change(self, lease: Mapping[str, Any]) -> bool:
        """Whether a write that nobody answered may still come through, after this was read."""
        version, sent = self._unanswered
        return version == _version(lease) and steady() < sent + UNANSWERED_SECONDS

    def _with_owed(
        self, state: Transaction, sight: LeaseObservation, *, open_yet: bool
    ) -> tuple[Transaction, list[_Owed]]:
        """The state with what is owed; what has no place in it any more is given up.

        ``open_yet``: what that rests on may come yet.
        """
        taken = []
        for owed in list(self._owed):
            try:
                if owed.lease not in (None, sight.lease):
                    raise Expired(texts.LEASE_ANEW, deleted=True)
                state = _refusing(owed.step, state, sight)
                taken.append(owed)
            except NotReady:
                continue  # its Lease is about to say more
            except PoolError as error:
                if open_yet:
                    continue
                if not owed.passes:
                    log.warning(owed.words.format(detail=error))
                self._paid([owed])
        return state, taken

    def _paid(self, done: list[_Owed]) -> None:
        self._owed = [owed for owed in self._owed if owed not in done]

    async def _read(self) -> tuple[Mapping[str, Any], Transaction]:
        asked = steady()
        lease = await self._cluster.lease()
        return lease, self._saw(lease, asked)

    def _saw(self, lease: Mapping[str, Any], asked: float) -> Transaction:
        """``asked``: when the request left that shows this."""
        state = lease_state.read(lease)
        if _number(lease) < self._number and asked < self._told_at:
            # The watch has told of a newer one meanwhile, which was not there before that.
            self._asked = asked
            self._appeared = max(self._appeared, asked)
            self._groups_appeared = max(self._groups_appeared, asked)
            return state
        self._take(lease, state)
        self._asked = asked
        return state

    def _wrote(self, before: Transaction, put: Written) -> None:
        """What this process put is the newest, and no older than its request, nor is what follows.

        The write rested on the version before: until it left, that stood there.
        """
        self._own = self._state == put.state
        if of_holder(put.state) != of_holder(before):
            self._appeared = max(self._appeared, put.at)
        if put.state.groups != before.groups:
            self._groups_appeared = max(self._groups_appeared, put.at)

    def _hear(self, lease: Mapping[str, Any]) -> None:
        """What the watch tells: it may have stood there since the last request that showed less."""
        if _number(lease) > self._number:
            self._take(lease, lease_state.read(lease))
            self._told_at = steady()

    def _take(self, lease: Mapping[str, Any], state: Transaction) -> None:
        known, self._number = self._state, _number(lease)
        self._lease, self._own = lease, False
        if known is None or of_holder(state) != of_holder(known):
            self._since, self._appeared = steady(), self._asked
        if known is None or state.groups != known.groups:
            self._groups_since, self._groups_appeared = steady(), self._asked
        self._state = state

    def _sight(self, lease: Mapping[str, Any]) -> LeaseObservation:
        now, metadata = time.time(), lease.get("metadata", {})
        owner: Mapping[str, Any] = next(iter(metadata.get("ownerReferences") or ()), {})
        return LeaseObservation(
            now=now,
            seen=now - (steady() - self._since),
            groups=now - (steady() - self._groups_since),
            lease=metadata.get("uid") or "",
            pool=owner.get("uid") or "",
        )


def _number(lease: Mapping[str, Any]) -> int:
    version = _version(lease)
    return int(version) if version.isdecimal() else 0


def _version(lease: Mapping[str, Any]) -> str:
    return str(lease["metadata"].get("resourceVersion", ""))


def _written(state: Transaction, sight: LeaseObservation) -> Written:
    return Written(state=state, lease=sight.lease, pool=sight.pool, at=steady())


def of_holder(state: Transaction) -> Transaction:
    """Without what others of its job say in it, by which nobody knows whether the holder lives."""
    return replace(state, wrote=frozenset(), message="", groups=None)


def _as_it_is(state: Transaction, sight: LeaseObservation) -> Transaction:
    return state


def _after_conflict(conflicts: int) -> float:
    """Seconds to let others write; of chance, so that two that met do not meet again."""
    most = CONFLICT_SECONDS * float(1 << min(conflicts - 1, 10))
    return min(most, MAX_RETRY_SECONDS) * random.uniform(0.5, 1.0)


def _conflicts(count: int, seconds: float, error: ClusterError) -> ClusterError:
    words = texts.CONFLICTS.format(count=count, seconds=seconds, detail=error)
    return ClusterError(words, error.status)


def _worth_another_try(error: ClusterError) -> bool:
    """Also without a token that is taken: what gives one may be away as the API server may."""
    return error.status in (0, 401, 429) or error.status >= 500


def _is_refusal(error: ClusterError) -> bool:
    """Whether nothing was carried out, nor will be."""
    return error.status in (401, 429) or not _worth_another_try(error)


def _refusing(step: Step, state: Transaction, sight: LeaseObservation) -> Transaction:
    try:
        return step(state, sight)
    except steps.RefusedError as refused:
        raise typed(refused) from refused
