"""Faults of watches, stream by stream: F14 to F17."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator

from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.controller.loop import OWN_OBJECTS
from sglang_operator.testing.faults import Agent, Match
from sglang_operator.testing.faults.rules import OldList, Reply
from sglang_operator.testing.faults.streams import EXPIRED, End, Stream, error_line
from tests.faults.lab import CHILDREN, FaultPool, Lab, Result
from tests.faults.points import ARGUMENT, MOVE, RECREATE, SHRINK, judged, with_fault

RESYNC_SECONDS = 90.0
SOON_SECONDS = 15.0
OLD_SECONDS = 3.0  # in which an operator acts on what it sees
# Every stream of the process, by name.
STREAMS: dict[str, Match] = {
    "pools": Match(agent=Agent.OPERATOR, verbs=["watch"], resource="sglanginferences"),
    "pods": Match(agent=Agent.OPERATOR, verbs=["watch"], resource="pods", selector=OWN_OBJECTS),
    "nodes": Match(agent=Agent.OPERATOR, verbs=["watch"], resource="nodes"),
    "services": Match(agent=Agent.OPERATOR, verbs=["watch"], resource="services"),
    "configmaps": Match(agent=Agent.OPERATOR, verbs=["watch"], resource="configmaps"),
    "budgets": Match(agent=Agent.OPERATOR, verbs=["watch"], resource="poddisruptionbudgets"),
    "revisions": Match(agent=Agent.OPERATOR, verbs=["watch"], resource="controllerrevisions"),
    "kopf": Match(agent=Agent.KOPF, verbs=["watch"], resource="sglanginferences"),
}

_OF_STREAMS = {
    "services": "Service",
    "configmaps": "ConfigMap",
    "budgets": "PodDisruptionBudget",
    "revisions": kinds.REVISION.kind,
}


def _small(pool: FaultPool) -> None:
    pool.create(replicas=4)


def _stream(lab: Lab, name: str) -> Stream:
    """The stream of this name; kopf's may be on its way back from the fault before."""
    found: list[Stream] = lab.wait(lambda: lab.proxy.live(STREAMS[name]), f"stream {name}", 40)
    return found[-1]


def _http_410(lab: Lab, name: str) -> None:
    lab.proxy.add(STREAMS[name], Reply(410, "Expired"), times=1)
    _stream(lab, name).cut()


def _huge(lab: Lab, name: str) -> None:
    """The next event is a line of 3 MiB; one that comes from the server, so that it is valid."""
    stream = _stream(lab, name)

    def pad(line: bytes) -> Iterable[bytes]:
        event = json.loads(line)
        yield json.dumps({**event, "padding": "x" * (3 << 20)}).encode()

    stream.filter = pad


def _repeat(lab: Lab, name: str) -> None:
    _stream(lab, name).filter = lambda line: (line, line)


BREAKS: dict[str, Callable[[Lab, str], None]] = {
    "ERROR 410": lambda lab, name: _stream(lab, name).inject(EXPIRED),
    "ERROR 500": lambda lab, name: _stream(lab, name).inject(error_line(500)),
    "HTTP 410": _http_410,
    "truncated JSON": lambda lab, name: _truncate(_stream(lab, name)),
    "garbage": lambda lab, name: _stream(lab, name).inject(b'{"type":"ADDED","object":'),
    "3 MiB line": _huge,
    "reset": lambda lab, name: _stream(lab, name).cut(End.RESET),
    "duplicated events": _repeat,
}


def _truncate(stream: Stream) -> None:
    stream.inject_raw(b'{"type":"MODIFIED","object":{"metadata":{"na')
    stream.cut()


def _disturb(pool: FaultPool, name: str) -> None:
    """Something that only this stream tells."""
    if name in ("pools", "kopf"):
        pool.patch(replicas=3)
    elif name in _OF_STREAMS:
        kind = _OF_STREAMS[name]
        child = pool.name if kind == "Service" else f"{pool.name}-engines"
        if kind == kinds.REVISION.kind:
            child = names.revision_name(pool.name, pool.object()["status"]["revision"])
        group, plural = CHILDREN[kind]
        pool.plane.api.delete(f"{group}/namespaces/{pool.namespace}/{plural}/{child}")
    else:
        victim = sorted(pool.pods())[0]
        pool.plane.api.delete(pool.pod_path(victim) + "?gracePeriodSeconds=0")


def broken_watches(lab: Lab) -> Iterator[Result]:
    """F14: each stream broken in each way, and then news that only it can tell."""
    for name in STREAMS:
        for kind in BREAKS:
            yield broken_watch(lab, name, kind)


def broken_watch(lab: Lab, name: str, kind: str) -> Result:
    """One stream broken in one way."""

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        BREAKS[kind](lab, name)
        _disturb(pool, name)
        return lab.settle(pool, SOON_SECONDS)

    return judged(lab, Result(point=f"{name}: {kind}"), _small, act)


def silent_watches(lab: Lab) -> Iterator[Result]:
    """F14: that of pools falls silent, which kopf tells of; then all do, and everything changes."""

    def spec_changes(lab: Lab, pool: FaultPool) -> list[str]:
        _stream(lab, "kopf")
        for stream in lab.proxy.live(STREAMS["pools"]):
            stream.stalled = True
        _disturb(pool, "pools")
        return lab.settle(pool, SOON_SECONDS)

    # kopf's own watch tells of it: nobody waits until the silence is noticed.
    yield judged(lab, Result(point="pools silent, kopf hears"), _small, spec_changes)

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        for stream in lab.proxy.live(Match(verbs=["watch"])):
            stream.stalled = True
        for name in ("pods", "services", "budgets", "pools"):
            _disturb(pool, name)
        return lab.settle(pool, RESYNC_SECONDS)

    yield judged(lab, Result(point="all streams silent"), _small, act)


def ghosts(lab: Lab) -> Iterator[Result]:
    """F15: what was deleted and created behind an expired watch leaves no ghosts."""
    for name in STREAMS:
        for again in (1, 3):

            def act(lab: Lab, pool: FaultPool, name: str = name, again: int = again) -> list[str]:
                return behind_its_back(lab, pool, name, again)

            yield judged(lab, Result(point=f"{name}: 410 behind deletes × {again}"), _small, act)


def behind_its_back(lab: Lab, pool: FaultPool, name: str, again: int) -> list[str]:
    stream = _stream(lab, name)
    stream.filter = lambda line: ()  # what happens now is never told
    if name in ("pools", "kopf"):
        pool.delete()
        pool.create(replicas=5)
    else:
        _disturb(pool, name)
    stream.inject(EXPIRED)
    for _ in range(again - 1):
        following = [s for s in [_stream(lab, name)] if s is not stream]
        for other in following:
            other.inject(EXPIRED)
    return lab.settle(pool, SOON_SECONDS)


def late_events(lab: Lab) -> Iterator[Result]:
    """F16: events of one kind come late, so that kinds are reordered."""
    for name in ("pools", "pods", "configmaps"):
        for delay in (0.1, 1.0, 5.0):
            for change in (SHRINK, MOVE, ARGUMENT, RECREATE):

                def slow(lab: Lab, pool: FaultPool, name: str = name, delay: float = delay) -> None:
                    _stream(lab, name).delay = delay

                point = f"{name} {delay:g} s late, {change.name}"
                # Before it is asked whether the pool is still there, one create is on its way.
                spare = 1 if name == "pools" and change is RECREATE else 0
                seconds = 40 + 4 * delay
                result = with_fault(lab, point, change, slow, seconds=seconds, spare=spare)
                for stream in lab.proxy.live(STREAMS[name]):
                    stream.cut()
                yield result


def old_lists(lab: Lab) -> Iterator[Result]:
    """F17: a restarted operator is shown the world of before a change, and then the present."""
    for change in (SHRINK, MOVE, ARGUMENT, RECREATE):
        for hold in (0.0, 3.0):
            yield _time_travel(lab, change.name, change.setup, change.act, hold)
    yield _there_and_back(lab)
    yield _old_pool(lab)


def _time_travel(
    lab: Lab,
    name: str,
    setup: Callable[[FaultPool], None] | None,
    change: Callable[[FaultPool], None],
    hold: float,
) -> Result:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        lab.monitor.strict = False  # it decides on an old world; what it does is resolved later
        old = OldList()
        lab.proxy.add(Match(agent=Agent.OPERATOR, verbs=["list"]), old)
        lab.crash()  # records the lists
        problems = lab.settle(pool)
        change(pool)
        problems += lab.settle(pool)
        before = pool.uids()
        lab.operator.kill()
        old.replaying = True
        if hold:
            lab.proxy.add(Match(agent=Agent.OPERATOR, verbs=["watch"]), Reply(503))
        lab.operator.start()
        time.sleep(hold)
        lab.proxy.clear()
        problems += lab.settle(pool)
        after = pool.uids()
        lost = [engine for engine, uid in before.items() if after.get(engine) != uid]
        if lost and not problems:
            problems.append(f"newer pods were replaced: {lost}")
        if not old.replayed:
            problems.append("no old list was replayed")
        return [p for p in problems if p]

    result = Result(point=f"old lists {hold:g} s, {name}")
    return judged_restarted(lab, result, setup, act)


def _there_and_back(lab: Lab) -> Result:
    """Pods of an early list under the present spec: names that stand for other pods by now."""

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        lab.monitor.strict = False
        pods = OldList()
        engines = Match(agent=Agent.OPERATOR, verbs=["list"], resource="pods", selector=OWN_OBJECTS)
        lab.proxy.add(engines, pods)
        lab.crash()  # records the list
        problems = lab.settle(pool)
        pool.patch(replicas=0)
        problems += lab.settle(pool)
        config = {"mem_fraction_static": 0.8, "load_format": "dummy"}
        pool.patch(replicas=4, strategy_args={"strategy_config": config})
        problems += lab.settle(pool)
        before = pool.uids()
        lab.operator.kill()
        lab.proxy.reset_counters()
        pods.replaying = True
        lab.proxy.add(Match(agent=Agent.OPERATOR, verbs=["watch"]), Reply(503))
        lab.operator.start()
        # It sees outdated pods, and the spec really is the one by which they are outdated.
        lab.wait(lambda: lab.proxy.counts["delete pods"], "a delete by the old world", 15)
        time.sleep(1)
        lab.proxy.clear()
        problems += lab.settle(pool)
        after = pool.uids()
        lost = sorted(engine for engine in before if after.get(engine) != before[engine])
        return [*problems, f"newer pods were deleted: {lost}"] if lost else problems

    return judged_restarted(lab, Result(point="there and back"), _small, act)


def _old_pool(lab: Lab) -> Result:
    """Present pods under a spec of before: what it does not want is wanted by now."""

    def act(lab: Lab, pool: FaultPool) -> list[str]:
        lab.monitor.strict = False
        pool.patch(replicas=2)
        problems = lab.settle(pool)
        pools = OldList()
        match = Match(agent=Agent.OPERATOR, verbs=["list"], resource="sglanginferences")
        lab.proxy.add(match, pools)
        lab.crash()  # records the list
        pool.patch(replicas=4)
        problems += lab.settle(pool)
        before = pool.uids()
        lab.operator.kill()
        pools.replaying = True
        watches = Match(agent=Agent.OPERATOR, verbs=["watch"], resource="sglanginferences")
        lab.proxy.add(watches, Reply(503))
        lab.operator.start()
        time.sleep(OLD_SECONDS)
        lab.proxy.clear()
        problems += lab.settle(pool)
        after = pool.uids()
        lost = sorted(engine for engine in before if after.get(engine) != before[engine])
        if not pools.replayed:
            problems.append("no old list was replayed")
        return [*problems, f"wanted pods were deleted: {lost}"] if lost else problems

    return judged_restarted(lab, Result(point="old pool, present pods"), _small, act)


def judged_restarted(
    lab: Lab,
    result: Result,
    setup: Callable[[FaultPool], None] | None,
    act: Callable[[Lab, FaultPool], list[str]],
) -> Result:
    """As ``judged``, for an act that itself starts the operator again."""
    judged(lab, result, setup, act)
    result.problems = [p for p in result.problems if not p.startswith("the process was")]
    return result
