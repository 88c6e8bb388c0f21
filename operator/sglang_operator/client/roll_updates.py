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
from collections.abc import Callable, Mapping
from typing import Any

from sglang_operator.client import texts
from sglang_operator.client.errors import EngineError, Expired, NotReady, StaleEpoch

log = logging.getLogger(__name__)

_MENDED = (StaleEpoch, EngineError, Expired, NotReady)  # by other groups, perhaps
_LOCKER = "model_update_locker"  # ROLL's: a trainer that fails does not give it back
_LOCKER_SECONDS = 1.0
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


def mending(plain: Update) -> Update:
    """ROLL's ModelUpdateGroup.model_update, for engines that may change."""

    def model_update(group: Any, step: Any = None) -> Mapping[str, Any]:
        import ray  # type: ignore[import-not-found]

        leader = group.tgt_cluster.workers[0]
        if step % group.frequency or not hasattr(leader, "update_obstacle"):
            return plain(group, step)
        if obstacle := ray.get(leader.update_obstacle.remote()):
            _set_up(ray, group, obstacle)
        try:
            return plain(group, step)
        except Exception as error:
            cause = _cause(error)
            why = str(cause) if isinstance(cause, _MENDED) else _noticed(ray, leader)
            if not why:
                raise
            _set_up(ray, group, why)
        return plain(group, step)

    model_update.plain = plain  # type: ignore[attr-defined]
    return model_update


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


def _set_up(ray: Any, group: Any, why: str) -> None:
    """Form the groups anew, over the engines as they are once all are up."""
    log.warning(texts.ROLL_AGAIN.format(what=why))
    ray.get([worker.leave_groups.remote() for worker in group.tgt_cluster.workers])
    base, _, count = group.model_update_name.partition("_again")
    group.model_update_name = f"{base}_again{int(count or 0) + 1}"
    left = [
        worker.setup_model_update.remote(
            infer_cluster=group.tgt_cluster, model_update_name=group.model_update_name
        )
        for worker in group.src_cluster.workers
    ]
    while left:
        done, left = ray.wait(left, num_returns=len(left), timeout=_LOCKER_SECONDS)
        ray.get(done)
        if left:  # behind an update that waits for the lock of one that failed
            _unlock(ray)


def _unlock(ray: Any) -> None:
    from roll.utils.constants import RAY_NAMESPACE  # type: ignore[import-not-found]

    with contextlib.suppress(ValueError):  # fsdp2's trainers have none
        ray.get_actor(_LOCKER, namespace=RAY_NAMESPACE).release.remote()


def _cause(error: BaseException | None) -> BaseException | None:
    """What a worker raised: Ray hands it from process to process in errors of its own."""
    while error is not None and hasattr(error, "cause"):
        error = error.cause
    return error
