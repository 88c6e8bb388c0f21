"""Claims to devices, and the devices that drivers publish, as they were last heard of."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sglang_operator.cluster.absence import NO_VERSION, in_scope, there, told, went_back
from sglang_operator.observed import wire
from sglang_operator.observed.claims import ClaimObject, SliceObject
from sglang_operator.placement.devices import Device, DeviceClaim, Inventory, Published

R = TypeVar("R", ClaimObject, SliceObject)
Changed = Callable[[str, bool], None]
Key = tuple[str, str]  # namespace, empty for what has none, and name


class _Records(Generic[R]):
    """Objects by namespace and name.

    ``changed`` is called with the namespace of one that did, and whether it may matter in others:
    what one claim lets go another gets.
    """

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._records: dict[Key, R] = {}
        self._versions: dict[Key, int] = {}
        self.filled = False  # nothing is known, not even that there are none, before the first list

    def replace(
        self,
        scope: str,
        records: list[R],
        version: int,
        unread: Sequence[wire.Meta] = (),
    ) -> None:
        first, self.filled = not self.filled, True
        listed = {(meta.namespace, meta.name) for meta in there(records, unread)}
        for key, known in list(self._versions.items()):
            missing = in_scope(key[0], scope) and key not in listed and told(unread)
            if missing and known <= version:
                self._forget(key)
        for record in records:
            key = (record.metadata.namespace, record.metadata.name)
            if went_back(record.metadata, self._versions.get(key, NO_VERSION), version):
                self._versions[key] = NO_VERSION
            self.put(record)
        if first and not records:
            self._changed(scope, True)

    def restored(self) -> None:
        """The cluster is of an earlier state: no version says any more what is newer."""
        self._versions = dict.fromkeys(self._versions, NO_VERSION)

    def put(self, record: R) -> None:
        meta = record.metadata
        key = (meta.namespace, meta.name)
        if self._versions.get(key, NO_VERSION) >= meta.version:
            return
        self._versions[key] = meta.version
        before = self._records.get(key)
        self._records[key] = record
        self._changed_by(key, before, record)

    def drop(self, record: R) -> None:
        key = (record.metadata.namespace, record.metadata.name)
        known = self._records.get(key)
        if known is not None and known.metadata.uid == record.metadata.uid:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._versions.pop(key)
        self._changed_by(key, self._records.pop(key), None)

    def _changed_by(self, key: Key, before: R | None, after: R | None) -> None:
        raise NotImplementedError


class ClaimStore(_Records[ClaimObject]):
    """ResourceClaims, whoever made them."""

    def __init__(self, changed: Changed) -> None:
        super().__init__(changed)
        self.claims: dict[Key, DeviceClaim] = {}
        self.changes = 0  # of any claim: what was found out about them before is of the past

    def _changed_by(self, key: Key, before: ClaimObject | None, after: ClaimObject | None) -> None:
        self.changes += 1
        had = self.claims.pop(key, None)
        if after is not None:
            self.claims[key] = after.seen
        has = self.claims.get(key)
        devices = [each.devices if each is not None else () for each in (had, has)]
        self._changed(key[0], devices[0] != devices[1])


class SliceStore(_Records[SliceObject]):
    """ResourceSlices; what is known of devices is put together when somebody asks."""

    def __init__(self, changed: Changed) -> None:
        super().__init__(changed)
        self._devices: Published | None = None
        self._served = False

    @property
    def devices(self) -> Published | None:
        """All devices, each by its pool's newest generation; None where they may not be read."""
        if not self._served:
            return None
        if self._devices is None:
            self._devices = self._newest()
        return self._devices

    def served(self, served: bool) -> None:
        """Whether they may be read: else what is known of them is of the past."""
        was, self._served = self._served, served
        if was is not served:
            self._changed("", True)

    def _newest(self) -> Published:
        """A driver writes the slices of a generation one after another: before the last of them
        cards that are missing may be in one that is yet to come."""
        pools = defaultdict[Key, list[SliceObject]](list)
        for record in self._records.values():
            pools[record.spec.driver, record.spec.pool.name].append(record)
        devices, incomplete = list[Device](), set[tuple[str, str]]()
        for (driver, _), records in pools.items():
            newest = max(record.generation for record in records)
            present = [record for record in records if record.generation == newest]
            devices += (device for record in present for device in record.seen)
            if len(present) < max(record.of for record in present):
                incomplete |= {(record.spec.node_name, driver) for record in records}
        return Published(devices, incomplete)

    def _changed_by(self, key: Key, before: SliceObject | None, after: SliceObject | None) -> None:
        same = before is not None and after is not None and before.spec == after.spec
        if not same:
            self._devices = None
            self._changed("", True)


class DeviceView:
    """Both, as passes over the pools of a namespace see them."""

    def __init__(self, claims: ClaimStore, slices: SliceStore) -> None:
        self._claims = claims
        self._slices = slices
        self._of = -1  # changes of claims, with which what is kept was made
        self._kept = Inventory()

    def of(self, absent: bool) -> Inventory:
        """``absent``: claims are not served, or may not be read.

        The same as before while nothing has changed, with what was found out about it.
        """
        known = self._claims.claims if self._claims.filled and not absent else None
        devices, kept = self._slices.devices, self._kept
        same = kept.claims is known and kept.devices is devices
        if not same or self._of != self._claims.changes:
            self._of = self._claims.changes
            self._kept = Inventory(claims=known, devices=devices)
        return self._kept
