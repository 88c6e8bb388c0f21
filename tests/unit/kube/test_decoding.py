"""Bytes → records, when some of them are not as they should be: each costs itself alone."""

import json
import random
import tracemalloc
from typing import Any

import msgspec
import pytest

from sglang_operator.kube import decoding, salvage
from sglang_operator.observed import wire

REFUSED = (msgspec.MsgspecError, ValueError, RecursionError)
DEEP = b"[" * 20_000 + b"1" + b"]" * 20_000


def meta(name: str, version: int = 7, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "rl",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        **more,
    }


def written(body: dict[str, Any]) -> bytes:
    """JSON; what says DEEP in it is nested deeper than any decoder goes."""
    text = json.dumps(body).replace('"HUGE"', "1e400")
    return text.replace('"DEEP"', DEEP.decode()).encode()


def a_page(*items: bytes) -> bytes:
    return b'{"metadata": {"resourceVersion": "9"}, "items": [' + b", ".join(items) + b"]}"


POOLS = decoding.Decoder(wire.CustomResource)
PODS = decoding.Decoder(wire.Pod)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param({"spec": {"x": "DEEP"}}, "nested too deep", id="depth in the spec"),
        pytest.param({"spec": 3}, "Expected `object`", id="a spec of another type"),
        pytest.param({"spec": None}, "Expected `object`", id="no spec"),
        pytest.param({"spec": {}, "status": [1]}, "Expected `object`", id="a status of another"),
        pytest.param(
            {"metadata": meta("a", labels={"x": 1})}, "Expected `str`", id="a label of another"
        ),
        pytest.param(
            {"metadata": meta("a", managedFields="DEEP")}, "nested too deep", id="managed fields"
        ),
        pytest.param(
            {"metadata": meta("a", creationTimestamp="long ago")},
            "RFC3339",
            id="a time that is none",
        ),
    ],
)
def test_a_pool_that_cannot_be_read_is_known_by_name_and_says_why(body, why):
    record = POOLS.object(written({"metadata": meta("a", generation=4), **body}))
    assert (record.metadata.namespace, record.metadata.name) == ("rl", "a")
    assert (record.metadata.uid, record.metadata.version) == ("uid-a", 7)
    assert why in record.unreadable
    assert record.spec == {}


def test_what_was_told_of_a_pool_is_read_beside_a_spec_that_cannot_be():
    status = {"observedGeneration": 3, "resolved": {"gate": "Committed"}}
    record = POOLS.object(written({"status": status, "spec": {"x": "DEEP"}, "metadata": meta("a")}))
    assert record.status == status


def test_no_field_of_an_object_makes_it_unreadable():
    body = {"metadata": meta("a"), "unreadable": "x", "spec": {"unreadable": "x"}}
    assert POOLS.object(written(body)).unreadable == ""


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"metadata": meta("a"), "status": {"phase": 3}}, id="another type"),
        pytest.param({"metadata": meta("a"), "x": "DEEP"}, id="depth where nobody looks"),
        pytest.param(
            {"metadata": meta("a"), "status": {"containerStatuses": [{"restartCount": "HUGE"}]}},
            id="a huge number",
        ),
    ],
)
def test_a_pod_that_cannot_be_read_is_named(body):
    with pytest.raises(decoding.UnreadError) as raised:
        PODS.object(written(body))
    assert str(raised.value).startswith("rl/a cannot be read: ")
    assert raised.value.unread.metadata.uid == "uid-a"


GOOD = written({"metadata": meta("good"), "spec": {"text": 'a "brace" { and \\ [', "list": [{}]}})


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (b"null", ""),
        (b"3", ""),
        (b'"text"', ""),
        (b"[]", ""),
        (b"{}", ""),
        (b'{"metadata": null}', ""),
        (b'{"metadata": {"name": "b", "resourceVersion": "x", "uid": "u"}}', "b"),
        (b'{"metadata": {"name": "b", "resourceVersion": "' + b"1" * 5000 + b'"}}', "b"),
        (b'{"metadata": {"name": "\xff", "uid": "u", "resourceVersion": "3"}}', ""),
        (written({"metadata": meta("b"), "status": {"phase": 1}}), "b"),
    ],
)
def test_of_a_list_only_the_bad_one_is_lost(bad, name):
    body = a_page(GOOD, bad, GOOD)
    with pytest.raises(REFUSED):
        PODS.page(body)
    page = PODS.page_in_pieces(body)
    assert [record.metadata.name for record in page.records] == ["good", "good"]
    assert [unread.metadata.name for unread in page.unread] == [name]
    assert (page.version, page.more) == ("9", "")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(a_page(GOOD, GOOD)[:-2], id="cut off at the end"),
        pytest.param(a_page(GOOD, GOOD)[:-20], id="cut off in an object"),
        pytest.param(a_page(GOOD, GOOD)[:-1] + b',"x', id="cut off in a name"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>", id="no JSON"),
        pytest.param(b"{}", id="somebody else's answer"),
        pytest.param(b'{"metadata": {}, "items": []}', id="a list of no version"),
        pytest.param(b'{"metadata": {"resourceVersion": "9"}, "items": 3}', id="no items"),
    ],
)
def test_what_is_no_whole_list_is_none_at_all(body):
    """Else what is missing in it would be taken to be gone."""
    with pytest.raises(REFUSED):
        PODS.page(body)
    with pytest.raises(ValueError):
        PODS.page_in_pieces(body)


def test_an_object_that_goes_is_gone_although_it_cannot_be_read():
    line = written({"type": "DELETED", "object": {"metadata": meta("a"), "status": {"phase": 3}}})
    event = PODS.event_in_pieces(line)
    assert (event.type, event.object.metadata.uid) == ("DELETED", "uid-a")


def test_parts_lie_where_they_are_whatever_is_written():
    """Against the standard library, over random values, spaces included."""
    random_ = random.Random(7)

    def value(depth: int) -> Any:
        kind = random_.randrange(7 if depth else 5)
        if kind < 5:
            return [None, True, -1.5e3, "", 'q"\\\u00e9\n{[]}:,'][kind]
        if kind == 5:
            return [value(depth - 1) for _ in range(random_.randrange(4))]
        return {f'k"{i}{{': value(depth - 1) for i in range(random_.randrange(4))}

    for _ in range(300):
        body = {f"k{i}": value(4) for i in range(5)}
        data = json.dumps(body, indent=random_.choice([None, 2])).encode()
        found = {key.decode(): json.loads(data[i:j]) for key, i, j in salvage.members(data)}
        assert found == body


def test_a_pool_that_is_too_large_to_be_kept_is_known_by_name():
    large = written({"metadata": meta("large"), "spec": {"x": "y" * 1_400_000}})
    line = b'{"type": "ADDED", "object": ' + large + b"}"
    with pytest.raises(ValueError, match="more than 512 KiB"):
        POOLS.event(line)
    records = [POOLS.object(large), POOLS.event_in_pieces(line).object]
    body = a_page(*[large] * 6, GOOD)
    with pytest.raises(ValueError, match="more than"):
        POOLS.page(body)
    records += POOLS.page_in_pieces(body).records
    assert [record.metadata.name for record in records] == ["large"] * 8 + ["good"]
    assert {record.unreadable for record in records[:-1]} == {"it has more than 512 KiB"}


def test_of_a_bookmark_only_the_version_counts():
    """The API server sends an object of nulls around it."""
    body = {"metadata": {"resourceVersion": "9", "creationTimestamp": None}, "status": {"phase": 1}}
    event = PODS.event_in_pieces(written({"type": "BOOKMARK", "object": body}))
    assert (event.type, event.object.metadata.version) == ("BOOKMARK", 9)


BOOKMARK = (
    b'{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12746",'
    b'"creationTimestamp":null},"spec":{"containers":null},"status":{}}'
)


def test_a_bookmark_of_pods_is_read_as_the_API_server_writes_it():
    """Go writes a list without elements as null where it may not be left out."""
    pod = msgspec.json.decode(BOOKMARK, type=wire.Pod)
    assert pod.metadata.version == 12746


@pytest.mark.parametrize(
    "filler",
    [
        pytest.param([{"": 0}] * 60_000, id="small maps"),
        pytest.param([[]] * 160_000, id="empty lists"),
        pytest.param({f"{i}": {} for i in range(40_000)}, id="keys"),
        pytest.param([0] * 200_000, id="numbers"),
    ],
)
def test_of_a_pool_whose_spec_has_too_many_values_it_is_kept_who_it_is_and_what_was_told(filler):
    """Half a MiB of small values are 12 MB once they are built."""
    told = {"resolved": {"gate": "Committed"}}
    body = {"metadata": meta("a"), "spec": {"data_args": {"x": filler}}, "status": told}
    record = POOLS.object(json.dumps(body, separators=(",", ":")).encode())
    assert "its spec has " in record.unreadable
    assert (record.metadata.uid, record.status, record.spec) == ("uid-a", told, {})


def test_a_pools_spec_is_kept_as_it_is_written_and_not_with_the_page_around_it():
    """Nothing that a namespace writes is larger in memory than it wrote it."""
    text = "x" * 400_000
    spec = {"data_args": [{"": 0}] * 3_000, "more": [text[:100_000]]}
    body = {"metadata": meta("a", annotations={"note": text}, labels={"a": "b"}), "spec": spec}
    page = POOLS.page(a_page(json.dumps(body).encode(), GOOD))
    tracemalloc.start()
    record = POOLS.page(a_page(json.dumps(body).encode(), GOOD)).records[0]
    del page
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.spec == spec
    assert kept < 150_000
    assert (record.metadata.labels, record.metadata.annotations) == ({}, {})
