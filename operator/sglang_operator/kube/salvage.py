"""What can be read of JSON that cannot be decoded as a whole.

A decoder gives up on all of a list for one object that is nested too deep (a thousand levels) or
has a field of another type.  This goes through the text itself, without recursion, and says where
the parts lie; so one such object costs that object, and even of that its name can be told.
"""

import re
from collections.abc import Iterator

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[-+.\w]++")
_NESTING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]++|[\]}]++', re.DOTALL)


def members(data: bytes, start: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Each member of the object that begins here: its key as written, and where its value lies.

    Raises ValueError where the text ends too early or is no object.
    """
    place = _after(data, start, b"{")
    if data[place : place + 1] == b"}":
        return
    while True:
        end = _match(_STRING, data, place)
        key = data[place + 1 : end - 1]
        begin = _after(data, _space(data, end), b":")
        end = _value(data, begin)
        yield key, begin, end
        place, last = _next(data, end, b"}")
        if last:
            return


def elements(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Where each element of the array that begins here lies.  Raises ValueError as above."""
    place = _after(data, start, b"[")
    if data[place : place + 1] == b"]":
        return
    while True:
        end = _value(data, place)
        yield place, end
        place, last = _next(data, end, b"]")
        if last:
            return


def member(data: bytes, name: bytes) -> bytes | None:
    """The value of an object's member as it is written; None if there is none or no such object."""
    try:
        return next((data[i:j] for key, i, j in members(data) if key == name), None)
    except ValueError:
        return None


def _space(data: bytes, place: int) -> int:
    return _match(_SPACE, data, place)


def _after(data: bytes, start: int, sign: bytes) -> int:
    """Where something begins after this sign, which must be the next."""
    place = _space(data, start)
    if data[place : place + 1] != sign:
        raise ValueError(f"no JSON: byte {place} is no {sign.decode()}")
    return _space(data, place + 1)


def _next(data: bytes, end: int, closing: bytes) -> tuple[int, bool]:
    """Where the next part begins, and whether there was none any more."""
    place = _space(data, end)
    if data[place : place + 1] == closing:
        return place, True
    return _after(data, place, b","), False


def _value(data: bytes, start: int) -> int:
    """Where the value that begins here ends."""
    first = data[start : start + 1]
    if first == b'"':
        return _match(_STRING, data, start)
    if first not in (b"{", b"["):
        return _match(_SCALAR, data, start)
    depth, place = 0, start
    while True:
        found = _NESTING.search(data, place)
        if found is None:
            raise ValueError("no JSON: it ends too early")
        place, sign = found.end(), data[found.start()]
        if sign in b"[{":
            depth += place - found.start()
        elif sign in b"]}":
            closed = place - found.start()
            if closed >= depth:
                return found.start() + depth
            depth -= closed


def _match(pattern: re.Pattern[bytes], data: bytes, place: int) -> int:
    found = pattern.match(data, place)
    if found is None:
        raise ValueError(f"no JSON at byte {place}")
    return found.end()
