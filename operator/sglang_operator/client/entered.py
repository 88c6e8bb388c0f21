"""A call that counts from when it is made, whatever becomes of the task that is to carry it out.

A task that is cancelled before its first step never enters its coroutine: nothing would know that
the trainer had asked for an update.  Such a call takes its first step all the same, and meets the
cancellation where it waits first.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def entered(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """This coroutine function, of which no call is cancelled without having been entered."""

    @wraps(method)
    def call(*arguments: P.args, **options: P.kwargs) -> Coroutine[Any, Any, T]:
        return _Call(method(*arguments, **options))

    return call


class _Call(Coroutine[Any, Any, T]):
    def __init__(self, body: Coroutine[Any, Any, T]) -> None:
        self._body = body
        self._entered = False

    def send(self, value: Any) -> Any:
        self._entered = True
        return self._body.send(value)

    def throw(self, *error: Any) -> Any:
        if not self._entered:
            self.send(None)
        return self._body.throw(*error)

    def close(self) -> None:
        self._body.close()

    def __await__(self) -> Any:
        self._entered = True
        return self._body.__await__()
