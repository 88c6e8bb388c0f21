"""What happens to a pool while a pipeline runs: each waits for its moment, then acts once."""

import threading
import time
from collections.abc import Callable
from typing import Any

_LOOK_SECONDS = 0.05
_VICTIM = 1


class Story:
    """One that runs beside the pipeline; ``told`` is what it did, empty if there was no moment."""

    def __init__(self, name: str, pool: Any, jobs: Any) -> None:
        self._pool = pool
        self._jobs = jobs
        self._act: Callable[[], None] = getattr(self, f"_{name}") if name else lambda: None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.told = ""
        self.error = ""

    def __enter__(self) -> "Story":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        try:
            self._act()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    def _until(self, moment: Callable[[dict[str, Any]], bool]) -> bool:
        """Wait for it; false if the pipeline ended before."""
        while not self._over.is_set():
            if moment(self._pool.tell("state_of_all")):
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def _dies_while_it_answers(self) -> None:
        if not self._until(lambda now: now["version"] == "step-2"):
            return
        seen = len(self._pool.answers())
        if self._until(lambda now: len(self._pool.answers()) > seen):
            self._pool.tell("lose", _VICTIM)
            self.told = "an engine ended while it answered"
            self._pool.tell("replace", _VICTIM)

    def _dies_in_an_update(self) -> None:
        if self._until(lambda now: now["phase"] == "Syncing" and now["version"] == "step-2"):
            self._pool.tell("lose", _VICTIM)
            self.told = "an engine ended in an update"
            self._pool.tell("replace", _VICTIM)

    def _job_dies_in_an_update(self) -> None:
        if self._until(lambda now: now["phase"] == "Syncing" and now["version"] == "step-2"):
            self._jobs.kill()
            self.told = "the job was killed in an update, and started again"

    def _job_dies_in_a_rollout(self) -> None:
        """With all engines awake, and none of its trainer's memory in their way."""
        if self._until(lambda now: now["phase"] == "Committed" and now["version"] == "step-2"):
            self._jobs.kill()
            self.told = "the job was killed in its rollout, and started again"

    def _grows(self) -> None:
        if self._until(lambda now: now["version"] == "step-1"):
            self._pool.tell("grow_by_one")
            self.told = "an engine came"

    def _shrinks(self) -> None:
        if self._until(lambda now: now["version"] == "step-1" and self._pool.answers()):
            self._pool.tell("shrink_by_one")
            self.told = "an engine went"
