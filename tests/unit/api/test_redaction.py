"""What programs said is told without their secrets, and else as it was."""

import time

import pytest

from sglang_operator.api import redaction
from sglang_operator.cluster.errors import ApiError
from sglang_operator.engine import diagnosis

SECRET = "hunter2Xq"
FORM = "hf_" + SECRET * 4

SAID = [
    f"launch_server.py: error: unrecognized arguments: --api-key {SECRET}",
    f"launch_server.py: error: unrecognized arguments: --api-key={SECRET} --x",
    f"error: argument --some-api-key: invalid int value: '{SECRET}'",
    f"ValueError: ServerArgs(model_path='/m', api_key='{SECRET}', tp_size=2)",
    f"ValueError: bad config {{'hicache': {{'secret_key': '{SECRET} x'}}}}",
    f'json.decoder.JSONDecodeError: {{"access_key": "{SECRET}"}}',
    f'OSError: {{\\"token\\": \\"{SECRET}\\"}}',
    f"OSError: 401 Client Error for url https://me:{SECRET}@host/m",
    f"OSError: s3://me:{SECRET}@bucket/m is not there",
    f"OSError: https://bucket.s3/m?X-Amz-Signature={SECRET}&a=b",
    f"OSError: https://host/m?token={SECRET}",
    f"OSError: {{'Authorization': 'Bearer {SECRET}'}} was refused",
    f"OSError: Authorization: Basic {SECRET}",
    f"openai.AuthenticationError: Incorrect API key provided: {SECRET}.",
    f"ValueError: password: {SECRET}, or {SECRET}",
    f"ValueError: HF_TOKEN={SECRET} is not valid",
    f"ValueError: the token {FORM} is not valid",
    f"ValueError: secretAccessKey={SECRET}",
    f"error: unrecognized arguments: --some-api-key\n{SECRET}",
    f"-----BEGIN RSA PRIVATE KEY----- {SECRET} {SECRET}",
]


@pytest.mark.parametrize("said", SAID)
def test_an_engines_last_words_are_told_without_its_secrets(said):
    told = diagnosis.diagnose(f"INFO: up\n{said}", 1, "Error")
    assert SECRET not in str(told)
    assert SECRET not in diagnosis.read(said).last_words


@pytest.mark.parametrize(
    "said",
    [
        "error: argument --api-key: expected one argument",
        "error: argument --speculative-token-map: invalid choice: 'x'",
        "ValueError: pad_token_id=5 must be below vocab_size=3",
        "ValueError: api_key=None, tp_size=2",
        "KeyError: 'token'",
        "ValueError: at most 5 tokens: 7",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    ],
)
def test_what_is_no_secret_is_told_as_it_was(said):
    assert redaction.in_words(said) == said


@pytest.mark.parametrize(
    "said",
    [
        'MountVolume.SetUp failed for volume "hf-token" : secret "hf-token" not found',
        "couldn't find key api_key in Secret team/hf-token",
        "references non-existent secret key: hf_token",
        "spec.containers[0].env[0].valueFrom.secretKeyRef.name: Required value",
        "secrets is forbidden: exceeded quota",
    ],
)
def test_names_of_secrets_that_kubernetes_says_are_told(said):
    assert redaction.in_clusters_words(said) == said
    assert diagnosis.line(said) == said


def test_what_an_admission_webhook_quotes_is_told_without_secrets():
    said = f'admission webhook "x" denied the request: HF_TOKEN={SECRET} {{"api_key": "{SECRET}"}}'
    error = ApiError(403, "Forbidden", said, None)
    assert SECRET not in f"{error} {error.told}"
    assert error.of_admission


@pytest.mark.parametrize("said", SAID)
def test_what_is_hidden_once_stays_as_it_is(said):
    once = redaction.in_words(said)
    assert redaction.in_words(once) == once


UNITS = ("://", "://a:", "(a:", "a:b ", "a=", "token=", "token= ", "--a ", "-", "key ", "bearer ")
MORE = ("api key a ", "?sig=", "eyJa.", "sk-", "-----BEGIN ", "'", '"', "\\", "token:'", "a:a@")


@pytest.mark.parametrize("unit", [*UNITS, *MORE])
def test_hiding_takes_no_time_whatever_was_said(unit):
    text = (unit * 4096)[:4096]
    started = time.thread_time()
    redaction.in_words(text)
    assert time.thread_time() - started < 0.1
