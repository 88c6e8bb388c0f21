"""How engines end: of what a trainer may do to them, and of what it may not."""

from collections import Counter
from collections.abc import Iterable, Mapping

from tests.weights_real.plane import Json

WOKEN_AWAKE = "KeyError: '"
# What else a scheduler dies of that a trainer must not do (testing.engine).
NEVER = {
    "Pointer argument (at 0)": "a request reached {pod}, which slept",
    "torch.AcceleratorError: CUDA error: an illegal memory": "{pod} was written to, which slept",
    "release_memory_occupation should be called only": "{pod} was put to sleep amid requests",
    "Cannot pause allocation that is not active": "{pod} was put to sleep, which slept",
    "init_weights_update_group` first": "{pod} got a bucket of a group that it is not in",
}


class Ends:
    """Those of one pool's pods, as its watch tells them.

    A trainer that dies between its word in the Lease and what it does to engines, or the other way
    round, leaves engines of which nobody can know whether they sleep: SGLang has no call that
    tells.  They are taken for asleep, and die of being woken if they are not.  No other may.
    """

    def __init__(self) -> None:
        self._ends: dict[str, tuple[str, str]] = {}  # by container: its pod, its last words
        self._told: set[str] = set()
        self._doubtful: set[str] = set()  # pods

    def doubt(self, pods: Iterable[str]) -> None:
        """A trainer that died, or stands still while others come, has left these so."""
        self._doubtful.update(pods)

    def beyond_doubt(self, pods: Iterable[str]) -> None:
        """These serve: they were woken, and lived."""
        self._doubtful.difference_update(pods)

    def note(self, pod: Json) -> None:
        """A pod as the watch tells it."""
        for status in pod.get("status", {}).get("containerStatuses", []):
            ended = _ended(status)
            if ended is not None and status["containerID"] not in self._told:
                self._told.add(status["containerID"])
                message = ended.get("message", "")
                self._ends[status["containerID"]] = (pod["metadata"]["name"], message)

    def take(self) -> tuple[Counter[str], list[str]]:
        """What came of engines since this was last called, by kind, and what may not be of it."""
        ends, self._ends = self._ends, {}
        kinds, wrong = Counter[str](), []
        for pod, message in ends.values():
            kind, problem = self._judged(pod, message)
            kinds[f"engine {kind}"] += 1
            wrong += [problem] if problem else []
        return kinds, wrong

    def _judged(self, pod: str, message: str) -> tuple[str, str]:
        for words, wrong in NEVER.items():
            if words in message:
                return "ended", wrong.format(pod=pod)
        if WOKEN_AWAKE not in message:
            return "ended", ""
        if pod in self._doubtful:
            return "woken awake, its trainer lost on the way", ""
        return "woken awake", f"{pod} was resumed of memory that it had"


def _ended(status: Json) -> Mapping[str, str] | None:
    found: Mapping[str, str] | None = status["state"].get("terminated") or status.get(
        "lastState", {}
    ).get("terminated")
    return found
