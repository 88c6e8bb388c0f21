"""What can come of a request to the API server, besides its answer."""

import re

from sglang_operator.api import redaction

_MOST_TOLD = 4096  # characters of a message
# Characters that are kept: webhooks quote what they refuse, and patterns look through the rest.
_MOST_KEPT = _MOST_TOLD + redaction.MARGIN
# Who says something in a message is told by how it begins: what follows quotes names and values.
_ANY = r'"(?:[^"\\]|\\.)*+"'
_BEGINS = rf"(?:[\w.-]++ {_ANY} is forbidden: |Internal error occurred: )?+"
_BY_WEBHOOK = rf"admission webhook {_ANY} "
_ADMISSION = re.compile(
    rf"{_BEGINS}(?:{_BY_WEBHOOK}|failed calling webhook|conversion webhook for "
    r'|admission plugin "(?:Mutating|Validating)AdmissionWebhook" failed '
    rf"|\[?(?:\w{{0,32}}AdmissionPolicy|policy) (?:'[^']*+'|{_ANY}) "
    r"(?:with binding '[^']*+' )?denied request)"
)
# What a namespace's own ResourceQuotas cannot be counted in, and what a mutating webhook's patch
# does not fit: the server tells it as errors of its own.
_OF_NAMESPACE = re.compile(
    rf"{_BEGINS}(?:resource quota evaluation timed out|error resolving quota"
    r"|(?:add|remove|replace|move|copy|test) operation does not apply: "
    r"|error in (?:add|remove|replace|move|copy|test) for path: )"
)
# The server tells so what its store told.
_BY_STORE = ("etcdserver: ", "rpc error: ")
_UNTRIED = re.compile(rf"{_BEGINS}{_BY_WEBHOOK}does not support dry run")
_EXCEEDED = re.compile(
    rf"{_BEGINS}(?:{_BY_WEBHOOK}denied the request: )?+exceeded (?:hierarchical )?quota"
)
_ENDS = re.compile(
    rf"{_BEGINS}unable to create new content in namespace \S++ because it is being terminated"
)
_UNTYPED = "failed to create typed patch object"


class ApiError(Exception):
    """The API server answered with an error, or who stands before it did.

    ``missing``: it is the API server's word that the very object that was asked for is not there.
    A 404 alone is not: its namespace or its kind may be unknown for a while, or a proxy has no way.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after: float | None,
        *,
        missing: bool = False,
    ) -> None:
        super().__init__(status, reason)
        self.missing = missing
        self.status = status
        self.reason = reason
        self.message = message[:_MOST_KEPT]
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.told}"

    @property
    def told(self) -> str:
        """The message as people may read it: webhooks quote what they refuse."""
        return redaction.in_clusters_words(self.message)[:_MOST_TOLD]

    @property
    def own(self) -> bool:
        """What is wrong are this process's credentials: begun again, it reads them anew."""
        return self.status == 401

    @property
    def already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def lost_race(self) -> bool:
        """Of a create: what admission counts in, a ResourceQuota, was changed by others meanwhile.

        Nothing was made, and nothing is wrong with the object or the server.
        """
        return self.status == 409 and self.reason == "Conflict"

    @property
    def quota(self) -> bool:
        """A quota of the namespace is used up, or one of several namespaces (HNC) is."""
        return self.status == 403 and _EXCEEDED.match(self.message) is not None

    @property
    def rejected(self) -> bool:
        """This very object is not wanted: asking again at once cannot help."""
        refused = self.status in (400, 403, 404, 405, 413, 422) and not self._of_no_path
        return refused or self.too_large

    @property
    def _of_no_path(self) -> bool:
        """Nobody has answered for what was asked for: a load balancer, a kind that is not served
        at this moment."""
        return self.status == 404 and not self.reason

    @property
    def namespace_ends(self) -> bool:
        """Nothing will ever be created there again: its namespace is being deleted."""
        return self.status == 403 and _ENDS.match(self.message) is not None

    @property
    def too_large(self) -> bool:
        """The object is larger than is stored: told by the server, or by etcd as a 500."""
        of_etcd = "request is too large" in self.message or "ResourceExhausted" in self.message
        return self.status == 413 or (self.status == 500 and of_etcd)

    @property
    def congested(self) -> bool:
        overloaded = self.status == 429 or self.status >= 500 or self._of_no_path
        return overloaded and not self.of_schema and not self.too_large

    @property
    def of_namespace(self) -> bool:
        """What this namespace's requests meet refused it, failed or gave no answer."""
        return self.of_admission or _OF_NAMESPACE.match(self.message) is not None

    @property
    def overloaded(self) -> bool:
        """The server says of itself, or of its store, that it has too much to do, or is away."""
        return self.status in (429, 503) or self.message.startswith(_BY_STORE)

    @property
    def of_schema(self) -> bool:
        """The definition of the resource does not take it; from an apply that is a 500."""
        return self.undeclared or self.status in (400, 422)

    @property
    def of_admission(self) -> bool:
        """A webhook refused it, failed or gave no answer, or a policy refused it: the server itself
        may be well."""
        return _ADMISSION.match(self.message) is not None

    @property
    def untried(self) -> bool:
        """A webhook has side effects, so that what it would say cannot be learnt by trying."""
        return _UNTRIED.match(self.message) is not None

    @property
    def undeclared(self) -> bool:
        """From an apply: the definition does not declare a field of it, whatever its value."""
        return self.status == 500 and self.message.startswith(_UNTYPED)


class ApiUnreachableError(Exception):
    """No answer: refused, reset or timed out.  Whether a write happened is not known.

    ``own``: this process could not ask, and may once it is begun again.
    """

    def __init__(self, message: str = "", *, own: bool = False) -> None:
        super().__init__(message)
        self.own = own


class ApiTooLargeError(ApiUnreachableError):
    """The answer was larger than is kept."""


class FencedError(ApiUnreachableError):
    """The write was not sent: this process may not write now."""
