"""ROLL's model update, with its process groups set up again where engines have changed.

ROLL sets its groups up once, in the pipeline's process (roll/distributed/executor/
model_update_group.py at 8eb27cc2), and ends where an update fails.  Here worker 0 is asked before
each update whether the engines are still those of the groups.  If they are not, engines leave the
groups, the pool is waited for, and ROLL's own setup_model_update forms new ones, by a name that
neither trainer nor engines have had: ROLL's trainer takes none twice.  An update that fails because
an engine ended is run once more in the same way, whoever saw it first.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from sglang_operator.client import roll_places, texts
from sglang_operator.client.errors import (
    EngineError,
    Expired,
    GroupsTaken,
    NotReady,
    PoolError,
    StaleEpoch,
)

log = logging.getLogger(__name__)

_MENDED = (StaleEpoch, EngineError, Expired, NotReady)  # by other groups, perhaps
# ROLL's, for one bucket at a time; who fails over a bucket does not give it back
# (megatron/model_update.py).
_LOCKER = "model_update_locker"
_LOCKED = "_broadcast_to_infer_workers"  # ROLL's method that is called with it alone
_LOOK_AT_CALLS_SECONDS = 1.0
_STUCK_SECONDS = 30.0  # a bucket by the name of groups that were left is refused at once
_NOTICE_SECONDS = 15.0  # until the registry says that an engine ended
_LOOK_SECONDS = 0.5

Update = Callable[..., Mapping[str, Any]]


def install() -> None:
    """Let ROLL's updates in this process mend their groups."""
    from roll.distributed.executor.model_update_group import (  # type: ignore[import-not-found]
        ModelUpdateGroup,
    )

    if not hasattr(ModelUpdateGroup.model_update, "plain"):
        ModelUpdateGroup.model_update = mending(ModelUpdateGroup.model_update)
        ModelUpdateGroup.__init__ = claiming(ModelUpdateGroup.__init__)


def mending(plain: Update) -> Update:
    """ROLL's ModelUpdateGroup.model_update, for engines that may change."""

    def model_update(group: Any, step: Any = None) -> Mapping[str, Any]:
        import ray  # type: ignore[import-not-found]

        leader = group.tgt_cluster.workers[0]
        if step % group.frequency or not hasattr(leader, "update_obstacle"):
            return plain(group, step)
        if obstacle := ray.get(leader.update_obstacle.remote()):
            _set_up(ray, group, obstacle)
        tried = _Tried(group)
        try:
            return plain(tried, step)
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, GroupsTaken):
                raise  # by another job, which would take them again
            why = str(cause) if isinstance(cause, _MENDED) else _noticed(ray, leader)
            if not why:
                raise
            _set_up(ray, group, why, tried.calls)
        return plain(group, step)

    model_update.plain = plain  # type: ignore[attr-defined]
    return model_update


def claiming(plain: Callable[..., None]) -> Callable[..., None]:
    """ROLL's ModelUpdateGroup.__init__, whose trainer may hand weights over in GPU memory.

    Such a handle carries the number of the process that made it, and an engine that has the same
    takes it for its own.
    """

    def __init__(group: Any, src_cluster: Any, tgt_cluster: Any, *more: Any, **named: Any) -> None:
        import ray

        both = (src_cluster, tgt_cluster)
        train, infer = (set(each.worker_config.device_mapping or ()) for each in both)
        if train & infer and hasattr(tgt_cluster.workers[0], "update_obstacle"):
            claims = [each.__ray_call__.remote(roll_places.claim) for each in src_cluster.workers]
            ray.get(claims)
        plain(group, src_cluster, tgt_cluster, *more, **named)

    return __init__


def _noticed(ray: Any, leader: Any) -> str:
    """What has become of the engines; "" if nothing has.

    The trainer may be the first to see that one ended, as an error of its process group.
    """
    deadline = time.monotonic() + _NOTICE_SECONDS
    while True:
        found = str(ray.get(leader.update_obstacle.remote()))
        if found or time.monotonic() > deadline:
            return found
        time.sleep(_LOOK_SECONDS)


def _set_up(ray: Any, group: Any, why: str, failed: Iterable[Any] = ()) -> None:
    """Form the groups anew, over the engines as they are once all are up.

    ``failed``: the calls of the try that failed.  All of them end before there are new groups.
    """
    log.warning(texts.ROLL_AGAIN.format(what=why))
    ray.get([worker.leave_groups.remote() for worker in group.tgt_cluster.workers])
    _end(ray, failed)
    base, _, count = group.model_update_name.partition("_again")
    group.model_update_name = f"{base}_again{int(count or 0) + 1}"
    ray.get(
        [
            worker.setup_model_update.remote(
                infer_cluster=group.tgt_cluster, model_update_name=group.model_update_name
            )
            for worker in group.src_cluster.workers
        ]
    )


# --- the try that failed


class _Tried:
    """A ModelUpdateGroup for one try: it remembers its calls to the trainer's workers."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.calls: list[Any] = []
        workers = [_Remembered(each, self.calls) for each in group.src_cluster.workers]
        self.src_cluster = SimpleNamespace(workers=workers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)


class _Remembered:
    """A worker of Ray's whose calls are remembered."""

    def __init__(self, worker: Any, calls: list[Any]) -> None:
        self._worker = worker
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._worker, name)

        def remote(*arguments: Any, **options: Any) -> Any:
            self._calls.append(method.remote(*arguments, **options))
            return self._calls[-1]

        return SimpleNamespace(remote=remote)


def _end(ray: Any, calls: Iterable[Any]) -> None:
    """Wait until all calls of a try that failed have ended, without ROLL's lock.

    A call that kept the lock lets the others wait for it for ever.  It is given back for each that
    ended with it, and never while the one that has it may still be at work.
    """
    left, perhaps, since = list(calls), False, time.monotonic()
    while left:
        done, left = ray.wait(left, num_returns=len(left), timeout=_LOOK_AT_CALLS_SECONDS)
        errors = [error for each in done if (error := _error(ray, each)) is not None]
        kept = any(map(_kept, errors))
        perhaps = (perhaps or bool(errors)) and not kept  # one lock: who kept it was the last
        if done:
            since = time.monotonic()
        if kept:
            _unlock(ray)
        elif perhaps and (not left or time.monotonic() - since > _STUCK_SECONDS):
            _unlock(ray)
            perhaps = False


def _error(ray: Any, call: Any) -> Exception | None:
    try:
        ray.get(call)
    except Exception as error:
        return error
    return None


def _kept(error: Exception) -> bool:
    """Whether a call that ended with this has kept the lock, for certain.

    An engine's worker is asked with the lock alone, and so is the trainer's own broadcast begun.
    """
    return isinstance(_cause(error), PoolError) or _LOCKED in str(error)


def _unlock(ray: Any) -> None:
    with contextlib.suppress(Exception):  # fsdp2's trainers have none, or nobody holds it
        from roll.utils.constants import RAY_NAMESPACE  # type: ignore[import-not-found]

        ray.get(ray.get_actor(_LOCKER, namespace=RAY_NAMESPACE).release.remote())


def _cause(error: BaseException | None) -> BaseException | None:
    """What a worker raised: Ray hands it from process to process in errors of its own."""
    while error is not None and hasattr(error, "cause"):
        error = error.cause
    return error
