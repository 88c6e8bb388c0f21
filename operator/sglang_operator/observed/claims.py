"""ResourceClaims and ResourceSlices as the API server sends them, reduced to what is used."""

from collections.abc import Iterator
from typing import Any

import msgspec

from sglang_operator.api import names
from sglang_operator.observed import wire
from sglang_operator.placement.devices import Allocated, Device, DeviceClaim, Place

_MOST = 32  # requests of a claim, and devices that it may have, by Kubernetes
_MOST_DEVICES = 256  # of a slice
_MOST_USERS = 256  # that a claim may be reserved for
_MOST_SAID = 256  # characters of an attribute, or of a taint
_CARD = "gpu"


class _Exactly(msgspec.Struct, frozen=True, rename="camel"):
    device_class_name: str = ""
    allocation_mode: str = "ExactCount"
    count: int = 1
    admin_access: bool | None = None


class _OneOf(msgspec.Struct, frozen=True, rename="camel"):
    device_class_name: str = ""


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    exactly: _Exactly | None = None
    first_available: list[_OneOf] = []

    @property
    def classes(self) -> Iterator[str]:
        """Of devices that it may be given; one that cannot be read is of a class without a name."""
        if self.exactly is not None or not self.first_available:
            yield self.exactly.device_class_name if self.exactly is not None else ""
        yield from (each.device_class_name for each in self.first_available)


class _Requests(msgspec.Struct, frozen=True):
    requests: list[_Request] = []


class _ClaimSpec(msgspec.Struct, frozen=True):
    devices: _Requests = _Requests()


class _Result(msgspec.Struct, frozen=True):
    request: str = ""
    driver: str = ""
    pool: str = ""
    device: str = ""


class _Results(msgspec.Struct, frozen=True):
    results: list[_Result] = []


class _Allocation(msgspec.Struct, frozen=True):
    devices: _Results = _Results()


class _Consumer(msgspec.Struct, frozen=True):
    resource: str = ""
    name: str = ""


class _ClaimStatus(msgspec.Struct, frozen=True, rename="camel"):
    allocation: _Allocation | None = None
    reserved_for: list[_Consumer] = []


class ClaimObject(msgspec.Struct, frozen=True):
    """A ResourceClaim."""

    metadata: wire.Meta
    spec: _ClaimSpec = _ClaimSpec()
    status: _ClaimStatus = _ClaimStatus()

    @property
    def seen(self) -> DeviceClaim:
        """What pools depend on of it."""
        meta, status = self.metadata, self.status
        single = [
            request
            for request in self.spec.devices.requests[:_MOST]
            if request.exactly is not None
            and (request.exactly.allocation_mode, request.exactly.count) == ("ExactCount", 1)
        ]
        # Of all: what is not looked at is not judged.
        every = self.spec.devices.requests
        classes = {name for request in every for name in request.classes}
        allocation = status.allocation
        results = allocation.devices.results[:_MOST] if allocation is not None else ()
        return DeviceClaim(
            namespace=meta.namespace,
            name=meta.name,
            version=meta.version,
            made_of=meta.annotations.get(names.ANNOTATION_MADE_OF, ""),
            requests=tuple(request.name for request in single),
            classes=tuple(sorted(classes)),
            admin=any(each.exactly is not None and each.exactly.admin_access for each in every),
            devices=tuple(
                Allocated(each.request, Place(each.driver, each.pool, each.device))
                for each in results
            ),
            allocated=allocation is not None,
            users=tuple(sorted(each.name for each in status.reserved_for[:_MOST_USERS])),
            going=meta.deletion_timestamp is not None,
        )


class _Taint(msgspec.Struct, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""

    @property
    def told(self) -> str:
        """As kubectl writes one."""
        value = f"={self.value}" if self.value else ""
        return f"{self.key}{value}:{self.effect}"[:_MOST_SAID]


class _Device(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    attributes: dict[str, dict[str, Any]] = {}
    taints: list[_Taint] = []
    node_name: str = ""  # where the slice has devices of several

    def text(self, driver: str, attribute: str) -> str:
        """An attribute of its driver's: with the driver's name before it, or without."""
        for name in (attribute, f"{driver}/{attribute}"):
            value = self.attributes.get(name, {}).get("string")
            if isinstance(value, str):
                return value[:_MOST_SAID]
        return ""


class _Pool(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    generation: int = 0
    resource_slice_count: int = 0  # of this generation, as far as it is told


class _SliceSpec(msgspec.Struct, frozen=True, rename="camel"):
    driver: str = ""
    node_name: str = ""
    pool: _Pool = _Pool()
    devices: list[_Device] = []


class SliceObject(msgspec.Struct, frozen=True):
    """A ResourceSlice: devices that a driver publishes, or some of them."""

    metadata: wire.Meta
    spec: _SliceSpec = _SliceSpec()

    @property
    def generation(self) -> int:
        """Of what its pool is made of: slices of an earlier one say nothing any more."""
        return self.spec.pool.generation

    @property
    def of(self) -> int:
        """How many slices its generation consists of: with fewer of them it is not all there."""
        return self.spec.pool.resource_slice_count

    @property
    def seen(self) -> tuple[Device, ...]:
        """Its devices."""
        return tuple(self._devices())

    def _devices(self) -> Iterator[Device]:
        spec = self.spec
        for each in spec.devices[:_MOST_DEVICES]:
            kind = each.text(spec.driver, "type")
            uuid = each.text(spec.driver, "uuid")
            yield Device(
                place=Place(spec.driver, spec.pool.name, each.name),
                node=spec.node_name or each.node_name,
                uuid=uuid,
                whole=kind == _CARD or (not kind and bool(uuid)),
                taints=tuple(taint.told for taint in each.taints if taint.effect != "None"),
            )


def _named(meta: wire.Meta) -> wire.Meta:
    """Who it is, and in which state."""
    made_of = meta.annotations.get(names.ANNOTATION_MADE_OF)
    return wire.Meta(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        resource_version=meta.resource_version,
        deletion_timestamp=meta.deletion_timestamp,
        annotations={names.ANNOTATION_MADE_OF: made_of[:64]} if made_of is not None else {},
    )


def kept_claim(record: ClaimObject) -> ClaimObject:
    """What is kept of one while it is on its way to the store."""
    return msgspec.structs.replace(record, metadata=_named(record.metadata))


def kept_slice(record: SliceObject) -> SliceObject:
    """The same of a slice."""
    return msgspec.structs.replace(record, metadata=_named(record.metadata))
