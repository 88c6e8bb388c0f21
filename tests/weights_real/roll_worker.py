"""One of ROLL's inference workers as a process of its own, on the strategy that drives a pool.

A job's workers carry out the same script, each for the engine of its rank; what is broadcast comes
from the job's trainer (``jobs``).  As of other trainers, each can be held at any of its requests.
"""

import importlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sglang_operator.client import PoolError, following, ledger, roll_groups, roll_memory, shared
from sglang_operator.client.pausing import SyncOptions
from sglang_operator.weights import lease_state as api_weights
from tests import roll_interface
from tests.weights_real import trainer
from tests.weights_real.trainer import LEASE_SECONDS, TENSORS, Place

GROUP = "actor_infer"
JOINED = "joined"  # the point at which a worker's engine is in the group
PATIENCE = 8.0  # of workers with each other
READY_SECONDS = 30.0

# Guards of the client that a control is without.
UNVOUCHED = "commits for workers that do not vouch"
UNFENCED = "workers write on after their leader"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one worker does: it joins the trainer's group, then one update after the other."""

    rank: int
    size: int
    job: int  # no other has this number
    master: tuple[str, int]  # where the trainer listens
    updates: tuple[int, ...]  # the numbers of the steps
    buckets: int
    left_out: bool = False  # it gets no bucket of the last update
    told: bool = True  # it is told that an update is over which it got no bucket of
    colocated: bool = False  # the engines sleep between updates
    holds: frozenset[int | str] = frozenset()
    defect: str = ""


def at(part: Part, master: tuple[str, int]) -> Part:
    """The same, with the trainer's address."""
    return replace(part, master=master)


def version(step: int) -> str:
    """As the strategy names it."""
    return f"step-{step}"


def bucket(index: int, buckets: int) -> tuple[str, ...]:
    """The tensors in one bucket of an update."""
    return TENSORS[index::buckets]


def main(place: Place, part: Part, talk: Connection) -> None:
    """Carry out the script; tells as ``trainer.main`` does."""
    point = trainer.hold_at(part.holds, talk)
    os.environ["KUBECONFIG"] = place.kubeconfig
    roll = _roll(part.defect)

    async def carry_out() -> None:
        strategy = roll.OperatorPoolStrategy(_worker(place, part))
        await strategy.initialize()
        try:
            await _script(strategy, part, point)
        finally:
            await strategy.pool.close()

    trainer.tell(place, carry_out, talk)


def _roll(defect: str) -> ModuleType:
    """The strategy, in a hurry: all times in proportion to the Lease's."""
    ordinary, api_weights.LEASE_SECONDS = api_weights.LEASE_SECONDS, LEASE_SECONDS
    changes = pytest.MonkeyPatch()
    roll_interface.make_importable(changes)
    roll = importlib.import_module(roll_interface.STRATEGY)
    scale = LEASE_SECONDS / ordinary
    for module, name, value in (
        (following, "LEASE_SECONDS", LEASE_SECONDS),
        (following, "LOOK_SECONDS", following.LOOK_SECONDS * scale),
        (following, "FOLLOW_SECONDS", PATIENCE),
        (shared, "VOUCH_SECONDS", PATIENCE),
        (roll, "READY_SECONDS", READY_SECONDS),
        (roll_groups, "READY_SECONDS", READY_SECONDS),
        (roll_memory, "READY_SECONDS", READY_SECONDS),
        (roll, "SyncOptions", partial(SyncOptions, duration=float(LEASE_SECONDS))),
        (roll.OperatorPoolStrategy, "_tokenizer", lambda _: None),
        *_without(defect, roll),
    ):
        changes.setattr(module, name, value)
    return roll


def _without(defect: str, roll: ModuleType) -> tuple[tuple[Any, str, Any], ...]:
    """The changes by which the client is without what keeps clients from wrong weights."""

    async def silent(*_: Any) -> None:
        pass

    if defect == UNVOUCHED:
        return (
            (shared.SharedSync, "_missing", lambda *_: []),
            (ledger.Ledger, "written", lambda _, engines: list(engines)),
            (following.Follower, "_object", silent),
            (roll.OperatorPoolStrategy, "_same_engines", lambda *_: None),
            (roll, "SharedSync", _of_all),
        )
    if defect == UNFENCED:
        return ((following.Follower, "_over", lambda *_: None),)
    return ()


def _of_all(*arguments: Any, covers: Any, **options: Any) -> shared.SharedSync:
    return shared.SharedSync(*arguments, **options)


def _worker(place: Place, part: Part) -> SimpleNamespace:
    config = {"pool": place.pool, "namespace": place.namespace, "mem_fraction_static": 0.7}
    strategy = SimpleNamespace(strategy_config=config)
    return SimpleNamespace(
        rank=part.rank,
        world_size=part.size,
        cluster_name="actor_infer",
        master_addr=f"job-{part.job}",
        master_port=part.master[1],
        worker_config=SimpleNamespace(strategy_args=strategy, offload_nccl=False),
        pipeline_config=SimpleNamespace(is_actor_infer_colocated=part.colocated),
    )


async def _script(strategy: Any, part: Part, point: Callable[[str], None]) -> None:
    """ROLL's pipeline: set up the group, then update, generate and offload, step by step."""
    await strategy.setup_collective_group(*part.master, 1 + part.rank, 1 + part.size, GROUP)
    point(JOINED)
    for step in part.updates:
        if part.colocated and step != part.updates[0]:
            await strategy.offload_states()
        strategy._step = step - 1  # no two updates of a pool have one name here
        left_out = part.left_out and step == part.updates[-1]
        if not left_out:
            await _finally_told(strategy, _buckets(strategy, part.buckets))
        if part.told or not left_out:
            await strategy.process_weights_after_loading()
        await strategy.load_states()


async def _buckets(strategy: Any, buckets: int) -> None:
    for index in range(buckets):
        names = bucket(index, buckets)
        shapes = [(2,)] * len(names)
        await strategy.broadcast_parameter(names, ["torch.bfloat16"] * len(names), shapes, GROUP)


async def _finally_told(strategy: Any, update: Awaitable[None]) -> None:
    """Who could not write its buckets is told all the same that the update is over."""
    try:
        await update
    except PoolError:
        await strategy.process_weights_after_loading()
        raise
