"""What an answer of the API server means for the next request."""

import time

import pytest

from sglang_operator.kube.errors import ApiError

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


def test_a_404_without_a_reason_is_nobodys_answer_and_refuses_nothing():
    """A load balancer's, or that of a kind which is not served at this moment."""
    error = ApiError(404, "", "404 page not found", None)
    assert error.congested
    assert not error.rejected
    assert ApiError(404, "NotFound", 'namespaces "rl" not found', None).rejected


BY_ADMISSION = [
    POLICY,
    'admission webhook "x" denied the request: no',
    'admission webhook "x" denied the request without explanation',
    'admission webhook "x" does not support dry run',
    'pods "p" is forbidden: admission webhook "x" denied the request: no',  # as of 1.36
    'Internal error occurred: failed calling webhook "x": failed to call webhook: Post "…": EOF',
    'Internal error occurred: admission webhook "x" denied the request: no',
    'Internal error occurred: admission plugin "MutatingAdmissionWebhook" failed to complete '
    "mutation in 13s",
    "conversion webhook for sglang-operator.dev/v1alpha1, Kind=SGLangInference failed: EOF",
    "pods \"p\" is forbidden: policy 'a' with binding 'b' denied request: no",
    'pods "p" is forbidden: policy "a" denied request: no',
    "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'team' denied request: no binding",
]
# What others say, with names and values in it that anybody may choose.
QUOTED = [
    *(
        "webhook",
        "admission webhook",
        "denied the request",
        "AdmissionPolicy 'a' with binding 'b' ",
    ),
    *(BY_ADMISSION[0], BY_ADMISSION[1], "denied request", "exceeded quota: a", "policy 'a' "),
    *("does not support dry run", "because it is being terminated", 'admission webhook "x" denied'),
]
NAMED = [
    'pods "{}-g0-1-1" is forbidden: violates PodSecurity "restricted:latest": container "{}"',
    "failed to create typed patch object (rl/{}; sglang-operator.dev/v1alpha1, Kind=X): "
    ".status.up: field not declared in schema",
    'sglanginferences.sglang-operator.dev "{}" is invalid: status.up: Invalid value: "{}"',
    'pods "p" is forbidden: User "system:serviceaccount:{}:op" cannot create resource "pods"',
    'Internal error occurred: jsonpatch add operation does not apply: doc is missing "{}"',
    'configmaps "{}-engines" not found',
    "etcdserver: {}",
    "{}",
]


@pytest.mark.parametrize("message", BY_ADMISSION)
def test_admission_is_known_by_how_its_messages_begin(message):
    assert ApiError(422, "Invalid", message, None).of_admission


@pytest.mark.parametrize("named", NAMED[:-1])
@pytest.mark.parametrize("quoted", QUOTED)
def test_what_a_message_quotes_says_nothing_of_who_says_it(named, quoted):
    """A pool that was called webhook-eval had no status, and another's trial was none."""
    error = ApiError(403, "Forbidden", named.replace("{}", quoted), None)
    plain = ApiError(403, "Forbidden", named.replace("{}", "eval"), None)
    for said in ("of_admission", "quota", "namespace_ends", "untried", "undeclared"):
        assert getattr(error, said) is getattr(plain, said), said


@pytest.mark.parametrize("name", ["webhook-eval", "webhook", "quota", "policy"])
@pytest.mark.parametrize("named", NAMED)
def test_a_name_says_nothing_of_who_says_it(named, name):
    error = ApiError(403, "Forbidden", named.replace("{}", name), None)
    assert not (error.of_admission or error.quota or error.namespace_ends or error.untried)


@pytest.mark.parametrize(
    "message",
    [
        "exceeded quota: gpus, requested: nvidia.com/gpu=2",
        'pods "p" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=2',
        'admission webhook "resourcesquotasstatus.hnc.x-k8s.io" denied the request: exceeded '
        'hierarchical quota in namespace "a": "b"',
        'pods "p" is forbidden: admission webhook "hnc" denied the request: exceeded hierarchical '
        "quota",
    ],
)
def test_a_quota_that_is_used_up_is_known(message):
    assert ApiError(403, "Forbidden", message, None).quota


@pytest.mark.parametrize("unit", ['"', '\\"', "a", 'a "', "webhook ", "'", "policy '", "A", ". "])
def test_a_long_message_is_judged_in_no_time(unit):
    error = ApiError(403, "Forbidden", unit * 65_536, None)
    begun = time.thread_time()
    assert not (error.of_admission or error.quota or error.namespace_ends or error.untried)
    assert time.thread_time() - begun < 0.05


@pytest.mark.parametrize(
    ("status", "message", "whose"),
    [
        (500, "Internal error occurred: resource quota evaluation timed out", "namespace"),
        (500, "error resolving quota", "namespace"),
        (
            500,
            'Internal error occurred: add operation does not apply: doc is missing path: "/a"',
            "namespace",
        ),
        (500, 'Internal error occurred: failed calling webhook "x": EOF', "namespace"),
        (429, 'admission webhook "x" denied the request: slow down', "namespace"),
        (429, "too many requests, please try again later", "server"),
        (503, "apiserver is shutting down", "server"),
        (500, "etcdserver: request timed out", "server"),
        (500, "rpc error: code = Unavailable desc = transport is closing", "server"),
        (500, "Internal error occurred: no such key", "nobody"),
        (500, 'pods "resource quota evaluation timed out" is odd', "nobody"),
        (504, "Timeout: request did not complete within the requested timeout", "nobody"),
    ],
)
def test_whose_burden_an_error_is_follows_from_what_it_says(status, message, whose):
    error = ApiError(status, "", message, None)
    assert error.congested
    found = "namespace" if error.of_namespace else "server" if error.overloaded else "nobody"
    assert found == whose
