"""What goes on in a thread of its own while operators are under fire."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self


class Beside:
    """A context manager: ``_run`` goes on until ``_ending`` is set, as it is left."""

    def __init__(self, name: str) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError
