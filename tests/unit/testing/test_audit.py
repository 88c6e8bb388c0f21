"""Reading the API server's audit log."""

import datetime
import json

import pytest

from sglang_operator.testing import audit


def event(user="alice", second=1, **more):
    return {
        "level": "Metadata",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/ns/pods/p/status",
        "verb": "patch",
        "user": {"username": user},
        "userAgent": "tool/1.0",
        "objectRef": {
            "resource": "pods",
            "subresource": "status",
            "namespace": "ns",
            "name": "p",
            "apiVersion": "v1",
        },
        "responseStatus": {"code": 200},
        "requestReceivedTimestamp": f"2026-11-24T02:12:{second:02}.569405Z",
        **more,
    }


@pytest.fixture
def log(tmp_path):
    def log(*events, tail=""):
        path = tmp_path / "audit.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in events) + tail)
        return path

    return log


def test_an_event_says_who_did_what_to_which_object():
    assert audit.parse(json.dumps(event())) == audit.AuditEvent(
        user="alice",
        verb="patch",
        resource="pods",
        subresource="status",
        namespace="ns",
        name="p",
        code=200,
        user_agent="tool/1.0",
        timestamp=datetime.datetime(2026, 11, 24, 2, 12, 1, 569405, tzinfo=datetime.UTC),
        stage="ResponseComplete",
        uri="/api/v1/namespaces/ns/pods/p/status",
        impersonated_by="",
    )


def test_a_request_without_an_object_is_an_event_as_well():
    bare = event(verb="get", requestURI="/version")
    del bare["objectRef"], bare["userAgent"]
    parsed = audit.parse(json.dumps(bare))
    assert (parsed.resource, parsed.name, parsed.user_agent) == ("", "", "")


def test_a_request_under_another_name_counts_for_that_name(log):
    path = log(event("admin", impersonatedUser={"username": "bob"}))
    (found,) = audit.read(path, user="bob")
    assert found.impersonated_by == "admin"
    assert list(audit.read(path, user="admin")) == []


def test_events_are_chosen_by_user_and_by_time(log):
    path = log(event("alice", 1), event("bob", 2), event("alice", 3))
    since = datetime.datetime(2026, 11, 24, 2, 12, 2, tzinfo=datetime.UTC)
    assert len(list(audit.read(path))) == 3
    assert len(list(audit.read(path, user="alice"))) == 2
    assert [e.timestamp.second for e in audit.read(path, user="alice", since=since)] == [3]


def test_a_name_that_only_appears_elsewhere_in_the_event_does_not_count(log):
    assert list(audit.read(log(event("bob", userAgent="alice")), user="alice")) == []


def test_a_line_that_is_being_written_is_left_for_the_next_time(log):
    assert len(list(audit.read(log(event(), tail='{"user": {"usern')))) == 1
