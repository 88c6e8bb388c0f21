"""What can come of a request to the API server, besides its answer."""


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def quota(self) -> bool:
        return self.status == 403 and "exceeded quota" in self.message

    @property
    def rejected(self) -> bool:
        """This very object is not wanted: asking again at once cannot help."""
        return self.status in (400, 403, 404, 405, 413, 422)

    @property
    def congested(self) -> bool:
        return (self.status == 429 or self.status >= 500) and not self.of_schema

    @property
    def of_schema(self) -> bool:
        """The definition of the resource does not take it; from an apply that is a 500."""
        untyped = self.status == 500 and "typed patch object" in self.message
        return untyped or self.status in (400, 422)

    @property
    def of_admission(self) -> bool:
        """A webhook refused it, failed or gave no answer: the server itself may be well."""
        return "webhook" in self.message or "denied the request" in self.message


class ApiUnreachableError(Exception):
    """No answer: refused, reset or timed out.  Whether a write happened is not known."""


class ApiTooLargeError(ApiUnreachableError):
    """The answer was larger than is kept."""


class FencedError(ApiUnreachableError):
    """The write was not sent: this process may not write now."""
