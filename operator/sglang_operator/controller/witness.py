"""A second witness of pools: kopf's own watch, against the silence of ours.

A watch may stop telling anything while its connection stands, and is known to be dead only when no
bookmark has come for longer than a minute.  kopf watches the same objects over a connection of its
own.  Where it has heard of a version and our stream has not, moments later, ours is begun anew: a
changed spec waits for seconds then.  kopf may be wrong or away as it likes, for nothing else is
done by what it says.
"""

import asyncio
import logging
from collections.abc import Callable

from sglang_operator.kube.informer import Informer

# Two streams of one API server tell the same within moments of each other.
PATIENCE_SECONDS = 2.0

log = logging.getLogger(__name__)


class Witness:
    """``stream`` finds the stream of the pools of a namespace; None if there is none."""

    def __init__(self, stream: Callable[[str], "Informer[object] | None"]) -> None:  # type: ignore[type-var]
        self._stream = stream
        self._awaited: dict[str, int] = {}  # the newest version that is awaited, by stream
        self.anew = 0  # streams that were begun anew

    def heard(self, namespace: str, version: int) -> None:
        """kopf heard of a pool in this namespace, at this version.  Called in the loop."""
        stream = self._stream(namespace)
        if stream is None or stream.newest >= version:
            return
        name = stream.resource.name
        if name not in self._awaited:
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look, stream)
        self._awaited[name] = max(version, self._awaited.get(name, 0))

    def _look(self, stream: "Informer[object]") -> None:  # type: ignore[type-var]
        version = self._awaited.pop(stream.resource.name)
        if stream.newest < version and stream.begin_anew():
            self.anew += 1
            log.warning(
                "%s: kopf has heard of version %d, this stream of none after %d: it is begun anew",
                stream.resource.name,
                version,
                stream.newest,
            )
