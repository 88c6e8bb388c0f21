"""Process groups of torch, as engines keep them: by name, for the life of the engine's process.

An engine that lived on is still in the group of a trainer that is gone: it leaves that before it
joins.  An engine that restarted is in none: SGLang's scheduler asserts that it is in the group of
each bucket, and ends if it is not.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sglang_operator.api import weights_rules
from sglang_operator.api.weights import Transaction
from sglang_operator.api.weights_rules import Trainer
from sglang_operator.client import texts
from sglang_operator.client.calls import Json
from sglang_operator.client.errors import EngineError, StaleEpoch, Unsupported
from sglang_operator.client.lease import LeaseFile, Sight
from sglang_operator.client.registry import DEFAULT_GROUP, Engine

PATIENCE = 10.0  # seconds to go on trying without an API server
_NO_SUCH_GROUP = "does not exist"  # SGLang's words
_NAME_IS_TAKEN = "group name has already been created"  # torch's

_STAGES = range(16)  # of a trainer's pipeline; each has a group of its own
_EXPERTS = range(8)
_ROLL = "model_update/actor_train_2_actor_infer"  # ROLL distributed/executor/model_update_group.py
# The names that trainers give their groups: ROLL, slime, miles, AReaL, and SGLang's own default.
# No version of SGLang tells which groups an engine is in.
KNOWN = (
    DEFAULT_GROUP,
    *(each for name in ("slime", "miles") for each in (name, *(f"{name}-pp_{n}" for n in _STAGES))),
    *("update_weight_group", *(f"update_weight_group_{n}" for n in _STAGES)),
    *(f"{_ROLL}_fsdp2", *(f"{_ROLL}_pp{n}_ep{e}" for n in _EXPERTS for e in _EXPERTS)),
)

Post = Callable[[Engine, str, Mapping[str, Any]], Awaitable[Json]]


async def leave(post: Post, engine: Engine, name: str) -> bool:
    """Let an engine leave the group of this name; whether it was in one.  Raises EngineError."""
    try:
        await post(engine, "/destroy_weights_update_group", {"group_name": name})
    except EngineError as error:
        missing = error.status == 404  # a build without the endpoint
        if not missing and not (error.status == 400 and _NO_SUCH_GROUP in error.said):
            raise
        return False
    return True


async def wait_free(lease: LeaseFile, trainer: Trainer, wait: float) -> None:
    """Wait while another than this trainer's job may be at the engines; nothing is written.

    Its names may be the same, and SGLang ends over a bucket of a group that was left.  Raises Held
    after ``wait`` seconds, PoolError.
    """

    def step(state: Transaction, sight: Sight) -> Transaction:
        if state.holder != trainer.holder:
            weights_rules.free(state, trainer, sight.now, sight.seen)
        return state

    await lease.step_when_free(step, wait=wait, patience=PATIENCE)


class Groups:
    """The groups that one client has let engines join.  Of others' it knows nothing."""

    def __init__(self) -> None:
        self._joined: dict[str, set[str | None]] = {}  # by name, the instances

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
