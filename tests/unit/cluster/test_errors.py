"""What an answer of the API server means for the next request."""

import pytest

from sglang_operator.cluster.errors import ApiError

POLICY = (
    "sglanginferences.sglang-operator.dev \"p\" is forbidden: ValidatingAdmissionPolicy 'team' "
    "with binding 'b' denied request: status.conditions: field not declared in schema"
)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "etcdserver: request is too large"),
        (500, "rpc error: code = ResourceExhausted desc = trying to send message larger than max"),
        (413, "Request entity too large: limit is 3145728"),
    ],
)
def test_an_object_that_is_too_large_is_rejected_and_slows_nobody_down(status, message):
    error = ApiError(status, "", message, None)
    assert error.rejected
    assert not error.congested


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_overloaded_has_rejected_nothing(status):
    error = ApiError(status, "", "etcdserver: too many requests", None)
    assert error.congested
    assert not error.rejected


@pytest.mark.parametrize(
    ("message", "admission"),
    [
        (POLICY, True),
        ('admission webhook "x" denied the request: no', True),
        ('X "p" is invalid: status.engines.up: Invalid value: "null"', False),
    ],
)
def test_a_policys_refusal_is_told_from_the_definitions(message, admission):
    assert ApiError(422, "Invalid", message, None).of_admission is admission
