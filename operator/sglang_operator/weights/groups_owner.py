"""Whose process groups the engines are in, as a weights Lease says it.

Standard library only.
"""

import json
from dataclasses import dataclass

from sglang_operator.api import bounds
from sglang_operator.weights.times import seconds, stamp

_MOST = 16 * bounds.MAX_LABEL  # characters, most of them of a holder in JSON


@dataclass(frozen=True, kw_only=True)
class GroupsOwner:
    """Whose process groups the engines are in, as far as the Lease says it.

    Groups outlive syncs, and those of two trainers have the same names.  ``id`` is another with
    each change of hands.
    """

    id: str
    holder: str
    since: float = 0.0
    seen: float = 0.0  # when it last did something by the Lease; by its own clock
    forming: bool = False  # engines may join or leave at any moment, of its own accord
    claims: int = 0  # how often it has said that they are its own, before engines were told
    left: bool = False  # in none any more: it was a reset


def read(text: str) -> GroupsOwner | None:
    """What an annotation says; None if it is not as this module writes it."""
    if not text or len(text) > _MOST:
        return None
    try:
        said = json.loads(text)
        return GroupsOwner(
            id=bounds.label(said["id"]) or "unknown",
            holder=bounds.label(said["holder"]),
            since=seconds(said.get("since")),
            seen=seconds(said.get("seen")),
            forming=said.get("forming") is True,
            claims=_count(said.get("claims")),
            left=said.get("left") is True,
        )
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None


def written(owner: GroupsOwner | None) -> str:
    """As it stands in the Lease; nothing where nobody has said so yet."""
    if owner is None:
        return ""
    said = {
        "id": owner.id,
        "holder": owner.holder,
        "since": stamp(owner.since),
        "seen": stamp(owner.seen),
        "forming": owner.forming,
        "claims": min(bounds.INT32, owner.claims),
        "left": owner.left,
    }
    return json.dumps({key: value for key, value in said.items() if value})


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
