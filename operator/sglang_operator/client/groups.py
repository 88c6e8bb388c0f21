"""Process groups of torch, as engines keep them: by name, for the life of the engine's process.

An engine that lived on is still in the group of a trainer that is gone: it leaves that before it
joins.  An engine that restarted is in none: SGLang's scheduler asserts that it is in the group of
each bucket, and ends if it is not.
"""

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sglang_operator.client import texts
from sglang_operator.client.calls import Json
from sglang_operator.client.errors import (
    EngineError,
    GroupsTaken,
    Held,
    StaleEpoch,
    Unsupported,
)
from sglang_operator.client.hold import LeaseHold
from sglang_operator.client.lease import POLL_SECONDS, LeaseObservation, WeightsLease, counted
from sglang_operator.client.registry import DEFAULT_GROUP, Engine
from sglang_operator.clocks import steady
from sglang_operator.weights import groups as weights_groups
from sglang_operator.weights import rules, steps
from sglang_operator.weights.groups import FORMING_SECONDS
from sglang_operator.weights.lease_state import GroupsOwner, Transaction
from sglang_operator.weights.rules import Trainer
from sglang_operator.weights.times import shown

JOIN = "/init_weights_update_group"
LEAVE = "/destroy_weights_update_group"
BUCKET = "/update_weights_from_distributed"

PATIENCE = 10.0  # seconds to go on trying without an API server
# For which one process of a job relies on what another has said for it.
_FRESH_SECONDS = FORMING_SECONDS / 3
_NO_SUCH_GROUP = "does not exist"  # SGLang's words
_NAME_IS_TAKEN = "group name has already been created"  # torch's

_STAGES = range(16)  # of a trainer's pipeline; each has a group of its own
_EXPERTS = range(8)
_ROLL = "model_update/actor_train_2_actor_infer"  # ROLL distributed/executor/model_update_group.py
_ROLLS = (_ROLL, *(f"{_ROLL}_again{n}" for n in range(1, 4)))  # roll_updates: set up again
# The names that trainers give their groups: ROLL, slime, miles, AReaL, and SGLang's own default.
# No version of SGLang tells which groups an engine is in.
KNOWN = (
    DEFAULT_GROUP,
    *(each for name in ("slime", "miles") for each in (name, *(f"{name}-pp_{n}" for n in _STAGES))),
    *("update_weight_group", *(f"update_weight_group_{n}" for n in _STAGES)),
    *(f"{name}_fsdp2" for name in _ROLLS),
    *(f"{name}_pp{n}_ep{e}" for name in _ROLLS for n in _EXPERTS for e in _EXPERTS),
)

Post = Callable[[Engine, str, Mapping[str, Any]], Awaitable[Json]]

log = logging.getLogger(__name__)


async def leave(post: Post, engine: Engine, name: str) -> bool:
    """Let an engine leave the group of this name; whether it was in one.  Raises EngineError."""
    try:
        await post(engine, LEAVE, {"group_name": name})
    except EngineError as error:
        missing = error.status == 404  # a build without the endpoint
        if not missing and not (error.status == 400 and _NO_SUCH_GROUP in error.said):
            raise
        return False
    return True


def tell_whose(before: GroupsOwner | None, owner: GroupsOwner) -> None:
    """Say from whom the groups were taken, if they were another's."""
    if before is not None and before.holder != owner.holder and not before.left:
        since, seen = shown(before.since), shown(before.seen)
        log.warning(texts.GROUPS_FROM.format(holder=before.holder, since=since, seen=seen))


class Groups:
    """The groups that one client has let engines join, and whether they are its own yet."""

    def __init__(self, holder: str) -> None:
        self._holder = holder
        # Whether other processes of this name form groups too, each for its engines, as one job.
        self.shared = False
        self._id = ""  # of the owner on record, as which engines have joined
        self._joined: dict[str, set[str | None]] = {}  # by name, the instances

    @property
    def id(self) -> str:
        """The owner on record as which engines have joined; "" if none has."""
        return self._id

    def owned(self, state: Transaction) -> None:
        """Raises StaleEpoch if the engines are in another's groups, or in none, by the Lease.

        Of groups that were formed by other means it only knows when they are not these any more.
        """
        owner = state.groups
        if self._id and (owner is None or owner.id == weights_groups.LOST):
            raise StaleEpoch(texts.GROUPS_FORGOTTEN)
        if owner is None:
            return
        mine = owner.id == self._id if self._id else owner.holder == self._holder or owner.left
        if mine:
            return
        values = {"holder": owner.holder, "since": shown(owner.since), "seen": shown(owner.seen)}
        if owner.left:
            raise StaleEpoch(texts.GROUPS_RESET.format(**values))
        text = texts.GROUPS_TAKEN if self._id else texts.GROUPS_NOT_OWN
        raise GroupsTaken(text.format(**values))

    def are_owned(self, state: Transaction) -> bool:
        """Whether that is not so."""
        try:
            self.owned(state)
        except StaleEpoch:
            return False
        return True

    def claim(
        self, state: Transaction, sight: LeaseObservation, *, forming: bool = False
    ) -> Transaction:
        """A step of the Lease: whatever engines are told of groups from now on, this client does.

        ``forming``: without a transaction of its own.  Raises RefusedError.
        """
        found = state.groups
        name = secrets.token_hex(6)
        if found is not None and found.holder == self._holder:
            kept = not found.left and found.id != weights_groups.LOST
            if kept and (self.shared or found.id == self._id):
                name = found.id
        me = GroupsOwner(id=name, holder=self._holder, forming=forming)
        return weights_groups.claimed(state, me, now=sight.now, seen=sight.groups)

    def claimed(self, before: GroupsOwner | None, owner: GroupsOwner) -> None:
        """That step was taken; what stood there before."""
        if owner.id == self._id:
            return
        self._joined.clear()
        self._id = owner.id
        tell_whose(before, owner)

    @contextmanager
    def joining(self, name: str, engines: Iterable[Engine]) -> Iterator[None]:
        """While these engines join the group.  Raises Unsupported for one that cannot."""
        instances = {engine.instance for engine in engines}
        known = self._joined.setdefault(name, set())
        known -= instances
        try:
            yield
        except EngineError as error:
            if _NAME_IS_TAKEN in error.said:
                raise Unsupported(texts.GROUP_TAKEN.format(error=error)) from error
            raise
        known |= instances

    def left(self, name: str) -> None:
        """The group has ended, or is about to."""
        self._joined[name] = set()

    def cleared(self, names: Iterable[str]) -> None:
        """Engines have left these, those that this client has set up among them."""
        for name in self._joined.keys() & set(names):
            self.left(name)

    def require(self, name: str, engines: Iterable[Engine]) -> None:
        """Raises StaleEpoch if this client set the group up without one of these engines."""
        known = self._joined.get(name)
        outside = [e for e in engines if known is not None and e.instance not in known]
        if outside:
            first = outside[0]
            raise StaleEpoch(
                texts.NOT_IN_GROUP.format(
                    name=name, rank=first.rank, engine=first.engine, url=first.url
                )
            )


class Forming:
    """A client that forms groups without a transaction of its own, as others of its job do.

    Nobody else does meanwhile, nor syncs: what it sends to engines leaves only while that is so.
    """

    def __init__(self, groups: Groups, lease: WeightsLease, trainer: Trainer) -> None:
        self._groups = groups
        self._lease = lease
        self._trainer = trainer
        self._until = 0.0
        self.owner: GroupsOwner | None = None  # as its last claim has left the Lease

    @property
    def fresh(self) -> bool:
        """Whether that was said a moment ago, by this process or by another one of the job."""
        return self._lease.groups_age() < _FRESH_SECONDS

    def alive(self) -> bool:
        """The fence, asked as each request leaves."""
        return steady() < self._until

    async def claim(self, wait: float, *, own: bool = False) -> None:
        """Wait for another job's sync or sleep, or its end, and take the engines' groups.

        Raises Held after ``wait`` seconds, PoolError; StaleEpoch if they are to be its ``own``, and
        are not any more.
        """
        before: list[GroupsOwner | None] = [None]

        def step(state: Transaction, sight: LeaseObservation) -> Transaction:
            if own:
                self._groups.owned(state)
            if state.holder != self._trainer.holder:
                rules.free(state, self._trainer, sight.now, sight.seen)
            found, taken = state.groups, self._groups.claim(state, sight, forming=True)
            before[0] = found
            if found is None or found != dataclasses.replace(found, id=_id(taken), forming=True):
                return taken
            return state if self.fresh else taken  # another process of the job was quicker

        written = await self._lease.step_when_free(step, wait=wait, patience=PATIENCE)
        owner = written.state.groups
        assert owner is not None
        self._groups.claimed(before[0], owner)
        self.owner = owner
        self._until = steady() - self._lease.groups_age() + counted(FORMING_SECONDS)


def _id(state: Transaction) -> str:
    return state.groups.id if state.groups is not None else ""


async def claim_within(groups: Groups, hold: LeaseHold) -> Transaction:
    """Take the engines' groups in this transaction; the state after it.

    Waits for who forms some.  Raises Held, Expired, ClusterError.
    """
    before: list[GroupsOwner | None] = [None]

    def step(state: Transaction, sight: LeaseObservation) -> Transaction:
        before[0], state = state.groups, steps.renew(state, hold.trainer, now=sight.now)
        return groups.claim(state, sight)

    deadline = steady() + FORMING_SECONDS + 1
    while True:
        try:
            after = await hold.step(step, patience=PATIENCE)
            break
        except Held:
            if steady() > deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)
    assert after.groups is not None
    groups.claimed(before[0], after.groups)
    return after
