"""A pool that is being deleted, or whose namespace is.  Its engines may serve for long yet.

Behind somebody's finalizer nothing of it goes before that does; in a foreground deletion the pool
stands until the last pod is gone.  Until then gates, the Lease and the registry go on, and nothing
is made that the garbage collector would have to remove.
"""

from sglang_operator.api import texts
from sglang_operator.observed.wire import CustomResource

# The garbage collector's finalizer while it takes a pool's children from it.
ORPHANS = "orphan"


def orphans(pool: CustomResource) -> bool:
    """Whether the pool's engines are to stay without it: as they are, with the gates they have."""
    meta = pool.metadata
    return meta.deletion_timestamp is not None and ORPHANS in meta.finalizers


def why(pool: CustomResource | None, *, namespace_ends: bool) -> str:
    """Why nothing is made any more, in words; empty while the pool is there to stay."""
    if pool is None:
        return ""
    meta = pool.metadata
    if meta.deletion_timestamp is not None:
        held = texts.held(meta.finalizers)
        return texts.POOL_LEAVES.format(held=held, until=texts.LEAVES_UNTIL)
    if namespace_ends:
        return texts.NAMESPACE_LEAVES.format(namespace=meta.namespace, until=texts.LEAVES_UNTIL)
    return ""
