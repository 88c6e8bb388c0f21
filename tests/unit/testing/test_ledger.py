"""What the kit tells of objects that were deleted, and by whom."""

import dataclasses
import datetime

import pytest

from sglang_operator.testing.audit import AuditEvent
from sglang_operator.testing.faults.ledger import removed_unasked

ANSWERED = AuditEvent(
    user="operator",
    verb="create",
    resource="pods",
    subresource="",
    namespace="point-0",
    name="pool-g0-1-0",
    code=200,
    user_agent="",
    timestamp=datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC),
    stage="ResponseComplete",
    uri="",
    impersonated_by="",
)
MADE = dataclasses.replace(ANSWERED, code=201)
BOUND = dataclasses.replace(MADE, user="scheduler", subresource="binding")
ASKED = dataclasses.replace(ANSWERED, verb="delete")
REMOVED = dataclasses.replace(ASKED, user="kwok")


@pytest.mark.parametrize(
    ("events", "found"),
    [
        pytest.param((MADE, ASKED, REMOVED, REMOVED), False, id="twice the same pod"),
        pytest.param((MADE, ASKED, REMOVED, MADE, REMOVED), True, id="its successor too"),
        pytest.param(
            (MADE, ASKED, REMOVED, MADE, dataclasses.replace(REMOVED, code=404)), False, id="gone"
        ),
        pytest.param((MADE, ASKED, BOUND, REMOVED), False, id="bound after it was asked to go"),
        pytest.param((MADE, REMOVED), True, id="nobody asked for it"),
        pytest.param(
            (MADE, dataclasses.replace(REMOVED, namespace="point-1")), False, id="elsewhere"
        ),
    ],
)
def test_a_pod_that_was_removed_without_anybody_having_asked_is_told(events, found):
    assert removed_unasked(events, "point-0", by="kwok") == ({"pool-g0-1-0"} if found else set())
