"""Whose an object was that a write through the kit's proxy was about."""

from sglang_operator.testing.faults.proxy import Owners

POOL = {"kind": "SGLangInference", "name": "pool", "uid": "p", "controller": True}
MADE = {"kind": "ControllerRevision", "metadata": {"uid": "r", "ownerReferences": [POOL]}}
GONE = {"kind": "Status", "status": "Success", "details": {"name": "pool-1", "uid": "r"}}


def test_what_is_deleted_at_once_belongs_to_whom_it_was_made_for():
    owners = Owners()
    assert owners.of(MADE) == ("r", POOL)
    assert owners.of(GONE) == ("r", POOL)


def test_what_nobody_was_seen_to_make_belongs_to_nobody():
    assert Owners().of(GONE) == ("r", {})
    assert Owners().of({}) == ("", {})
