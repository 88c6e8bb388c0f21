"""Ends of engines are read in turns with all other work, and what is not read yet waits."""

import asyncio
import dataclasses
import itertools
import random
import string

from sglang_operator.ask import events
from sglang_operator.cluster.stores import PodEntry, PoolKey
from sglang_operator.controller.reading import PASS_SECONDS, TURN_SECONDS, EndReader
from sglang_operator.engine import signatures
from sglang_operator.observed import ends
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Companion, ContainerKind, ObservedPod, Termination
from sglang_operator.status import failures
from tests.builders import NOW, a_failed_start, a_pod, a_pool, planned

MANY = 1024  # each pass is over all of them, and reads a part
KEY = PoolKey("rl", "actor-infer")
OUT_OF_MEMORY = Termination(
    exit_code=1, reason="Error", message="CUDA out of memory", finished=NOW - 5
)


def entry(pod: ObservedPod) -> PodEntry:
    return PodEntry(pod=pod, pool=KEY, owner=a_pool().owner.uid, aside=False)


def texts(seed: int) -> list[str]:
    letters, chance = string.ascii_letters + " :[]=/.\n", random.Random(seed)
    blocks = ["".join(chance.choices(letters, k=128)) for _ in range(256)]
    return ["".join(chance.choices(blocks, k=32)) for _ in range(MANY)]


class Reads:
    """A clock by which each end that is read takes a millisecond."""

    def __init__(self) -> None:
        self.count = 0

    def perf_counter(self) -> float:
        self.count += 1  # it is looked at after each, and before the first of a turn
        return self.count / 1000

    def monotonic(self) -> float:
        return self.count / 1000


def test_a_thousand_engines_that_fail_at_once_do_not_hold_the_loop(monkeypatch):
    reads = Reads()
    monkeypatch.setattr("sglang_operator.controller.reading.time", reads)
    pool = a_pool(device_mapping=f"list(range(0,{MANY}))", num_gpus_per_worker=1)

    async def story() -> tuple[int, int]:
        told = zip(pool.running, texts(0), strict=True)
        pods = [a_failed_start(pool, engine, message=text) for engine, text in told]
        entries, reader = [entry(pod) for pod in pods], EndReader()

        async def passes() -> int:
            count, all_read = 0, False
            while not all_read:
                all_read = await reader.read(entries)
                seen, unread = ends.as_read(pods)
                planned(pool, list(seen), unread=unread)
                count += 1
                await asyncio.sleep(0)
            return count

        work, most = asyncio.create_task(passes()), 0
        while not work.done():
            before = reads.count
            await asyncio.sleep(0)
            most = max(most, reads.count - before)
        return most, work.result()

    most, count = asyncio.run(story())
    assert reads.count > MANY
    assert count >= MANY / 1000 / PASS_SECONDS
    assert most <= 1000 * TURN_SECONDS + 2


def test_only_one_pool_reads_in_a_round_of_the_loop(monkeypatch):
    monkeypatch.setattr("sglang_operator.controller.reading.TURN_SECONDS", 0.0)
    pool = a_pool()
    pods = [a_failed_start(pool, pool.running[0], message=f"no {number}") for number in range(20)]

    async def story() -> list[int]:
        reader = EndReader()
        reads = [asyncio.create_task(reader.read([entry(pod)])) for pod in pods]
        left = [len(pods)]
        while not all(read.done() for read in reads):
            await asyncio.sleep(0)
            left.append(sum(1 for _ in ends.unread(pods)))
        return left

    left = asyncio.run(story())
    assert left[-1] == 0
    assert max(before - after for before, after in itertools.pairwise(left)) == 1


def test_an_engine_waits_until_its_end_is_read():
    pool = a_pool()
    first, second = pool.running[:2]
    pods = [a_failed_start(pool, first), a_failed_start(pool, second)]
    assert pods[0].termination is not None
    _ = pods[0].termination.reading
    seen, unread = ends.as_read(pods)
    assert unread == {pods[1].uid}
    plan = planned(pool, list(seen), unread=unread)
    assert [pod.name for pod in plan.ended] == [pods[0].name], "nothing is recorded of it"
    assert second.name not in {create.engine.name for create in plan.creates}
    states = {view.engine.name: view.state for view in plan.engines}
    assert states[second.name] is EngineState.BACKOFF
    assert not plan.removals
    later = planned(pool, pods)
    assert {pod.name for pod in later.ended} == {pod.name for pod in pods}


def test_a_pod_that_runs_on_is_seen_without_an_end_that_is_not_read():
    pool = a_pool()
    beside = Companion(
        name="proxy",
        kind=ContainerKind.SIDECAR,
        waiting_reason="CrashLoopBackOff",
        last_termination=dataclasses.replace(OUT_OF_MEMORY),
    )
    pod = a_pod(
        pool,
        pool.running[0],
        restarts=1,
        containers_ready=False,
        last_termination=OUT_OF_MEMORY,
        companions=(beside,),
    )
    (seen,), unread = ends.as_read([pod])
    assert not unread
    assert not list(ends.unread([seen]))
    plan = planned(pool, [seen])
    assert not failures.seen(pool, plan)
    assert not list(events.unexplained_ends(pool, plan))
    for end in ends.unread([pod]):
        _ = end.reading
    (known,), _ = ends.as_read([pod])
    assert known is pod
    reasons = {failure.reason for failure in failures.seen(pool, planned(pool, [known]))}
    assert signatures.CUDA_OUT_OF_MEMORY in reasons
