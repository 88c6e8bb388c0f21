"""That revisions are not stored, told as a warning: nobody serves by them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sglang_operator.api import errors, texts
from sglang_operator.children import kinds
from sglang_operator.pool.resolve import Pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Hindrance:
    """What keeps them from being stored, and what to do about it, in words."""

    why: str
    advice: str


def warnings(
    pool: Pool, without: Collection[str], hindrance: Hindrance | None
) -> Iterator[errors.Problem]:
    """That a revision is not stored, where the pool wants some to be.

    ``without``: kinds of children that are unknown to the cluster, or may not be read.
    """
    if kinds.REVISION.kind in without:
        why = texts.HISTORY_UNREAD.format(plural=kinds.REVISION.plural)
        hindrance = Hindrance(why=why, advice=texts.HISTORY_DO_ROLES)
    if hindrance is not None and pool.spec.rollout.revision_history_limit:
        yield errors.HISTORY_NOT_KEPT("spec.rollout", why=hindrance.why, advice=hindrance.advice)
