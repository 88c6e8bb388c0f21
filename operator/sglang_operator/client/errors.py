"""What can go wrong for a trainer; each error says what was found and what to do."""

from typing import Any

from sglang_operator.client import texts

_MAX_TOLD = 300


class PoolError(Exception):
    """The base of all errors of this package.

    They go from process to process, as Ray's workers hand them on, whatever made them.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[PoolError], arguments: tuple[Any, ...], about: dict[str, Any]
) -> PoolError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(about)
    return error


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


class GroupsTaken(StaleEpoch):
    """The engines are in process groups of another job's now."""


class Held(PoolError):
    """Another trainer holds the weights.  Times are seconds since the Unix epoch.

    ``recovering``: it is the operator, which loads them into engines that restarted.
    ``at_work``: it is another process of this name, which puts engines to sleep or wakes them, or
    may still write in a shared sync that was ended.
    ``forming``: it forms process groups with the engines.
    """

    def __init__(
        self,
        message: str,
        *,
        holder: str,
        since: float,
        until: float,
        recovering: bool = False,
        at_work: bool = False,
        forming: bool = False,
    ) -> None:
        super().__init__(message)
        self.holder = holder
        self.since = since
        self.until = until
        self.recovering = recovering
        self.at_work = at_work
        self.forming = forming


class Expired(PoolError):
    """The transaction is over: not renewed in time, aborted, or taken over.

    ``deleted``: somebody deleted its Lease.  ``sent``: whether an engine may have got the request
    that found it out.
    """

    def __init__(self, message: str, *, deleted: bool = False, sent: bool = True) -> None:
        super().__init__(message)
        self.deleted = deleted
        self.sent = sent


class Unsupported(PoolError):
    """The engines' version of SGLang cannot do what was asked."""


class EngineError(PoolError):
    """An engine refused a call or did not answer.  ``status`` is 0 without an answer.

    ``sent``: the engine may have got the request; without an answer nobody knows what came of it.
    """

    def __init__(
        self, *, rank: int, url: str, path: str, status: int, said: str, sent: bool = True
    ) -> None:
        answer = f"{status} {said}" if status else said
        super().__init__(f"engine {rank} ({url}) on {path}: {answer}")
        self.rank = rank
        self.url = url
        self.path = path
        self.status = status
        self.said = said
        self.sent = sent


# What a proxy in front of an engine says when it does not know what the engine has done.
_BETWEEN = (502, 503, 504)


def undone(outcome: object) -> bool:
    """Whether a call to an engine is known to have changed nothing: not sent, or refused.

    Any other error leaves open what the engine has done, or does yet.
    """
    if isinstance(outcome, EngineError):
        return not outcome.sent or bool(outcome.status and outcome.status not in _BETWEEN)
    return isinstance(outcome, Expired) and not outcome.sent


def told(error: BaseException | None) -> str:
    """An error as the Lease tells it to others: one line, without the secrets of whoever failed."""
    text = texts.ABORTED.format(kind=type(error).__name__, message=str(error) or "no message")
    from sglang_operator.api import redaction  # what imports this is quick to import

    words = " ".join(text[: 2 * redaction.MARGIN].split())
    return redaction.in_words(words)[:_MAX_TOLD]
