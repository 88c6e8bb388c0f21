"""Pods of trainers that engines may join, by the label that says so."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from sglang_operator.api import names
from sglang_operator.cluster.absence import NO_VERSION, in_scope, there, told, went_back
from sglang_operator.observed import wire
from sglang_operator.observed.trainers import TrainerObject
from sglang_operator.placement.seats import TrainerPod


class TrainerStore:
    """Which of them there are, by namespace and name; ``changed`` is called with the namespace."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._pods: defaultdict[str, dict[str, TrainerPod]] = defaultdict(dict)
        self._versions: dict[tuple[str, str], int] = {}

    def of(self, namespace: str) -> Mapping[str, TrainerPod]:
        """The pods of a namespace, by name."""
        return self._pods.get(namespace, {})

    def replace(
        self,
        scope: str,
        records: list[TrainerObject],
        version: int,
        unread: Sequence[wire.Meta] = (),
    ) -> None:
        listed = {(meta.namespace, meta.name) for meta in there(records, unread)}
        for key, known in list(self._versions.items()):
            missing = in_scope(key[0], scope) and key not in listed and told(unread)
            if missing and known <= version:
                self._forget(*key)
        for record in records:
            key = (record.metadata.namespace, record.metadata.name)
            if went_back(record.metadata, self._versions.get(key, NO_VERSION), version):
                self._versions[key] = NO_VERSION
            self.put(record)

    def restored(self) -> None:
        """The cluster is of an earlier state: no version says any more what is newer."""
        self._versions = dict.fromkeys(self._versions, NO_VERSION)

    def put(self, record: TrainerObject) -> None:
        meta = record.metadata
        key = (meta.namespace, meta.name)
        if self._versions.get(key, NO_VERSION) >= meta.version:
            return
        if names.LABEL_TRAINER not in meta.labels:
            self.drop(record)
            return
        self._versions[key] = meta.version
        pod = record.seen
        if self._pods[meta.namespace].get(meta.name) != pod:
            self._pods[meta.namespace][meta.name] = pod
            self._changed(meta.namespace)

    def drop(self, record: TrainerObject) -> None:
        meta = record.metadata
        known = self._pods.get(meta.namespace, {}).get(meta.name)
        if known is not None and known.uid == meta.uid:
            self._forget(meta.namespace, meta.name)

    def _forget(self, namespace: str, name: str) -> None:
        del self._pods[namespace][name], self._versions[namespace, name]
        if not self._pods[namespace]:
            del self._pods[namespace]
        self._changed(namespace)
