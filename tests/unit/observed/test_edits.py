"""Whether a pool was edited is known by its spec, whatever its generation says."""

from typing import Any

import msgspec
import pytest

from sglang_operator.observed import edits
from sglang_operator.observed.wire import CustomResource, Meta

SPEC = b'{"replicas":2,"image":"a"}'


def record(written: bytes = SPEC, *, unreadable: str = "", **meta: Any) -> CustomResource:
    known = Meta(**{"uid": "u", "generation": 3, "resource_version": "7", **meta})
    return CustomResource(metadata=known, written=msgspec.Raw(written), unreadable=unreadable)


def test_a_status_or_a_label_makes_no_other_spec():
    assert edits.same_spec(record(), record(resource_version="9", labels={"a": "b"}))
    assert edits.same_spec(record(), record(b'{ "image": "a", "replicas": 2 }')), "as written anew"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(record(b'{"replicas":3,"image":"a"}'), id="the same generation"),
        pytest.param(record(b'{"replicas":true,"image":"a"}'), id="another kind of value"),
        pytest.param(record(generation=4), id="generation"),
        pytest.param(record(uid="v"), id="UID"),
        pytest.param(record(unreadable="nested too deep"), id="unreadable"),
    ],
)
def test_anything_else_does(other):
    assert not edits.same_spec(record(), other)
