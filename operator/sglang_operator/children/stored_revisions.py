"""ControllerRevisions: what engine pods were made of before, so that a rollout can be undone.

One for each revision, as StatefulSets have them: its data is the part of the spec that reaches
pods, its number says which came last.  A revision that comes back takes the next number.  Nobody
decides anything by them; ``kubectl sglang rollout undo`` reads them.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.pool import revision
from sglang_operator.pool.resolve import Owner, Pool

API = "apps/v1"
KIND = "ControllerRevision"
SPEC = "spec"  # the key of the data


def revisions(pool: Pool, observed: Observed) -> Iterator[dict[str, Any]]:
    """The present one, those that pods run, and as many before these as the spec says."""
    limit = pool.spec.rollout.revision_history_limit
    if not limit:
        return
    own = {
        name: child
        for (kind, name), child in observed.children.items()
        if kind == KIND and child.owner == pool.owner.uid
    }
    numbers = {name: _number(child) for name, child in own.items()}
    present = names.revision_name(pool.owner.name, pool.base_revision)
    last = max(numbers.values(), default=0)
    others = sorted(numbers.keys() - {present}, key=lambda name: (-numbers[name], name))
    is_last = present in numbers and all(numbers[name] < last for name in others)
    text = json.dumps(revision.reaching_pods(pool.spec, spans=pool.nodes > 1), sort_keys=True)
    yield _body(
        pool.owner, present, pool.base_revision, last if is_last else last + 1, data={SPEC: text}
    )
    running = {names.revision_name(pool.owner.name, pod.revision) for pod in observed.pods}
    earlier = [name for name in others if name not in running]
    for name in others:
        if name in running or name in earlier[:limit]:
            digest = names.revision_of(name, pool.owner.name)
            yield _body(pool.owner, name, digest, numbers[name])


def part(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a spec that the data of one holds; None if it is no such data."""
    try:
        found = json.loads(data[SPEC])
    except (KeyError, TypeError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _number(child: ObservedChild) -> int:
    return int(child.body.get("revision", 0))


def _body(owner: Owner, name: str, digest: str, number: int, **more: Any) -> dict[str, Any]:
    body = metadata.child(owner, API, KIND, name, "revision", revision=number, **more)
    body["metadata"]["labels"][names.LABEL_REVISION] = digest
    return body
