"""Bytes of the API server → records.  An object that cannot be decoded costs that object alone.

Decoding is straight where everything is in order, which it nearly always is.  What a decoder
refuses is gone through piece by piece (``salvage``): who can be read is, and of the others it is
told who they are and why not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec

from sglang_operator.kube import keeping, salvage
from sglang_operator.kube.errors import ApiUnreachableError
from sglang_operator.observed import wire
from sglang_operator.observed.wire import Meta

# An object's own keys in its metadata that can be read one by one.
_IDENTITY = tuple(
    name.encode()
    for name in (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
    )
)
# What is larger is not built: a namespace full of such would take all memory.
MOST_BYTES = 512 * 1024
_PLAIN_PAGE = 8 * 1024 * 1024  # a page of pools that cannot all be looked at as they are
_WORDS = 300  # of what the decoder said


class Record(Protocol):
    """What every decoded object has."""

    @property
    def metadata(self) -> Meta: ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Unread:
    """An object that cannot be decoded: who it is, as far as that can be read, and why not."""

    metadata: Meta
    why: str

    def __str__(self) -> str:
        return f"{called(self) or 'an object without a name'} cannot be read: {self.why}"


class UnreadError(ApiUnreachableError):
    """Raised for one object that cannot be decoded: an answer that says nothing is none."""

    def __init__(self, unread: Unread) -> None:
        super().__init__(str(unread))
        self.unread = unread


@dataclass(kw_only=True)
class Page(Generic[R]):
    """A page of a list."""

    version: str
    more: str  # the token of the next page
    records: list[R]
    unread: list[Unread] = field(default_factory=list)


class _ListMeta(msgspec.Struct):
    # Without it, it is no list of the API server's, whatever else it says.
    resource_version: str = msgspec.field(name="resourceVersion")
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, Generic[R]):
    metadata: _ListMeta
    items: list[R] | None = None


class WatchEvent(msgspec.Struct, Generic[R]):
    type: str
    object: R  # of a bookmark, its metadata alone


class Decoder(Generic[R]):
    """Decodes objects, lists and events of one kind."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._object = msgspec.json.Decoder(kind)
        self._list = msgspec.json.Decoder(_List[kind])  # type: ignore[valid-type]
        self._event = msgspec.json.Decoder(WatchEvent[kind])  # type: ignore[valid-type]

    def object(self, data: bytes) -> R:
        """One object.  Raises :class:`UnreadError`."""
        try:
            self._refuse(len(data) > MOST_BYTES)
            return _usable(self._object.decode(data))
        except Exception as error:  # whatever is wrong with it
            return self._mended(data, error)

    def page(self, body: bytes) -> Page[R]:
        """A page in which everything can be read.  Raises anything if that is not so."""
        self._refuse(len(body) > _PLAIN_PAGE)
        page = self._list.decode(body)
        return Page(
            version=page.metadata.resource_version,
            more=page.metadata.continue_,
            records=[_usable(record) for record in page.items or ()],
        )

    def page_in_pieces(self, body: bytes) -> Page[R]:
        """A page of which one or the other object cannot be read; takes a while.

        Raises ValueError where the list itself cannot be.
        """
        found = {key: body[i:j] for key, i, j in salvage.members(body)}
        try:
            meta = msgspec.json.decode(found.get(b"metadata", b""), type=_ListMeta)
        except Exception as error:
            raise ValueError(f"a list that cannot be read: {_words(error)}") from error
        page: Page[R] = Page(version=meta.resource_version, more=meta.continue_, records=[])
        items = found.get(b"items", b"null")
        for i, j in salvage.elements(items, 0) if items != b"null" else ():
            try:
                page.records.append(self.object(items[i:j]))
            except UnreadError as error:
                page.unread.append(error.unread)
        return page

    def any_page(self, body: bytes) -> Page[R]:
        """Either; raises ValueError for what is no list."""
        try:
            return self.page(body)
        except Exception:  # of one object, or of the list itself
            return self.page_in_pieces(body)

    def event(self, line: bytes) -> WatchEvent[R]:
        """One event of a watch.  Raises anything if it cannot be read."""
        self._refuse(len(line) > MOST_BYTES)
        event = self._event.decode(line)
        event.object = _usable(event.object)
        return event

    def event_in_pieces(self, line: bytes) -> WatchEvent[R]:
        """The same of an event that cannot be read as a whole.

        Raises :class:`UnreadError` for its object, ValueError where the event itself cannot be.
        """
        found = {key: line[i:j] for key, i, j in salvage.members(line)}
        kind = msgspec.json.decode(found.get(b"type", b""), type=str)
        body = found.get(b"object", b"null")
        if kind not in ("DELETED", "BOOKMARK"):
            return WatchEvent(kind, self.object(body))
        meta = _identity(body)
        if not (is_named(meta) or (kind == "BOOKMARK" and meta.version)):
            raise UnreadError(Unread(metadata=meta, why="its metadata is not as expected"))
        return WatchEvent(kind, self._kind(metadata=meta))  # type: ignore[call-arg]

    def _refuse(self, large: bool) -> None:
        """Pools' specs are kept as they are written; of others only little is kept in any case."""
        if large and self._kind is wire.CustomResource:
            raise ValueError(f"it has more than {MOST_BYTES // 1024} KiB")

    def _mended(self, data: bytes, error: Exception) -> R:
        """A pool that cannot be read is one whose spec says nothing; others are not known."""
        unread = Unread(metadata=_identity(data), why=_words(error))
        if self._kind is wire.CustomResource and is_named(unread.metadata):
            return wire.CustomResource(  # type: ignore[return-value]
                metadata=unread.metadata, status=_status(data), unreadable=unread.why
            )
        raise UnreadError(unread) from error


def called(record: Record) -> str:
    """Namespace and name, for people."""
    meta = record.metadata
    return "/".join(part for part in (meta.namespace, meta.name) if part)


def is_named(meta: Meta) -> bool:
    """Whether it is known which state of which object this is of."""
    return bool(meta.name and meta.uid and meta.version)


def _usable(record: R) -> R:
    int(record.metadata.resource_version)  # raises ValueError: nothing could be compared with it
    if isinstance(record, wire.Pod):
        return keeping.of_pod(record)  # type: ignore[return-value]
    if isinstance(record, wire.CustomResource):
        return keeping.of_pool(record)  # type: ignore[return-value]
    return record


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return (str(error) or type(error).__name__)[:_WORDS]


def _identity(data: bytes) -> Meta:
    """The metadata of an object as far as it can be read, but for labels and the like."""
    written = salvage.member(data, b"metadata") or b"{}"
    return msgspec.json.decode(b"{" + b",".join(_readable(written)) + b"}", type=Meta)


def _readable(written: bytes) -> Iterator[bytes]:
    try:
        found = {key: written[i:j] for key, i, j in salvage.members(written) if key in _IDENTITY}
    except ValueError:
        return
    for key, value in found.items():
        pair = b'"' + key + b'":' + value
        try:
            int(msgspec.json.decode(b"{" + pair + b"}", type=Meta).resource_version)
        except Exception:
            continue
        yield pair


def _status(data: bytes) -> dict[str, object]:
    written = salvage.member(data, b"status")
    try:
        return msgspec.json.decode(written or b"{}", type=dict[str, object])
    except Exception:
        return {}
