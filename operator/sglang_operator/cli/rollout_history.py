"""``rollout history``: the pool's ControllerRevisions, and what runs.

Who may write ControllerRevisions writes what he likes into one: one that is none of the operator's
is left out, and costs no other.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from sglang_operator.api import bounds, names
from sglang_operator.api import texts as operator_texts
from sglang_operator.children import kinds, stored_revisions
from sglang_operator.cli import texts
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from sglang_operator.kube import paths, salvage
from sglang_operator.observed import groups
from sglang_operator.pool.resolve import Pool
from sglang_operator.view.cluster_view import PoolView

_COMMAND = "kubectl get controllerrevisions"
_MOST_NAMED = 8


class _Owner(msgspec.Struct, frozen=True):
    uid: str = ""
    kind: str = ""
    controller: bool = False


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    creation_timestamp: str = ""
    owner_references: list[_Owner] = []
    labels: dict[str, str] = {}


class _Object(msgspec.Struct, frozen=True):
    revision: int = 0
    data: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A revision that can be gone back to."""

    number: int
    revision: str
    created: str  # as the API server tells it
    part: Mapping[str, Any]  # of the spec
    runs_as: frozenset[str]  # the revisions that pods made of it have: its own, and those tuned


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is stored of a pool."""

    stored: list[Stored]  # the latest first
    left_out: list[str]  # names of those that are the pool's, and cannot be read


def stored(cluster: Cluster, pool: PoolView) -> Known:
    """The stored revisions of the pool.  Raises :class:`ClusterError`."""
    path = paths.children(kinds.REVISION.kind, pool.namespace)
    answer = cluster.get(path, labelSelector=names.pods_text(pool.name))
    found, left_out = [], []
    try:
        items = salvage.member(answer, b"items") or b"[]"
        pieces = [items[i:j] for i, j in salvage.elements(items, 0)] if items != b"null" else []
    except ValueError as error:
        raise ClusterError(_COMMAND, str(error), Why.OTHER) from error
    for piece in pieces:
        meta = _meta(piece)
        if meta is None or not _is_pools(meta, pool):
            continue
        one = _one(meta, piece, pool.name)
        if one is None:
            left_out.append(bounds.printable(meta.name))
        else:
            found.append(one)
    return Known(stored=sorted(found, key=lambda one: -one.number), left_out=sorted(left_out))


def _meta(piece: bytes) -> _Meta | None:
    """Who it is; None where even that cannot be read: no API server writes such metadata."""
    try:
        return msgspec.json.decode(salvage.member(piece, b"metadata") or b"{}", type=_Meta)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _is_pools(meta: _Meta, pool: PoolView) -> bool:
    """Whether it is named and owned as the operator's are."""
    uid = pool.record.metadata.uid
    return bool(names.revision_of(meta.name, pool.name)) and any(
        owner.controller and owner.kind == names.KIND and owner.uid == uid
        for owner in meta.owner_references
    )


def _one(meta: _Meta, piece: bytes, pool: str) -> Stored | None:
    """What it stores; None if that is nothing that the operator writes."""
    try:
        read = msgspec.json.decode(piece, type=_Object)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    part = stored_revisions.part(read.data)
    if part is None or not 0 < read.revision <= stored_revisions.MOST:
        return None
    return Stored(
        number=read.revision,
        revision=names.revision_of(meta.name, pool),
        created=bounds.printable(meta.creation_timestamp),
        part=part,
        runs_as=frozenset(stored_revisions.revisions_of(meta.name, pool, meta.labels)),
    )


def history(pool: PoolView, known: Known) -> Iterator[str]:
    """The stored revisions and those that run, the latest first."""
    counts: Counter[str] = Counter()
    since: dict[str, float] = {}
    for group in groups.of(pool.pods):
        if group.ended or group.deleting:
            continue
        counts[group.revision] += 1
        since[group.revision] = min(group.created, since.get(group.revision, group.created))
    wanted = present(pool)
    told = []
    for one in known.stored:
        told.append((str(one.number), one.revision, one.created))
        # Engines that run tuned are made of this too.
        counts[one.revision] = sum(counts[each] for each in one.runs_as)
    others = counts.keys() - {each for one in known.stored for each in one.runs_as}
    for found in sorted(others, key=lambda each: -since[each]):
        begun = datetime.fromtimestamp(since[found], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told.append(("-", found, begun))
    for number, found, begun in told:
        mark = texts.HISTORY_PRESENT if found == wanted else ""
        engines = operator_texts.engines(counts[found])
        yield texts.HISTORY_LINE.format(
            number=number, revision=found, engines=engines, since=begun, mark=mark
        )
    yield from left_out(pool, known)
    yield texts.HISTORY_NOTE if known.stored else texts.HISTORY_EMPTY


def left_out(pool: PoolView, known: Known) -> Iterator[str]:
    """That some are left out."""
    if known.left_out:
        shown = known.left_out[:_MOST_NAMED]
        more = len(known.left_out) - len(shown)
        called = ", ".join(shown) + (f" and {more} more" if more else "")
        yield texts.HISTORY_LEFT_OUT.format(names=called, name=shown[0], namespace=pool.namespace)


def present(pool: PoolView) -> str:
    """The revision of the spec as it is written; "" of one that is refused."""
    return pool.resolved.base_revision if isinstance(pool.resolved, Pool) else ""
