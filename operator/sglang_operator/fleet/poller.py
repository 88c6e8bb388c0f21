"""Asks the engines what the planner wants to know, and keeps what they said last.

A pool's questions are replaced as a whole after each pass (``ask``); each has a task of its own
that lives as long as it is asked.  What is learnt is read by the next pass (``reports``), and an
answer that is news wakes the pool.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sglang_operator.cluster import supervision
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.cluster.window import Window
from sglang_operator.fleet import asking
from sglang_operator.fleet.client import EngineClient, EngineError, EngineUnreachableError
from sglang_operator.planner import progress
from sglang_operator.planner.observed import EngineReport, Loading
from sglang_operator.planner.progress import Load, Progress
from sglang_operator.planner.questions import Question, Topic

# Requests at a time, over all pools.
CONCURRENCY = 16.0
# Seconds between two tries of an engine that does not answer: first and most.
RETRY = (2.0, 120.0)
# A question that is asked once is given up after so many tries: nothing depends on it.
TRIES = 8

log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    key: PoolKey
    instance: str
    topic: Topic


class Poller:
    """``wake`` is called with a pool's key when something new was learnt of its engines."""

    def __init__(self, client: EngineClient, wake: Callable[[PoolKey, bool], None]) -> None:
        self._client = client
        self._wake = wake
        # A pool whose engines hang takes no turns from those of others.
        self._turns = Window(CONCURRENCY, CONCURRENCY)
        self._reports: dict[PoolKey, dict[str, EngineReport]] = {}
        self._tasks: dict[_Asked, tuple[Question, asyncio.Task[None]]] = {}
        self._loading: dict[tuple[PoolKey, str], asyncio.Task[None]] = {}
        self._works: dict[tuple[PoolKey, str], Progress] = {}
        self._finished: set[_Asked] = set()

    # --- for a pass

    def reports(self, key: PoolKey) -> Mapping[str, EngineReport]:
        """What is known of this pool's engines, by instance; a copy."""
        return dict(self._reports.get(key, {}))

    def ask(self, key: PoolKey, wanted: Iterable[Question], instances: Iterable[str]) -> None:
        """From now on ask exactly this of the pool, whose engines are these instances.

        What is known of others is forgotten.
        """
        questions = {_Asked(key, q.instance, q.topic): q for q in wanted}
        for asked in [a for a in self._tasks if a.key == key]:
            if questions.get(asked) != self._tasks[asked][0]:
                self._tasks.pop(asked)[1].cancel()
                if asked.topic is Topic.LOAD:
                    # Asked again later, it begins anew: what stood still meanwhile was to.
                    self._works.pop((key, asked.instance), None)
                    self._learn(key, asked.instance, stuck_since=None)
        self._forget_others(key, set(instances))
        for asked, question in questions.items():
            if asked not in self._tasks and asked not in self._finished:
                task = asyncio.create_task(self._keep_asking(asked, question))
                self._tasks[asked] = (question, task)

    def forget(self, key: PoolKey) -> None:
        """The pool is gone."""
        self.ask(key, (), ())

    def load(self, key: PoolKey, instance: str, url: str, path: str, version: str) -> None:
        """Let an engine read weights from disk; its report says how that goes (``loading``).

        Asking again for the same while it goes on, or after it is done, does nothing; after an
        error it is tried again, ever later.
        """
        if (key, instance) in self._loading:
            return  # one after another: the engine is busy with the last
        known = self._report(key, instance).loading
        tries = 0
        if known is not None and (known.path, known.version) == (path, version):
            if not known.error:
                return
            tries = known.tries
        loading = Loading(path=path, version=version, tries=tries + 1)
        self._learn(key, instance, loading=loading)
        self._loading[key, instance] = asyncio.create_task(self._load(key, instance, url, loading))

    async def close(self) -> None:
        """End everything that is under way."""
        tasks = [task for _, task in self._tasks.values()] + list(self._loading.values())
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
                async with self._turns.slot(str(asked.key)):
                    told = await self._put(asked, question)
                self._learn(asked.key, asked.instance, **told)
                failures = 0
                if question.every is None:
                    break
            except EngineError as error:
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
        self._finished.add(asked)
        self._tasks.pop(asked, None)

    async def _put(self, asked: _Asked, question: Question) -> dict[str, Any]:
        """Ask; what is to change in what is known of the engine."""
        url, features = question.url, question.features
        if question.topic is Topic.RESOLVED:
            return {"resolved": await asking.resolved(self._client, url, features)}
        if question.topic is Topic.WEIGHTS:
            return {"weight_version": await asking.weight_version(self._client, url, features)}
        try:
            seen = await asking.load(self._client, url, features)
        except (EngineError, EngineUnreachableError):
            seen = Load(moves=True)  # who does not answer at all is the liveness probe's
        now = time.time()
        work = self._works[asked.key, asked.instance] = progress.advance(
            self._works.get((asked.key, asked.instance)), seen, now
        )
        return {"stuck_since": progress.stuck_since(work, now)}

    async def _load(self, key: PoolKey, instance: str, url: str, loading: Loading) -> None:
        if loading.tries > 1:
            await asyncio.sleep(_grown(loading.tries - 1))
        try:
            await self._client.update_weights_from_disk(
                url, path=loading.path, version=loading.version
            )
            ended = replace(loading, done=True)
        except EngineError as error:
            ended = replace(loading, error=error.message)
        except EngineUnreachableError as error:
            ended = replace(loading, error=str(error))
        except Exception as error:
            supervision.failed("recovery", error, about=f"{key} {instance}")
            ended = replace(loading, error=f"{type(error).__name__}: {error}")
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
        self._finished = {a for a in self._finished if a.key != key or a.instance in instances}
        for loading in [a for a in self._loading if a[0] == key and a[1] not in instances]:
            self._loading.pop(loading).cancel()


def _pause(question: Question, failures: int) -> float:
    if not failures:
        return question.every or 0.0
    return max(question.every or 0.0, _grown(failures))


def _grown(failures: int) -> float:
    first, most = RETRY
    return float(min(most, first * 2 ** min(failures - 1, 10)))
