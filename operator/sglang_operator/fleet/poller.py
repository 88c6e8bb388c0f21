"""Asks the engines what ``ask`` wants to know, and keeps what they said last.

A pool's questions are replaced as a whole after each pass (``ask``); each has a task of its own
that lives as long as it is asked.  What is learnt is read by the next pass (``reports``), and an
answer that is news wakes the pool.

Weights are loaded under a permit alone (``permit``): what stands in the pool's Lease, and until
when, by this process's own clock, a request may leave.  And only into an engine that is confirmed
to be at its address before each try: what passes see may be of before, and the address another's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, TypeGuard

from sglang_operator import supervision
from sglang_operator.ask.engines import Question, Topic
from sglang_operator.backoff import Backoff
from sglang_operator.clocks import moment, steady
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.fleet import wording
from sglang_operator.fleet.client import (
    EngineClient,
    EngineRequestError,
    EngineUnreachableError,
    NotAllowedError,
)
from sglang_operator.kube.window import Window
from sglang_operator.observed import progress
from sglang_operator.observed.model import EngineReport, Loading, Stuck
from sglang_operator.observed.moment import Moment
from sglang_operator.observed.progress import Load, Progress
from sglang_operator.sending import DELIVERY_SECONDS

# Requests at a time, over all pools.
CONCURRENCY = 16.0
# Seconds between two tries of an engine that does not answer: first and most.
RETRY = Backoff(2.0, 120.0)
# A question that is asked once is given up after so many tries: nothing depends on it.
TRIES = 8

# Why an engine may not be at its address any more; "" if it is.  It raises nothing.
Confirm = Callable[[], Awaitable[str]]

NOT_PERMITTED = "no load of these weights into this engine stands in the Lease"
KEEPS_IMAGES = (
    "its model sees images, and it keeps what its vision tower makes of each, which nothing "
    "empties: the tower of before would answer. It was started with SGLANG_VLM_CACHE_SIZE_MB other "
    "than 0, by an earlier operator or by system_envs or podTemplate: remove it there, and have it "
    "replaced"
)

log = logging.getLogger(__name__)


class Permit(NamedTuple):
    """The loads that the Lease knows of."""

    commit: str  # the transaction whose weights are loaded
    instances: frozenset[str]
    until: float  # that requests may leave, by the steady clock


class _Asked(NamedTuple):
    key: PoolKey
    instance: str
    topic: Topic


class Poller:
    """``wake`` is called with a pool's key when something new was learnt of its engines."""

    def __init__(self, client: EngineClient, wake: Callable[[PoolKey, bool], None]) -> None:
        self._client = client
        self._wake = wake
        # A pool whose engines hang takes no turns from those of others, nor do a namespace's many
        # pools from those of another namespace.
        self._turns = Window(CONCURRENCY, CONCURRENCY)
        self._reports: dict[PoolKey, dict[str, EngineReport]] = {}
        # By pool: a pass looks at its own pool alone.
        self._tasks: dict[PoolKey, dict[_Asked, tuple[Question, asyncio.Task[None]]]] = {}
        self._loading: dict[tuple[PoolKey, str], asyncio.Task[None]] = {}
        self._permits: dict[PoolKey, Permit] = {}
        self._works: dict[tuple[PoolKey, str], Progress] = {}
        self._finished: dict[PoolKey, set[_Asked]] = {}

    # --- for a pass

    def reports(self, key: PoolKey) -> dict[str, EngineReport]:
        """What is known of this pool's engines, by instance; a copy."""
        return dict(self._reports.get(key, {}))

    def ask(self, key: PoolKey, wanted: Iterable[Question], instances: Iterable[str]) -> None:
        """From now on ask exactly this of the pool, whose engines are these instances.

        What is known of others is forgotten.
        """
        questions = {_Asked(key, q.instance, q.topic): q for q in wanted}
        tasks = self._tasks.setdefault(key, {})
        for asked in list(tasks):
            if questions.get(asked) != tasks[asked][0]:
                tasks.pop(asked)[1].cancel()
                if asked.topic is Topic.LOAD:
                    # Asked again later, it begins anew: what stood still meanwhile was to.
                    self._works.pop((key, asked.instance), None)
                    self._learn(key, asked.instance, stuck=None)
        self._forget_others(key, set(instances))
        for asked, question in questions.items():
            if asked not in tasks and asked not in self._finished.get(key, ()):
                task = asyncio.create_task(self._keep_asking(asked, question))
                tasks[asked] = (question, task)
        if not tasks:
            del self._tasks[key]

    def forget(self, key: PoolKey) -> None:
        """The pool is gone."""
        self.permit(key, None)
        self.ask(key, (), ())

    def permit(self, key: PoolKey, permit: Permit | None) -> None:
        """From now on these loads of the pool are allowed, and no others go on.

        An engine that has got its request goes on reading; nobody waits for it any more.
        """
        self._permits.pop(key, None)
        if permit is not None:
            self._permits[key] = permit
        for of, instance in [a for a in self._loading if a[0] == key]:
            loading = self._report(key, instance).loading
            if loading is None or not _covers(permit, instance, loading.commit):
                self._loading.pop((of, instance)).cancel()
                self._learn(key, instance, loading=None)

    def load(
        self,
        key: PoolKey,
        instance: str,
        url: str,
        path: str,
        version: str,
        *,
        commit: str = "",
        pause: str = "",
        session: bool = False,
        images: str = "",
        confirm: Confirm,
    ) -> None:
        """Let an engine read weights from disk; its report says how that goes (``loading``).

        ``commit``: the transaction that committed them; without a permit for it nothing is sent.
        ``pause``: the mode in which the engine is paused before, and continued after, whether a
        trainer had paused it or not; empty for versions that cannot.  ``session``: whether its
        version has weight sessions, of which one may be open.  ``images``: of an engine that keeps
        what a vision tower made of them, the path that tells whether its model sees any; then
        nothing is loaded.  ``confirm``: asked before anything is sent, whether the engine is at its
        address; if not, that is the error.  Asking again for the same does nothing while it goes on
        or is done, nor after an error before its time (``again``).
        """
        if (key, instance) in self._loading:
            return  # one after another: the engine is busy with the last
        known = self._report(key, instance).loading
        tries = 0
        if known is not None and (known.path, known.version, known.commit) == (
            path,
            version,
            commit,
        ):
            if not known.error or steady() < known.again:
                return
            tries = known.tries
        loading = Loading(path=path, version=version, commit=commit, tries=tries + 1)
        if not self._allowed(key, instance, commit):
            self._learn(key, instance, loading=_failed(loading, NOT_PERMITTED))
            return
        self._learn(key, instance, loading=loading)
        load = self._load(key, instance, url, loading, pause, session, images, confirm)
        self._loading[key, instance] = asyncio.create_task(load)

    def _allowed(self, key: PoolKey, instance: str, commit: str) -> bool:
        permit = self._permits.get(key)
        return _covers(permit, instance, commit) and steady() < permit.until

    async def close(self) -> None:
        """End everything that is under way."""
        asking = (task for of in self._tasks.values() for _, task in of.values())
        tasks = [*asking, *self._loading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._loading.clear()

    # --- asking

    async def _keep_asking(self, asked: _Asked, question: Question) -> None:
        failures = 0
        while True:
            try:
                async with self._turns.slot(str(asked.key), asked.key.namespace):
                    told = await self._put(asked, question)
                self._learn(asked.key, asked.instance, **told)
                failures = 0
                if question.every is None:
                    break
            except EngineRequestError as error:
                failures += 1
                log.debug("%s: engine %s: %s", asked.key, asked.instance, error)
                if error.refused and question.every is None:
                    break
            except EngineUnreachableError as error:
                failures += 1
                log.debug("%s: engine %s: %s", asked.key, asked.instance, error)
            except Exception as error:
                failures += 1
                supervision.failed("questions", error, about=f"{asked.key} {asked.instance}")
            if question.every is None and failures >= TRIES:
                break
            await asyncio.sleep(_pause(question, failures))
        self._finished.setdefault(asked.key, set()).add(asked)
        tasks = self._tasks.get(asked.key, {})
        tasks.pop(asked, None)
        if not tasks:
            self._tasks.pop(asked.key, None)

    async def _put(self, asked: _Asked, question: Question) -> dict[str, Any]:
        """Ask; what is to change in what is known of the engine."""
        url, features = question.url, question.features
        if question.topic is Topic.RESOLVED:
            return {"resolved": await wording.resolved(self._client, url, features)}
        if question.topic is Topic.WEIGHTS:
            return {"weight_version": await wording.weight_version(self._client, url, features)}
        try:
            seen = await wording.load(self._client, url, features)
        except (EngineRequestError, EngineUnreachableError):
            seen = Load(moves=True)  # who does not answer at all is the liveness probe's
        at = moment()
        work = self._works[asked.key, asked.instance] = progress.advance(
            self._works.get((asked.key, asked.instance)), seen, at.steady
        )
        return {"stuck": self._stuck(asked, progress.stuck_since(work, at.steady), at)}

    def _stuck(self, asked: _Asked, since: float | None, at: Moment) -> Stuck | None:
        """Since when it is stuck; its stamp is made once."""
        if since is None:
            return None
        known = self._report(asked.key, asked.instance).stuck
        if known is not None and known.since == since:
            return known
        return Stuck(since=since, stamp=at.told(since))

    async def _load(
        self,
        key: PoolKey,
        instance: str,
        url: str,
        loading: Loading,
        pause: str,
        session: bool,
        images: str,
        confirm: Confirm,
    ) -> None:
        def allowed() -> bool:
            return self._allowed(key, instance, loading.commit)

        try:
            if reason := await confirm():
                raise NotAllowedError(reason)
            if images and await wording.sees_images(self._client, url, images):
                raise EngineRequestError(200, KEEPS_IMAGES)
            await self._client.update_weights_from_disk(
                url,
                path=loading.path,
                version=loading.version,
                pause=pause,
                session=session,
                allowed=allowed,
            )
            if pause:
                await self._client.continue_generation(url, allowed=allowed)
            ended = replace(loading, done=True)
        except EngineRequestError as error:
            ended = _failed(loading, error.message)
        except EngineUnreachableError as error:
            if error.sent:
                # It may be on its way: nobody else may begin before it is there, or never comes.
                await asyncio.sleep(DELIVERY_SECONDS)
            ended = _failed(loading, str(error))
        except Exception as error:  # the Lease is held for as long as this has not ended
            supervision.failed("recovery", error, about=f"{key} {instance}")
            await asyncio.sleep(DELIVERY_SECONDS)
            ended = _failed(loading, f"{type(error).__name__}: {error}")
        if ended.error:
            log.warning(
                "%s: engine %s could not load %s from %s (try %d): %s",
                *(key, instance, loading.version, loading.path, loading.tries, ended.error),
            )
        self._loading.pop((key, instance), None)
        self._learn(key, instance, loading=ended)

    # --- what is known

    def _report(self, key: PoolKey, instance: str) -> EngineReport:
        known = self._reports.get(key, {}).get(instance)
        return known or EngineReport(instance=instance)

    def _learn(self, key: PoolKey, instance: str, **told: Any) -> None:
        """Take in what changed since; of several questions each has its own part of the report."""
        known = self._report(key, instance)
        report = replace(known, **told)
        if report != known:
            self._reports.setdefault(key, {})[instance] = report
            self._wake(key, False)

    def _forget_others(self, key: PoolKey, instances: set[str]) -> None:
        known = self._reports.get(key, {})
        for instance in known.keys() - instances:
            del known[instance]
        if not known:
            self._reports.pop(key, None)
        if finished := {a for a in self._finished.pop(key, ()) if a.instance in instances}:
            self._finished[key] = finished
        for loading in [a for a in self._loading if a[0] == key and a[1] not in instances]:
            self._loading.pop(loading).cancel()


def _covers(permit: Permit | None, instance: str, commit: str) -> TypeGuard[Permit]:
    return permit is not None and permit.commit == commit and instance in permit.instances


def _failed(loading: Loading, error: str) -> Loading:
    again = steady() + RETRY.pause(loading.tries - 1)
    return replace(loading, error=error or "it does not say why", again=again)


def _pause(question: Question, failures: int) -> float:
    if not failures:
        return question.every or 0.0
    return max(question.every or 0.0, RETRY.pause(failures - 1))
