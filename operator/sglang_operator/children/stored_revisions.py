"""ControllerRevisions: what engine pods were made of before, so that a rollout can be undone.

One for each revision, as StatefulSets have them: its data is the part of the spec that reaches
pods, its number says which came last.  A revision that comes back takes the next number.  Nobody
decides anything by them; ``kubectl sglang rollout undo`` reads them.

The API server lets nobody change the data of one, so it stays as it was when the revision was first
seen: whoever goes back to one has to leave alone what has no part in its hash (``pool/undoing``).
Who may write ControllerRevisions may write any number: one that is none of ours does not count.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sglang_operator.api import names, shape
from sglang_operator.children import metadata
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.pool import revision
from sglang_operator.pool.resolve import Owner, Pool

API = "apps/v1"
KIND = "ControllerRevision"
SPEC = "spec"  # the key of the data
# No pool has so many revisions, and every program can count one further.
MOST = 2**53


def revisions(pool: Pool, observed: Observed) -> Iterator[dict[str, Any]]:
    """The present one, those that pods run, and as many before these as the spec says."""
    limit = pool.spec.rollout.revision_history_limit
    if not limit:
        return
    own = {
        name: child
        for (kind, name), child in observed.children.items()
        if kind == KIND and child.owner == pool.owner.uid and child.whole
    }
    runs = {pod.revision for pod in observed.pods}
    running = {
        name
        for name, child in own.items()
        if not runs.isdisjoint(revisions_of(name, pool.owner.name, _labels(child)))
    }
    numbers = _numbers(own, running)
    present = names.revision_name(pool.owner.name, pool.base_revision)
    others = sorted(numbers.keys() - {present}, key=lambda name: (-numbers[name], name))
    latest = numbers[others[0]] if others else 0
    number = numbers.get(present, 0)
    if number <= latest:
        number = latest + 1
    if number > MOST:
        numbers = {name: at for at, name in enumerate(reversed(others), 1)}
        number = len(others) + 1
    text = json.dumps(revision.reaching_pods(pool.spec, spans=pool.nodes > 1), sort_keys=True)
    body = _body(pool.owner, present, pool.base_revision, number, data={SPEC: text})
    tuned = pool.accepted - {pool.base_revision}
    body["metadata"]["labels"] |= {f"{names.LABEL_TUNED}{each}": "" for each in sorted(tuned)}
    yield body
    earlier = [name for name in others if name not in running]
    for name in others:
        if name in running or name in earlier[:limit]:
            digest = names.revision_of(name, pool.owner.name)
            yield _body(pool.owner, name, digest, numbers[name])


def revisions_of(name: str, pool: str, labels: Collection[str]) -> set[str]:
    """The revisions that pods have which are made of this: its own, and those of it tuned."""
    tuned = {key.removeprefix(names.LABEL_TUNED) for key in labels if _is_tuned(key)}
    return {names.revision_of(name, pool)} | tuned


def _is_tuned(key: str) -> bool:
    return key.startswith(names.LABEL_TUNED)


def _labels(child: ObservedChild) -> Collection[str]:
    return child.body.get("metadata", {}).get("labels") or ()


def _numbers(own: Mapping[str, ObservedChild], running: Collection[str]) -> dict[str, int]:
    """The numbers that count.  One that engines run is the oldest if its own does not."""
    found = {name: child.body.get("revision") or 0 for name, child in own.items()}
    counted = {name: number for name, number in found.items() if 0 < number <= MOST}
    return dict.fromkeys(running, 1) | counted


def part(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a spec that the data of one holds; None if it is no such data."""
    try:
        found = json.loads(data[SPEC])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and shape.excess(found) is None else None


def _body(owner: Owner, name: str, digest: str, number: int, **more: Any) -> dict[str, Any]:
    body = metadata.child(owner, API, KIND, name, "revision", revision=number, **more)
    body["metadata"]["labels"][names.LABEL_REVISION] = digest
    return body
