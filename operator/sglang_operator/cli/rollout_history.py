"""``rollout history`` and ``undo``: the pool's ControllerRevisions, and going back to one."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from sglang_operator.api import names
from sglang_operator.api import texts as operator_texts
from sglang_operator.children import kinds, stored_revisions
from sglang_operator.cli import texts
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from sglang_operator.kube import paths
from sglang_operator.observed import groups
from sglang_operator.pool import revision
from sglang_operator.pool.resolve import Owner, Pool, Refused, resolve_pool
from sglang_operator.view.cluster_view import PoolView

_COMMAND = "kubectl get controllerrevisions"


class _Owner(msgspec.Struct, frozen=True):
    uid: str = ""


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    creation_timestamp: str = ""
    owner_references: list[_Owner] = []


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    revision: int = 0
    data: dict[str, Any] = {}


class _List(msgspec.Struct, frozen=True):
    items: list[_Object] = []


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A revision that can be gone back to."""

    number: int
    revision: str
    created: str  # as the API server tells it
    part: Mapping[str, Any]  # of the spec


def stored(cluster: Cluster, pool: PoolView) -> list[Stored]:
    """The stored revisions of the pool, the latest first.  Raises :class:`ClusterError`."""
    path = paths.children(kinds.REVISION.kind, pool.namespace)
    answer = cluster.get(path, labelSelector=names.pods_text(pool.name))
    try:
        listed = msgspec.json.decode(answer, type=_List).items
    except msgspec.MsgspecError as error:
        raise ClusterError(_COMMAND, str(error), Why.OTHER) from error
    found = []
    for item in listed:
        digest = names.revision_of(item.metadata.name, pool.name)
        mine = any(o.uid == pool.record.metadata.uid for o in item.metadata.owner_references)
        part = stored_revisions.part(item.data)
        if digest and mine and part is not None:
            created = item.metadata.creation_timestamp
            found.append(Stored(number=item.revision, revision=digest, created=created, part=part))
    return sorted(found, key=lambda one: -one.number)


def history(pool: PoolView, known: list[Stored]) -> Iterator[str]:
    """The stored revisions and those that run, the latest first."""
    counts: Counter[str] = Counter()
    since: dict[str, float] = {}
    for group in groups.of(pool.pods):
        if group.ended or group.deleting:
            continue
        counts[group.revision] += 1
        since[group.revision] = min(group.created, since.get(group.revision, group.created))
    wanted = _present(pool)
    told = [(str(one.number), one.revision, one.created) for one in known]
    others = counts.keys() - {one.revision for one in known}
    for found in sorted(others, key=lambda each: -since[each]):
        begun = datetime.fromtimestamp(since[found], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told.append(("-", found, begun))
    for number, found, begun in told:
        mark = texts.HISTORY_PRESENT if found == wanted else ""
        engines = operator_texts.engines(counts[found])
        yield texts.HISTORY_LINE.format(
            number=number, revision=found, engines=engines, since=begun, mark=mark
        )
    yield texts.HISTORY_NOTE if known else texts.HISTORY_EMPTY


def undo(cluster: Cluster, pool: PoolView, known: list[Stored], number: int | None) -> str:
    """Write the spec of a stored revision back, if the pool is still as it was read.

    Raises :class:`ClusterError`, also where there is nothing to go back to, or what would come of
    it is refused.
    """
    target = _target(pool, known, number)
    raw = dict(pool.record.spec)
    changed = revision.with_part(raw, target.part)
    named = {"name": pool.name, "namespace": pool.namespace, "number": target.number}
    if changed == raw:
        return texts.UNDO_NOTHING.format(**named, revision=target.revision)
    owner = Owner(
        name=pool.name,
        namespace=pool.namespace,
        uid=names.Uid(pool.record.metadata.uid),
        generation=pool.record.metadata.generation,
    )
    resolved = resolve_pool(owner, changed)
    if isinstance(resolved, Refused):
        why = "; ".join(map(str, resolved.errors))
        raise ClusterError(_undo(pool), texts.UNDO_REFUSED.format(**named, why=why), Why.OTHER)
    patch = [
        {
            "op": "test",
            "path": "/metadata/resourceVersion",
            "value": pool.record.metadata.resource_version,
        },
        {"op": "replace", "path": "/spec", "value": changed},
    ]
    where = ("--namespace", pool.namespace, "--type=json", "--patch", json.dumps(patch))
    cluster.run("patch", "sgi", pool.name, *where)
    done = texts.UNDO_DONE.format(**named, revision=target.revision)
    if resolved.base_revision != target.revision:
        done += texts.UNDO_OTHER.format(revision=resolved.base_revision)
    return done + (texts.UNDO_PAUSED if resolved.spec.rollout.paused else "")


def _target(pool: PoolView, known: list[Stored], number: int | None) -> Stored:
    if number is not None:
        found = next((one for one in known if one.number == number), None)
        missing = texts.UNDO_NO_SUCH.format(
            number=number, known=", ".join(str(one.number) for one in known) or "none"
        )
    else:
        wanted = _present(pool)
        found = next((one for one in known if one.revision != wanted), None)
        missing = texts.UNDO_NO_EARLIER
    if found is None:
        raise ClusterError(_undo(pool), missing, Why.NOT_FOUND)
    return found


def _present(pool: PoolView) -> str:
    """The revision of the spec as it is written."""
    return pool.resolved.base_revision if isinstance(pool.resolved, Pool) else ""


def _undo(pool: PoolView) -> str:
    return f"kubectl sglang rollout undo {pool.name}"
