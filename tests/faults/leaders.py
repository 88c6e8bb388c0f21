"""Two operators: both writing, one stopped and continued, and a Lease that misbehaves: F3 to F5."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

from sglang_operator.testing import ApiError, installed
from sglang_operator.testing.faults import Match, ProxiedOperator, Proxy, Write
from sglang_operator.testing.faults.rules import BlackHole, Drop, Fault, Reply
from tests.faults.lab import FaultPool, Lab, Result
from tests.faults.points import ARGUMENT, CREATE, MOVE, RECREATE, SHRINK, Change, _reference
from tests.faults.watches import judged_restarted

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{installed.NAMESPACE}/leases/{installed.ACCOUNT}"
LEASES = Match(resource="leases")
# A holder whose renewals are stored and never answered renews for 10 s; then a term of 15 s.
TAKE_OVER_SECONDS = 35.0
REST_SECONDS = 8.0
# On a loaded machine one of two may be done before the other begins.
RACES = 3
NO_RACE = "wrote nothing: this was no race"
# In which one that goes on after a stop would write, if anything let it.
WATCHED_SECONDS = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two operators, each behind a proxy of its own; the first to start holds the Lease."""

    lab: Lab
    first: ProxiedOperator
    second: ProxiedOperator

    def writes(self, operator: ProxiedOperator, since: float = 0.0) -> list[str]:
        """What this operator wrote after a monotonic time, the Lease apart; refused or not."""
        return [
            str(write.request)
            for write in operator.proxy.writes
            if write.at > since and not _of_lease(write)
        ]

    def overlap(self) -> list[str]:
        """A problem if the first wrote anything once the second had begun to."""
        begun = min((w.at for w in self.second.proxy.writes if not _of_lease(w)), default=None)
        if begun is None:
            return ["the second never wrote"]
        late = self.writes(self.first, begun)
        return [f"the first wrote after the second had begun: {late[:5]}"] if late else []

    def took_over(self) -> bool:
        return "holding the Lease" in self.second.log.read_text(errors="replace")


def _of_lease(write: Write) -> bool:
    return write.request.resource == "leases"


@contextlib.contextmanager
def _pair(lab: Lab, *, elected: bool) -> Iterator[Pair]:
    """In the lab's operator's place two others; afterwards the lab has its own again."""
    lab.operator.kill()
    arguments = [f"--lease-namespace={installed.NAMESPACE}"] if elected else []
    package = lab.package
    with Proxy(lab.plane.url, ca_file=lab.plane.ca_file) as other:
        first = ProxiedOperator(lab.plane, lab.proxy, arguments=arguments, package=package)
        second = ProxiedOperator(lab.plane, other, arguments=arguments, package=package)
        lab.mortal = {first.name, second.name}
        try:
            first.start()
            if elected:
                lab.wait(lambda: "holding the Lease" in first.log.read_text(), "a holder", 20)
            second.start()
            yield Pair(lab=lab, first=first, second=second)
        finally:
            lab.proxy.clear()
            for operator in (first, second):
                if operator.pid is not None:
                    operator.kill()
                with contextlib.suppress(Exception):  # it may have ended by itself, as it should
                    lab.plane.await_end(operator.name, 0.1)
            lab.mortal = set()
            lab.plane.api.delete(LEASE, missing_ok=True)
            lab.operator.start()


def two_writers(lab: Lab) -> Iterator[Result]:
    """F3: two that both think they may write.

    Where no pod of an engine is about to go, both give its pod one name: only requests are wasted.
    Where one sees the old pod go and the other not yet, both may make one, which is resolved: the
    monitor sees to it that never two are in service, and that an extra one does not stay.
    """
    for change in (CREATE, SHRINK, MOVE, ARGUMENT, RECREATE):
        for _ in range(RACES):
            result = Result(point=f"two writers, {change.name}")
            judged_restarted(lab, result, change.setup, _both_write(change))
            if not any(NO_RACE in problem for problem in result.problems):
                break
        if change not in (CREATE, SHRINK):
            result.problems = [p for p in result.problems if "was created beside" not in p]
        yield result
    yield judged_restarted(lab, Result(point="a pair at rest"), None, _rest)


def _both_write(change: Change) -> Callable[[Lab, FaultPool], list[str]]:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        reference, _ = _reference(lab, change)
        before = lab.ledger(pool)
        with _pair(lab, elected=False) as pair:
            change.act(pool)
            problems = lab.settle(pool)
            if change in (CREATE, SHRINK):
                found = lab.ledger(pool).since(before)
                problems += lab.differences(pool, found, reference)
            silent = [o.name for o in (pair.first, pair.second) if not pair.writes(o)]
            return [
                *problems,
                *(f"{name} {NO_RACE}" for name in silent),
            ]

    return act


def _rest(lab: Lab, pool: FaultPool) -> list[str]:
    """The Lease stays where it is, and the standby writes nothing."""
    with _pair(lab, elected=True) as pair:
        pool.create(replicas=4)
        problems = lab.settle(pool)
        before = _transitions(lab)
        time.sleep(REST_SECONDS)
        if _transitions(lab) != before:
            problems.append("the Lease changed hands while its holder was well")
        if pair.writes(pair.second):
            problems.append(f"the standby wrote: {pair.writes(pair.second)[:5]}")
        if pair.first.pid is None or pair.second.pid is None:
            problems.append("an operator ended by itself")
        return problems


def _transitions(lab: Lab) -> tuple[str, int]:
    spec = lab.plane.api.get(LEASE)["spec"]
    return spec["holderIdentity"], spec.get("leaseTransitions", 0)


# --- F4


def stopped_holder(lab: Lab) -> Iterator[Result]:
    """F4: the holder is stopped until another has its place, and continued: it writes nothing.

    It hears nothing of the Lease when it goes on, so that nothing but its fence holds it back.
    """
    for name, setup, amid in (
        ("amid creates", None, True),
        ("at rest, the pool is changed meanwhile", CREATE.act, False),
    ):

        def act(lab: Lab, pool: FaultPool, amid: bool = amid) -> list[str]:
            with _pair(lab, elected=True) as pair:
                return _stop_and_go_on(lab, pool, pair, amid=amid)

        yield judged_restarted(lab, Result(point=f"holder stopped {name}"), setup, act)


def _stop_and_go_on(lab: Lab, pool: FaultPool, pair: Pair, *, amid: bool) -> list[str]:
    lab.proxy.reset_counters()
    if amid:
        pool.create(num_gpus_per_worker=1, device_mapping="list(range(0,90))")
        lab.wait(lambda: lab.proxy.counts["create pods"] >= 10, "the first creates")
    pair.first.pause()
    if not amid:
        pool.patch(device_mapping="list(range(4,20))")
    lab.wait(pair.took_over, "the standby to take over", TAKE_OVER_SECONDS)
    problems = lab.settle(pool)
    hold = lab.proxy.add(LEASES, BlackHole())
    lab.plane.api.delete(pool.pod_path(sorted(pool.pods())[0]))  # something to be done
    since = time.monotonic()
    pair.first.proceed()
    time.sleep(WATCHED_SECONDS)
    late = pair.writes(pair.first, since)
    lab.proxy.remove(hold)
    lab.plane.await_end(pair.first.name, TAKE_OVER_SECONDS)
    problems += lab.settle(pool)
    return [*problems, f"it wrote after its stop: {late[:5]}"] if late else problems


# --- F5


def broken_lease(lab: Lab) -> Iterator[Result]:
    """F5: the holder cannot renew: it stops writing before another begins."""
    for name, fault in (
        ("hangs", BlackHole()),
        ("hangs after the commit", BlackHole(commit=True)),
        ("is reset", Drop(after_commit=False)),
        ("409", Reply(409, "Conflict")),
        ("500", Reply(500)),
    ):
        result = Result(point=f"Lease {name}")
        yield judged_restarted(lab, result, None, _cannot_renew(fault))
    yield judged_restarted(lab, Result(point="Lease deleted"), None, _lease_deleted)


def _cannot_renew(fault: Fault) -> Callable[[Lab, FaultPool], list[str]]:
    def act(lab: Lab, pool: FaultPool) -> list[str]:
        with _pair(lab, elected=True) as pair:
            lab.proxy.reset_counters()
            # Lists and watches tell of the Lease too; only its own renewal counts for the holder.
            renewals = Match(verbs=["create", "update", "get"], resource="leases")
            lab.proxy.add(renewals, fault)
            pool.create()
            problems = _keep_busy(lab, pool, pair)
            lab.plane.await_end(pair.first.name, TAKE_OVER_SECONDS)
            problems += lab.settle(pool)
            return problems + pair.overlap()

    return act


def _keep_busy(lab: Lab, pool: FaultPool, pair: Pair) -> list[str]:
    """There is work until the standby has taken over."""
    deadline = time.monotonic() + TAKE_OVER_SECONDS
    size = 0
    while not (pair.took_over() and pair.writes(pair.second)):
        if time.monotonic() > deadline:
            return ["nobody took over"]
        size += 1
        pool.patch(replicas=4 + size % 8)
        time.sleep(0.5)
    return []


def _lease_deleted(lab: Lab, pool: FaultPool) -> list[str]:
    """One of the two makes it anew; whoever it is, the pool comes to be, by one of them."""
    with _pair(lab, elected=True) as pair:
        pool.create(replicas=4)
        problems = lab.settle(pool)
        with contextlib.suppress(ApiError):
            lab.plane.api.delete(LEASE)
        lab.wait(lambda: lab.plane.api.exists(LEASE), "a Lease", TAKE_OVER_SECONDS)
        since = time.monotonic()
        pool.patch(device_mapping="list(range(4,20))", replicas=None)
        problems += lab.settle(pool, TAKE_OVER_SECONDS + 20)
        with contextlib.suppress(Exception):  # the one that lost it ends, and is started again
            lab.plane.await_end(pair.first.name, 0.1)
        both = [o for o in (pair.first, pair.second) if pair.writes(o, since)]
        return [*problems, "both wrote"] if len(both) == 2 else problems
