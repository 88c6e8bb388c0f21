"""One thing at a time: what threads and tasks of this process do to the memory of a pool's engines.

The Lease keeps trainers of different names, and syncs, apart.  A sleeper's own Lease is taken on by
whoever has its name, so that calls of one process have to be told apart here.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sglang_operator.client import texts
from sglang_operator.client.errors import Held
from sglang_operator.weights.lease_state import LEASE_SECONDS
from sglang_operator.weights.times import shown


class Who(NamedTuple):
    """One trainer of one pool."""

    server: str
    namespace: str
    pool: str
    holder: str


_lock = threading.Lock()
_running: dict[Who, tuple[str, float]] = {}  # what is called, and since when


class Turn:
    """The turn of one trainer."""

    def __init__(self, who: Who) -> None:
        self._who = who

    def check(self) -> None:
        """Raises Held while a call of this process changes the engines' memory."""
        with _lock:
            self._check()

    @contextmanager
    def taken(self, call: str) -> Iterator[None]:
        """Such a call.  Raises Held while there is another."""
        with _lock:
            self._check()
            _running[self._who] = call, time.time()
        try:
            yield
        finally:
            with _lock:
                del _running[self._who]

    def _check(self) -> None:
        if self._who not in _running:
            return
        call, since = _running[self._who]
        holder = self._who.holder
        words = texts.TURN.format(holder=holder, call=call, since=shown(since))
        raise Held(words, holder=holder, since=since, until=time.time() + LEASE_SECONDS)
