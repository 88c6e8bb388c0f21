"""What is seen of a list in which not everything is as it should be."""

import json

import pytest

from sglang_operator.cli.cluster import look
from sglang_operator.observed import wire

DEEP = "[" * 3000 + "]" * 3000


def pool(name: str, spec: object) -> dict[str, object]:
    metadata = {"name": name, "namespace": "rl", "uid": name, "resourceVersion": "3"}
    return {"metadata": metadata, "spec": spec, "status": {"readySummary": "1/1"}}


@pytest.mark.parametrize("bad", ["DEEP", 3, None, {"x": "DEEP"}])
def test_a_pool_that_cannot_be_read_is_shown_with_its_status_beside_the_others(bad):
    bodies = [pool("bad", bad), pool("good", {})]
    text = json.dumps({"items": bodies}).replace('"DEEP"', DEEP).encode()
    found = look.items(text, wire.CustomResource)
    assert [record.metadata.name for record in found] == ["bad", "good"]
    assert found[0].status == {"readySummary": "1/1"}


def test_a_pod_that_cannot_be_read_does_not_hide_the_others():
    bodies = [{"metadata": {"name": "bad"}, "status": 3}, {"metadata": {"name": "good"}}, None]
    found = look.items(json.dumps({"items": bodies}).encode(), wire.Pod)
    assert [record.metadata.name for record in found] == ["good"]
