"""``rollout undo``: going back to a stored revision, once somebody has seen what that changes.

Whoever may write ControllerRevisions would else write a pool's spec by the hand of who undoes.  The
hash in the name of one shows damage and another version's rules, and not who wrote it: anybody can
compute it, as anybody can write an owner, a manager of fields or a number.  So it is asked.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sglang_operator.api import errors, names, redaction
from sglang_operator.cli import texts
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from sglang_operator.cli.redaction import is_secret_argument
from sglang_operator.cli.rollout_history import Known, Stored, left_out, present
from sglang_operator.pool import undoing
from sglang_operator.pool.resolve import Owner, Pool, Refused
from sglang_operator.view.cluster_view import PoolView


def undo(
    cluster: Cluster,
    pool: PoolView,
    known: Known,
    number: int | None,
    *,
    confirmed: Callable[[], bool],
    force: bool = False,
    dry_run: bool = False,
) -> Iterator[str]:
    """Write the spec of a stored revision back, if the pool is still as it was read.

    What changes is told, and then ``confirmed`` says whether it is to be written.  ``force``: also
    of one whose content does not hash to its name.  Raises :class:`ClusterError`, also where there
    is nothing to go back to, what would come of it is refused, or it was not confirmed.
    """
    yield from left_out(pool, known)
    target = _target(pool, known.stored, number)
    raw = dict(pool.record.spec)
    named = {
        "name": pool.name,
        "namespace": pool.namespace,
        "number": target.number,
        "revision": target.revision,
    }
    owner = Owner(
        name=pool.name,
        namespace=pool.namespace,
        uid=names.Uid(pool.record.metadata.uid),
        generation=pool.record.metadata.generation,
    )
    back = undoing.undone(owner, raw, target.part)
    if isinstance(back, Refused):
        why = "; ".join(map(str, back.errors))
        raise ClusterError(_undo(pool), texts.UNDO_REFUSED.format(**named, why=why), Why.OTHER)
    changed = list(undoing.changes(raw, back.spec))
    if changed:
        yield texts.UNDO_CHANGES.format(**named)
    for change in changed:
        was, now = (_shown(change.names, value) for value in (change.was, change.now))
        yield texts.UNDO_CHANGE.format(field=change.field, was=was, now=now)
    yield from _gate(pool, back.pool)
    made = back.pool.base_revision
    if made != target.revision and not force:
        refused = texts.UNDO_OTHER_HASH.format(
            **named, found=made, object=names.revision_name(pool.name, target.revision)
        )
        raise ClusterError(_undo(pool), refused, Why.OTHER)
    if not changed:
        yield texts.UNDO_NOTHING.format(**named)
        return
    if dry_run:
        yield texts.UNDO_DRY_RUN.format(**named)
        return
    if not confirmed():
        raise ClusterError(_undo(pool), texts.UNDO_UNCONFIRMED.format(**named), Why.OTHER)
    _write(cluster, pool, back.spec)
    done = texts.UNDO_DONE.format(**named)
    if made != target.revision:
        done += texts.UNDO_FORCED.format(revision=made)
    yield done + (texts.UNDO_PAUSED if back.pool.spec.rollout.paused else "")


def _write(cluster: Cluster, pool: PoolView, spec: dict[str, Any]) -> None:
    version = pool.record.metadata.resource_version
    patch = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "replace", "path": "/spec", "value": spec},
    ]
    where = ("--namespace", pool.namespace, "--type=json", "--patch", json.dumps(patch))
    cluster.run("patch", "sgi", pool.name, *where)


def _gate(pool: PoolView, back: Pool) -> Iterator[str]:
    """A word where engines would be kept from clients, or shown to them, in another way."""
    if isinstance(pool.resolved, Pool) and pool.resolved.gate is not back.gate:
        yield texts.UNDO_GATE.format(was=pool.resolved.gate.value, now=back.gate.value)


def _shown(called: Iterable[str], value: Any) -> str:
    """A value as it is told; of a secret, that it is one."""
    if value is None:
        return texts.UNDO_NOT_SET
    hidden = any(
        is_secret_argument(name) if name.startswith("-") else errors.is_secret(name)
        for name in called
    )
    return redaction.HIDDEN if hidden else redaction.in_words(errors.shown(value))


def _target(pool: PoolView, known: list[Stored], number: int | None) -> Stored:
    if number is not None:
        found = next((one for one in known if one.number == number), None)
        missing = texts.UNDO_NO_SUCH.format(
            number=number, known=", ".join(str(one.number) for one in known) or "none"
        )
    else:
        wanted = present(pool)
        found = next((one for one in known if one.revision != wanted), None)
        missing = texts.UNDO_NO_EARLIER
    if found is None:
        raise ClusterError(_undo(pool), missing, Why.NOT_FOUND)
    return found


def _undo(pool: PoolView) -> str:
    return f"kubectl sglang rollout undo {pool.name}"
