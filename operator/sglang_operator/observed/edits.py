"""Whether a pool was edited between two looks at it."""

import msgspec

from sglang_operator.observed.wire import CustomResource


def same_spec(one: CustomResource, other: CustomResource) -> bool:
    """Whether both are one pool that asks for the same, as far as it could be read.

    A generation does not tell by itself: in a cluster that was restored to an earlier state it
    counts on from there, and another edit has the number of one that is lost.  Most often the
    bytes tell, which servers write alike.
    """
    mine, others = one.metadata, other.metadata
    if (mine.uid, mine.generation) != (others.uid, others.generation):
        return False
    if one.unreadable != other.unreadable:
        return False
    return one.written == other.written or _sorted(one) == _sorted(other)


def _sorted(pool: CustomResource) -> bytes:
    return msgspec.json.encode(pool.spec, order="sorted")
