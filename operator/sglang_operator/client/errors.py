"""What can go wrong for a trainer; each error says what was found and what to do."""

from sglang_operator.client import texts

_MAX_TOLD = 300


class PoolError(Exception):
    """The base of all errors of this package."""


class InvalidArgument(PoolError, ValueError):
    """What the caller gave cannot be used; nothing was begun."""


class ClusterError(PoolError):
    """The API server cannot be reached, refuses, or there are no credentials of any cluster."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; 0 without an answer


class NotReady(PoolError):
    """Not all engines are up, or the operator has not (yet) done its part."""


class StaleEpoch(PoolError):
    """Engines are not those any more that the caller counted on: plan anew, write all again."""


class Held(PoolError):
    """Another trainer holds the weights.  Times are seconds since the Unix epoch.

    ``recovering``: it is the operator, which loads them into engines that restarted.
    """

    def __init__(
        self, message: str, *, holder: str, since: float, until: float, recovering: bool = False
    ) -> None:
        super().__init__(message)
        self.holder = holder
        self.since = since
        self.until = until
        self.recovering = recovering


class Expired(PoolError):
    """The transaction is over: not renewed in time, aborted, or taken over.

    ``deleted``: somebody deleted its Lease.
    """

    def __init__(self, message: str, *, deleted: bool = False) -> None:
        super().__init__(message)
        self.deleted = deleted


class Unsupported(PoolError):
    """The engines' version of SGLang cannot do what was asked."""


class EngineError(PoolError):
    """An engine refused a call or did not answer.  ``status`` is 0 without an answer."""

    def __init__(self, *, rank: int, url: str, path: str, status: int, said: str) -> None:
        answer = f"{status} {said}" if status else said
        super().__init__(f"engine {rank} ({url}) on {path}: {answer}")
        self.rank = rank
        self.url = url
        self.path = path
        self.status = status
        self.said = said


def told(error: BaseException | None) -> str:
    """An error as the Lease tells it to others: one line."""
    text = texts.ABORTED.format(kind=type(error).__name__, message=str(error) or "no message")
    return " ".join(text.split())[:_MAX_TOLD]
