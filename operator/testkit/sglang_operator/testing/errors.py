"""What can go wrong in the test kit, as exceptions whose text says what to do."""


class KitError(RuntimeError):
    """The base of every error the test kit raises by itself."""


class ToolsError(KitError):
    """The control plane's programs are neither there nor can they be built."""


class PlaneError(KitError):
    """The control plane did not start, or one of its components died."""


class PortTakenError(PlaneError):
    """A component lost the race for its port; the plane is started again on others."""


class CommandError(KitError):
    """A command, kubectl for one, ended with another exit code than 0."""


class ApiError(KitError):
    """The API server answered with an error; ``status`` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WaitTimeoutError(KitError, TimeoutError):
    """A condition was not met in time."""
