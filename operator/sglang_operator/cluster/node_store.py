"""Nodes as they were last heard of, and whether that says anything of the present."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from sglang_operator import supervision
from sglang_operator.clocks import moment, steady
from sglang_operator.cluster.absence import there, told, went_back
from sglang_operator.kube import decoding
from sglang_operator.observed import health, sightings, wire
from sglang_operator.observed.model import ObservedNode
from sglang_operator.observed.silence import Silence

GONE_NODE_SECONDS = 3600.0
PURGE_SECONDS = 60.0
# Bookmarks come every minute: what is silent for longer tells nothing of nodes.
STALE_SECONDS = 90.0


class NodeStore:
    """Nodes by name; one that was deleted stays as gone until it is seen again.

    ``changed`` is called with a node's name; ``readable`` once news of nodes come again;
    ``others`` once there are others than before: who waits for one has no pod there.
    """

    def __init__(
        self,
        changed: Callable[[str], None],
        readable: Callable[[], None] = lambda: None,
        others: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._readable = readable
        self._others = others
        self._moved = False  # some came or went, and nobody was told yet
        self.nodes: dict[str, ObservedNode] = {}
        self._tally = health.Tally()
        self.filled = False  # nothing is known, not even that there are none, before the first list
        self.age: Callable[[], float] = lambda: 0.0  # seconds since the stream heard anything
        self._versions: dict[str, int] = {}
        self._purged_at = float("-inf")
        self._silent = False  # too many are not ready for any to be lost

    @property
    def known(self) -> Mapping[str, ObservedNode] | None:
        """The nodes, while news of them come; None where they may not be read, or not any more.

        A node that was not ready when it was last heard of may be well since, and its engines too.
        """
        return self.nodes if self.filled and self.age() < STALE_SECONDS else None

    def silence(self, now: float) -> Silence | None:
        """Which of them are not ready, where these are too many for any to be lost."""
        return self._tally.silence(now) if self.known is not None else None

    def falls(self) -> tuple[float, ...]:
        """When nodes fell silent of late."""
        return self._tally.falls()

    def refused(self) -> None:
        """They may not be read: what is known of them is of the past."""
        was_known, self.filled = self.known is not None, False
        if was_known:
            self._readable()

    def heard(self, silent: float) -> None:
        """Something came from the stream, which was silent for so many seconds."""
        if self.filled and silent >= STALE_SECONDS:
            self._begin_anew()
            self._readable()
        elif self._silent:
            self._weigh()  # it ends with time, too: bookmarks come every minute

    def _begin_anew(self, since: float = float("-inf")) -> None:
        """What a node was like meanwhile nobody saw: how long it is not ready begins anew.

        ``since``: of those that were ready until then.
        """
        now = steady()
        for node in list(self.nodes.values()):
            if not (node.ready or node.gone) and node.unready >= since:
                self._set(dataclasses.replace(node, unready=now))

    def replace(
        self,
        scope: str,
        records: list[wire.NodeObject],
        version: int,
        unread: Sequence[wire.Meta] = (),
    ) -> None:
        again, self.filled = not self.filled, True
        if again:
            self._begin_anew()
        listed = {meta.name for meta in there(records, unread)}
        for name in list(self.nodes):
            if name not in listed and told(unread):
                self._lose(name)
        for record in records:
            known = self._versions.get(record.metadata.name, -1)
            if went_back(record.metadata, known, version):
                self._versions[record.metadata.name] = -1
        supervision.each("nodes", self._take, records, decoding.called)
        self._weigh()
        self._tell_of_others()
        if again:
            self._readable()

    def restored(self) -> None:
        """After a restore from a backup versions begin lower: the next list is all there is."""
        self._versions = dict.fromkeys(self._versions, -1)

    def put(self, record: wire.NodeObject) -> None:
        if self._take(record):
            self._weigh()
            self._tell_of_others()

    def _take(self, record: wire.NodeObject) -> bool:
        """Whether it is news."""
        name = record.metadata.name
        known = self.nodes.get(name)
        if known and not known.gone and self._versions[name] >= record.metadata.version:
            return False
        self._purge()
        node = sightings.of_node(wire.observed_node(record), steady(), known)
        self._set(node)
        self._moved |= known is None or known.gone
        self._versions[name] = record.metadata.version
        if known != node:
            self._changed(name)
        return known != node

    def drop(self, record: wire.NodeObject) -> None:
        self._lose(record.metadata.name)
        self._weigh()
        self._tell_of_others()

    def _tell_of_others(self) -> None:
        moved, self._moved = self._moved, False
        if moved:
            self._others()

    def _weigh(self) -> None:
        """Nodes that were silent together come back one by one, each with the time of a lost one.

        Without it the last of them would be lost when most are back.
        """
        silent = self._tally.is_silent(steady())
        if silent is self._silent:
            return
        self._silent = silent
        if not silent:
            self._begin_anew(steady() - health.LONG_SECONDS)
        self._readable()

    def _purge(self) -> None:
        """Forget nodes that have been gone for long: their pods are gone too."""
        now = steady()
        if now < self._purged_at + PURGE_SECONDS:
            return  # each of a list of thousands would look at thousands
        self._purged_at = now
        for name in [n for n, node in self.nodes.items() if node.gone]:
            if self.nodes[name].unready < now - GONE_NODE_SECONDS:
                del self.nodes[name]  # that were not counted any more
                self._versions.pop(name, None)

    def _set(self, node: ObservedNode) -> None:
        self.nodes[node.name] = node
        self._tally.put(node)

    def _lose(self, name: str) -> None:
        known = self.nodes.get(name)
        if known is None or not known.gone:
            at = moment()
            self._moved = True
            self._set(
                ObservedNode(
                    name=name, ready=False, ready_changed=at.wall, unready=at.steady, gone=True
                )
            )
            self._changed(name)
