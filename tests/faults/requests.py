"""Faults of single requests: F6 to F9, F11 to F13."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sglang_operator.testing.faults import Agent, Match
from sglang_operator.testing.faults.rules import BlackHole, Drop, Fault, Reply
from sglang_operator.testing.faults.streams import EXPIRED
from sglang_operator.testing.faults.traffic import WRITES
from tests.faults.lab import OURS, FaultPool, Lab, Result
from tests.faults.points import ARGUMENT, CREATE, MOVE, RECREATE, SHRINK, Change, judged, with_fault

Mend = Callable[[], None]
OUR_WRITES = Match(agent=Agent.OPERATOR, verbs=WRITES)
OUTAGE_SECONDS = 6.0
# Each kind of write, and a change that makes it.
KINDS: tuple[tuple[str, str, str, Change], ...] = (
    ("create", "pods", "", CREATE),
    ("delete", "pods", "", SHRINK),
    ("delete", "pods", "", ARGUMENT),
    ("create", "pods", "", RECREATE),
    ("patch", "sglanginferences", "status", CREATE),
    ("patch", "sglanginferences", "status", MOVE),
    ("create", "services", "", CREATE),
    ("create", "configmaps", "", CREATE),
    ("create", "poddisruptionbudgets", "", CREATE),
    ("create", "controllerrevisions", "", CREATE),
    ("patch", "configmaps", "", MOVE),
    ("patch", "poddisruptionbudgets", "", SHRINK),
    ("create", "events", "", CREATE),
)


def _rule(match: Match, fault: Fault, **how: float) -> Callable[[Lab, FaultPool], Mend]:
    def arm(lab: Lab, pool: FaultPool) -> Mend:
        rule = lab.proxy.add(match, fault, **how)  # type: ignore[arg-type]
        return lambda: lab.proxy.remove(rule)

    return arm


def overload(lab: Lab) -> Iterator[Result]:
    """F6: 429, with and without Retry-After, for a share of requests and for all of them."""
    for after in (None, 1):
        for share in (0.3, 1.0):
            fault = Reply(429, "TooManyRequests", retry_after=after)
            point = f"429 {share:.0%}, Retry-After {after}"
            arm = _rule(OURS, fault, share=share, seed=6)
            yield with_fault(lab, point, CREATE, arm, hold=OUTAGE_SECONDS, seconds=10)


def server_errors(lab: Lab) -> Iterator[Result]:
    """F7: 500, 503, 504 for a share of requests and for all; no hot loop meanwhile."""
    for status in (500, 503, 504):
        for share in (0.3, 1.0):
            point = f"{status} {share:.0%}"
            arm = _rule(OURS, Reply(status), share=share, seed=7)
            yield with_fault(lab, point, CREATE, arm, hold=OUTAGE_SECONDS, seconds=15)
    for verb, change in (("create", CREATE), ("delete", SHRINK)):
        # For longer than there is anything new to tell, whose own event would wake the pool.
        match = Match(agent=Agent.OPERATOR, verbs=[verb], resource="pods")
        arm = _rule(match, Reply(503))
        point = f"503 on {verb} pods alone"
        yield with_fault(lab, point, change, arm, hold=OUTAGE_SECONDS, seconds=15)
    yield _no_hot_loop(lab)


def _no_hot_loop(lab: Lab) -> Result:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        lab.proxy.add(OUR_WRITES, Reply(503))
        pool.create()
        time.sleep(2 * OUTAGE_SECONDS)
        tried = lab.writes()
        lab.proxy.clear()
        problems = lab.settle(pool, 15)
        # 0.2 s doubled: ten tries in twelve seconds, of several kinds of writes.
        return [*problems, f"{tried} writes in 12 s of 503"] if tried > 60 else problems

    return judged(lab, Result(point="503 on all writes: no hot loop"), None, act)


def lost_replies(lab: Lab) -> Iterator[Result]:
    """F8: the connection is reset before or after the commit, once for each kind of write."""
    for verb, resource, sub, change in KINDS:
        for after in (False, True):
            match = Match(agent=Agent.OPERATOR, verbs=[verb], resource=resource, subresource=sub)
            side = "after" if after else "before"
            point = f"{verb} {resource} reset {side} commit, {change.name}"
            yield with_fault(lab, point, change, _rule(match, Drop(after_commit=after), times=1))
    for after in (False, True):
        side = "after" if after else "before"
        arm = _rule(OUR_WRITES, Drop(after_commit=after), share=0.4, seed=8)
        yield with_fault(lab, f"40 % reset {side} commit", CREATE, arm, hold=3)


def black_holes(lab: Lab) -> Iterator[Result]:
    """F9: a request without an answer, done or not; another pool is not disturbed."""
    for verb, resource, change, commit in (
        ("create", "pods", CREATE, False),
        ("create", "pods", CREATE, True),
        ("patch", "sglanginferences", CREATE, True),
    ):
        point = f"{verb} {resource} black-holed {'after' if commit else 'before'} commit"
        yield _black_hole(lab, point, verb, resource, change, commit)


def _black_hole(
    lab: Lab, point: str, verb: str, resource: str, change: Change, commit: bool
) -> Result:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        name = "pool" if resource == "sglanginferences" else "pool-g0-1-0"
        match = Match(agent=Agent.OPERATOR, verbs=[verb], resource=resource, name=name)
        lab.proxy.add(match, BlackHole(commit=commit), times=1)
        change.act(pool)
        other = FaultPool(lab.plane, pool.namespace, "other")
        other.create(replicas=2)
        problems = lab.wait(
            lambda: other.condition("Ready").get("status") == "True", "the other pool", 8
        )
        problems = [] if problems else ["the other pool waited"]
        other.delete()
        return problems + lab.settle(pool, 45)

    return judged(lab, Result(point=point), change.setup, act)


def conflicts(lab: Lab) -> Iterator[Result]:
    """F11: 409 Conflict on the status and on each child, again and again."""
    for resource, change in (
        ("sglanginferences", CREATE),
        ("sglanginferences", MOVE),
        ("configmaps", MOVE),
        ("poddisruptionbudgets", SHRINK),
    ):
        for times in (1, 20):
            match = Match(agent=Agent.OPERATOR, verbs=["patch"], resource=resource)
            arm = _rule(match, Reply(409, "Conflict"), times=times)
            point = f"409 on {resource} × {times}, {change.name}"
            # The first twenty tries may take a while; a lost update would never come.
            yield with_fault(lab, point, change, arm, hold=3, seconds=35)
    match = Match(agent=Agent.OPERATOR, verbs=["delete"], resource="pods")
    arm = _rule(match, Reply(409, "Conflict"), times=3)
    yield with_fault(lab, "409 on delete pods × 3, shrink", SHRINK, arm, hold=1)


def denials(lab: Lab) -> Iterator[Result]:
    """F12: creates refused by quota, admission or Pod Security: one probe per backoff."""
    for status, reason, message in (
        (403, "Forbidden", 'pods "x" is forbidden: exceeded quota: gpus'),
        (403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'),
        (422, "Invalid", 'Pod "x" is invalid: spec: denied by policy'),
    ):
        yield _denied(lab, Reply(status, reason, message))


def _denied(lab: Lab, fault: Reply) -> Result:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        match = Match(agent=Agent.OPERATOR, verbs=["create"], resource="pods")
        rule = lab.proxy.add(match, fault)
        pool.create()

        def told() -> bool:
            said = [pool.condition(kind).get("message", "") for kind in ("Stalled", "Reconciling")]
            return any(fault.message in text for text in said)

        lab.wait(told, "the refusal in a condition", 10)
        time.sleep(OUTAGE_SECONDS)
        tried = rule.hits
        lab.proxy.remove(rule)
        problems = lab.settle(pool, 15)
        return [*problems, f"{tried} probes of a refused create"] if tried > 3 else problems

    return judged(lab, Result(point=f"{fault.status} {fault.message[-24:]}"), None, act)


def unauthorized(lab: Lab) -> Iterator[Result]:
    """F13: 401 once for each kind of request, and for all of them for a while."""
    for verb in ("create", "patch", "get", "list", "watch"):
        match = Match(verbs=[verb])
        arm = _rule(match, Reply(401, "Unauthorized"), times=1)
        yield with_fault(lab, f"401 once on {verb}", CREATE, _cut(arm, verb), hold=0.5, seconds=15)
    arm = _rule(Match(), Reply(401, "Unauthorized"))
    yield with_fault(lab, "401 for 6 s", CREATE, arm, hold=OUTAGE_SECONDS, seconds=40)


def _cut(arm: Callable[[Lab, FaultPool], Mend], verb: str) -> Callable[[Lab, FaultPool], Mend]:
    """Lists and watches are asked for only when the streams are cut."""

    def armed(lab: Lab, pool: FaultPool) -> Mend:
        mend = arm(lab, pool)
        for stream in lab.proxy.live(Match()):
            if verb == "list":
                stream.inject(EXPIRED)
            elif verb == "watch":
                stream.cut()
        return mend

    return armed
