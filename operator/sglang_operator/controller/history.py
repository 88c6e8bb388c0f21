"""Writing what pools do without, which are stored revisions: never a reason to be less than Ready.

Whatever is in the way of it is told as a warning, and tried again ever later, apart from what
trainers and clients wait for.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sglang_operator.api import texts
from sglang_operator.backoff import Backoff
from sglang_operator.children import kinds
from sglang_operator.cluster.outcome import Outcome
from sglang_operator.controller import conflicts
from sglang_operator.controller.rewrites import Rewrites
from sglang_operator.kube.errors import ApiError
from sglang_operator.status.history import Hindrance

BACKOFF = Backoff(1.0, 60.0)  # seconds between two tries
# Failures in a row that are worth a word, where the server was away or what was seen was old.
UNTOLD = 2


@dataclass
class Writing:
    """What came of writing them; times are by the steady clock."""

    failures: int = 0
    until: float = float("-inf")  # nothing is tried before
    refused: str = ""  # what is to be told of it

    def learn(self, outcome: Outcome, now: float) -> None:
        """Take in what came of a batch."""
        error = outcome.failed
        if error is None:
            self.done()
            return
        self.until = now + BACKOFF.pause(self.failures)
        self.failures += 1
        passing = not isinstance(error, ApiError) or error.status in (404, 409)
        told = (error.told if isinstance(error, ApiError) else "") or str(error)
        self.refused = "" if passing and self.failures <= UNTOLD else told

    def done(self) -> None:
        """All are as they should be."""
        self.failures, self.until, self.refused = 0, float("-inf"), ""

    def hindrance(
        self, taken: Collection[tuple[str, str]], rewrites: Rewrites, namespace: str, pool: str
    ) -> Hindrance | None:
        """What is in the way, for the warning; ``taken`` are names that others have."""
        taken = [each for each in taken if kinds.is_spare(each[0])]
        if taken:
            called, command = conflicts.called(taken), conflicts.command(taken, namespace, pool)
            why = texts.HISTORY_TAKEN.format(objects=called)
            return Hindrance(why=why, advice=texts.HISTORY_DO_DELETE.format(command=command))
        if self.refused:
            when = texts.TRY_AGAIN.format(seconds=int(BACKOFF.most))
            why = texts.HISTORY_REFUSED.format(
                plural=kinds.REVISION.plural, message=self.refused, when=when
            )
            return Hindrance(why=why, advice=texts.HISTORY_DO_ALLOW)
        if again := rewrites.worst(spare=True):
            (kind, name), times = again
            what = {"kind": kind.lower(), "name": name}
            why = texts.HISTORY_CHANGED_BACK.format(**what, times=times)
            return Hindrance(why=why, advice=texts.HISTORY_DO_SEE_WHO.format(**what))
        return None
