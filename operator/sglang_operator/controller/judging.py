"""A pool as it is written → a pool to run or a refusal, whatever is written.

One object never costs more than itself: what cannot be read, and what the operator itself fails
at, is told in its status like any other mistake, and its engines stay.
"""

import time
from collections.abc import Collection
from dataclasses import replace

from sglang_operator import supervision
from sglang_operator.api import errors, shape, spec
from sglang_operator.controller.memory import Memory
from sglang_operator.engine import arguments
from sglang_operator.observed import edits
from sglang_operator.observed.wire import CustomResource
from sglang_operator.pool import devices, shown_folders, tuning
from sglang_operator.pool.resolve import Owner, Pool, Refused, resolve_pool
from sglang_operator.pool.tuning import Tuning
from sglang_operator.status import stored


def resolved(
    memory: Memory,
    record: CustomResource,
    host: str,
    allowed: Collection[str] = (),
    folders: Collection[str] = (),
) -> Pool | Refused:
    """The pool as it is asked for and tuned; judged once."""
    meta, tuned = record.metadata, tuning.read(record.status)
    changed = memory.judged is None or not edits.same_spec(memory.judged, record)
    memory.judged = record
    memory.judging_seconds = 0.0  # of this pass: only one that follows an edit reads the spec
    if memory.resolved is None or changed or memory.tuning != tuned:
        owner = Owner(
            name=meta.name,
            namespace=meta.namespace,
            uid=memory.uid,
            generation=meta.generation,
        )
        begun = time.perf_counter()
        memory.resolved = judge(owner, record, tuned, host, allowed, folders)
        memory.judging_seconds = time.perf_counter() - begun
        memory.ignored = spec.ignored_fields(record.spec)
        memory.tuning = tuned
        memory.template = None
        if changed:
            # A changed spec deserves a fresh try of what was refused before.
            memory.blocked_until, memory.refusals, memory.refused = 0.0, 0, None
    return memory.resolved


def judge(
    owner: Owner,
    record: CustomResource,
    tuned: Tuning | None,
    host: str = arguments.ANY_ADDRESS,
    allowed: Collection[str] = (),
    folders: Collection[str] = (),
) -> Pool | Refused:
    """What this record asks for, of engines that listen there.

    ``allowed`` are resources that engines may ask for, ``folders`` of nodes those that they may be
    shown: none means those whose names say that they hold data.
    """
    if record.unreadable:
        return Refused(owner=owner, problems=(shape.unreadable(record.unreadable),))
    try:
        resolved = resolve_pool(owner, record.spec, tuned, stored.came_up(record.status))
    except Exception as error:  # a defect of ours, and this object's alone
        supervision.failed("planning", error, about=f"{owner.namespace}/{owner.name}")
        problem = errors.SPEC_SHAPE(
            "spec",
            found=f"makes the operator fail: {type(error).__name__}: {errors.shown(str(error))}",
            expected="a refusal in better words",
            advice="report it with the object; the engines that run stay as they are",
        )
        return Refused(owner=owner, problems=(problem,))
    if isinstance(resolved, Refused):
        return resolved
    pool = devices.allowing(replace(resolved, host=host), allowed)
    return pool if isinstance(pool, Refused) else shown_folders.allowing(pool, folders)
