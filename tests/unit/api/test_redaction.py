"""What programs said is told without their secrets, and else as it was."""

import json
import random
import re
import shlex
import time
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
import yaml

from sglang_operator.api import errors, redaction
from sglang_operator.client import calls
from sglang_operator.client.registry import Engine
from sglang_operator.engine import diagnosis
from sglang_operator.kube.errors import ApiError

SECRET = "hunter2Xq"
ENGINE = Engine(**{**dict.fromkeys(Engine.__dataclass_fields__), "url": "http://10.0.0.1"})  # type: ignore[arg-type]
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
    f"OSError: DB_PASS={SECRET} was refused",
    f"OSError: bearer={SECRET} was refused",
    f"OSError: X-Amz-Signature={SECRET} was refused",
    f"ValueError: api_key must be str, got '{SECRET}'",
    f"TypeError: hf_token must be a string, not b'{SECRET}'",
    f"TypeError: expected str for DB_PWD, got ['{SECRET}']",
    f"ValueError: invalid value {SECRET} for HF_TOKEN",
    f"ValueError: '{SECRET}' is not a valid api_key",
    f"Exception: key '{SECRET}' is not valid for HF_TOKEN",
    f"RuntimeError: OPENAI_SK was '{SECRET}' in small letters",
    f"error: HF_TOKEN\n  Input should be a valid string [type=string_type, input_value='{SECRET}',"
    " input_type=str]",
    f"ValueError: Input should be a string [input_value='{SECRET}', input_type=a]",
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
        "{'pad_token_id': 5, 'token_ids': [1, 2], 'token_value': 3, 'token_type': None}",
        "error: argument --speculative-token-map: expected one argument, --tp, 2",
        "AssertionError: token_to_kv_pool is exhausted",
        "RuntimeError: keys do not match: layers.0.k_proj",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "HF_TOKEN environment variable is not set",
        "OSError: your token has no access to meta-llama/Llama-3.1-8B-Instruct",
        "unexpected token Qwen3MoeForCausalLM in Qwen3-8B",
        "docker run -u 1000:1000 img",
        "password is required",
        "Unknown token '<|im_end|>' and stop token '</s>'",
        "tokens  requests  seconds\n5  7  8",
        "usage: x [--auth token|none]",
        "author: me, auth_mode: none, task: 3, disk: 5",
        "forward_pass: 12, compass=3, bypass = 1, PWD=/sgl-workspace, pypi-mirror, sk_test_run",
        "https://discord.com/channels/1 and https://hooks.slack.com",
        "ValueError: stop_token must be str, got '</s>'",
        "ValueError: HF_TOKEN is not set, and 'meta-llama/Llama-3.1-8B-Instruct' is gated",
        "ServerArgs(model_path='/m', api_key=None, tp_size=2, dist_init_addr='Host12Ab:5000')",
        "port\n  Input should be an integer [type=int_parsing, input_value='abc', input_type=str]",
        "KeyError: 'Qwen3MoeForCausalLM' has no lm_head_key",
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


# What the server and what is asked before it quote of a pod that they refuse.
BY_WEBHOOK = 'admission webhook "x.y" denied the request: '
QUOTED_VALUES = [
    BY_WEBHOOK + "env HF_TOKEN with value {} is not allowed",
    BY_WEBHOOK + 'env HF_TOKEN with value "{} {}" is not allowed',
    BY_WEBHOOK + "container engine: environment variable DB_PASSWORD has plaintext value {}",
    BY_WEBHOOK + "literal secret {} in env HF_TOKEN",
    BY_WEBHOOK + "HF_TOKEN is set to {}, use a secretKeyRef",
    BY_WEBHOOK + 'env {{"name":"HF_TOKEN","value":"{}"}} is forbidden',
    BY_WEBHOOK + '&v1.EnvVar{{Name:"HF_TOKEN", Value:"{}", ValueFrom:(*v1.EnvVarSource)(nil)}}',
    BY_WEBHOOK + "{{HF_TOKEN {} nil}}",
    BY_WEBHOOK + "environment=map[HF_TOKEN:{} X:1]",
    BY_WEBHOOK + "HF_TOKEN: {}",
    BY_WEBHOOK + "Pod contains hard-coded secret: {}",
    BY_WEBHOOK + "image registry.example.com/x: unauthorized: password {} wrong",
    'Pod "p" is invalid: spec.containers[0].env[3].value: Invalid value: "{}": may not be',
    'Pod "p" is invalid: spec.containers[0].args[3]: Invalid value: "--api-key {}": no',
    'spec.system_envs.TOKEN: Invalid value: "{}": must be a number',
    'metadata.annotations[hf_token]: Invalid value: "{}": no',
    'validation error: rule x failed at path /spec/containers/0/env/0/value/ value "{}"',
    "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
    "plain credentials: HF_TOKEN -> {}",
]


@pytest.mark.parametrize("said", QUOTED_VALUES)
@pytest.mark.parametrize("value", ["hunter2", SECRET])
def test_a_value_that_is_refused_is_not_told(said, value):
    error = ApiError(422, "Invalid", said.format(*[value] * said.count("{}")), None)
    assert value not in f"{error} {error.told}"
    assert redaction.in_clusters_words(error.told) == error.told


@pytest.mark.parametrize(
    "said",
    [
        'Pod "p" is invalid: spec.containers[0].image: Invalid value: " x": no blanks',
        'Pod "p" is invalid: spec.volumes[0].secret.secretName: Invalid value: "A_b": no',
        'spec.containers[0].env[0].name: Invalid value: "1 x": a valid variable name must be',
        'spec.containers[0].env[0].valueFrom.secretKeyRef.key: Invalid value: "a b": no',
        BY_WEBHOOK + "env HF_TOKEN must come from a Secret",
        BY_WEBHOOK + "env HF_TOKEN: secretKeyRef is required",
        BY_WEBHOOK + "env HF_TOKEN with value from a ConfigMap is not allowed",
        BY_WEBHOOK + "env HF_TOKEN is not allowed, and DB_PASSWORD is missing",
        BY_WEBHOOK + "plain text credentials are not allowed in env",
        BY_WEBHOOK + "NCCL_DEBUG is set to INFO",
        "couldn't find key HF_TOKEN in Secret team/hf-token",
        'pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2',
    ],
)
def test_what_is_refused_is_told_where_it_is_no_secret(said):
    assert redaction.in_clusters_words(said) == said


@pytest.mark.parametrize("said", SAID)
def test_what_is_hidden_once_stays_as_it_is(said):
    once = redaction.in_words(said)
    assert redaction.in_words(once) == once


# Everything a pattern looks for, over and over: what each tries at every place in a text.
UNITS = (
    *(
        "://",
        "://:",
        "://a:",
        "://a/",
        "://a:b/",
        "://@",
        "(a:",
        "=a:",
        "'a:",
        "a:b ",
        "a:a@",
        "=a:@",
    ),
    *("@", "a@", "/a:b@", "@sha256:1", "a:@sha1", "=", "a=", "-", "--a ", "-- ", "-\n", "a.key="),
    *("token=", "token= ", "token ,", "token,", "token value ", "name: token value: ", "token->"),
    *("token:'", "'token', ", "'token', 'a' ", "token='\\", 'token=\\"', "token='a'b", "token=b("),
    *("token_a=", "token: *** ", "token=None ", "token:\n", "key ", "api key", "api key a ", "aA"),
    *(
        "bearer ",
        "authorization='basic ",
        "?sig=",
        "?credential=",
        "eyJa.",
        "eyJaaaaaaaaaa.",
        "sk-",
    ),
    *("hf_a", "-----BEGIN ", "-----BEGIN A PRIVATE KEY-----", "'", '"', "\\", "\\'", "(", "[", " "),
    *(
        "\t\n",
        "$'",
        "a" * 50 + "=",
        "K.e_y-",
        "token  ",
        "token\t",
        "| token ",
        "<token>",
        "<token ",
    ),
    *(
        "env[token]=",
        "token (str): ",
        "token: a = ",
        "-u a:",
        "-u 'a:",
        "--user a",
        "mysql -p",
        "mysql ",
    ),
    *(
        "redis-cli ",
        "password '",
        "api_key ",
        "api_key got '",
        "HF_TOKEN 'A1aaaaaaa' ",
        "HF_TOKEN\ninput_value=",
        "input_value='A1a",
        "A1aaaaaaa HF_TOKEN\n",
        "password a ",
        "api key 'a",
        "Aa1",
        "Aa",
        "A1a_",
        "token A1aaaaaa ",
        "jwt ",
        "env[0].value: Invalid value: ",
        "a.",
        "[HF_TOKEN:",
        "{HF_TOKEN x ",
        "HF_TOKEN a b c d ",
        "plaintext x y ",
        "with got found ",
        "x: a",
    ),
)
LONG = 32_768
# To go through such a text takes less than half of it; from each place in it to its end, far more.
QUICK_SECONDS = 0.125


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ending", ["", "@ token='x"])
def test_hiding_takes_no_time_whatever_was_said(unit, ending):
    text = (unit * LONG)[:LONG] + ending
    for hiding in (redaction.in_words, redaction.in_clusters_words, redaction.without_secrets):
        assert is_quick(getattr(hiding, "__wrapped__", hiding), text)


def is_quick(do: Callable[[str], object], text: str) -> bool:
    """Whether one of three tries takes no more than this of this thread's time."""
    for _ in range(3):
        begun = time.thread_time()
        do(text)
        if time.thread_time() - begun < QUICK_SECONDS:
            return True
    return False


def test_a_look_from_each_place_to_the_end_would_be_noticed():
    """The control, with the quickest of such looks: a run of one character, and one behind it."""
    assert not is_quick(re.compile("a*b").search, "a" * LONG)


# --- names x ways of writing

NAMES = (
    *("HF_TOKEN", "api_key", "x-api-key", "secretAccessKey", "DB_PASSWORD", "client.secret"),
    *("token_value", "TOKEN_SECRET", "wandb-api-key", "OPENAI_API_KEY", "passphrase", "my_pat"),
    *("Authorization", "Cookie", "API_KEYS", "admin-api-key", "hf-token-v2"),
)
FLAGS = tuple(f"--{name.lower().replace('_', '-')}" for name in NAMES[:14])
VALUES = (
    SECRET,
    f"{SECRET} {SECRET}",
    f"a'{SECRET}",
    f'a"{SECRET}',
    f"a\\{SECRET}",
    f"a,{SECRET}:b",
)
WORDS = tuple(value for value in VALUES if not set(value) & set(" '\"\\,"))


def _nested(name: str, value: str) -> str:
    return json.dumps(json.dumps({name: value, "port": 1}))


# Of any name and value, with whatever quoting the language has.
WAYS: dict[str, Callable[[str, str], str]] = {
    "dict": lambda name, value: repr({name: value, "port": 1}),
    "dict of bytes": lambda name, value: repr({name.encode(): value.encode()}),
    "tuple": lambda name, value: repr((name, value)),
    "tuple of bytes": lambda name, value: repr(
        [(b"accept", b"*"), (name.encode(), value.encode())]
    ),
    "list of pairs": lambda name, value: repr([["a", "b"], [name, value]]),
    "JSON": lambda name, value: json.dumps({name: value, "port": 1}),
    "JSON, indented": lambda name, value: json.dumps({name: value}, indent=8),
    "JSON, packed": lambda name, value: json.dumps({name: value}, separators=(",", ":")),
    "JSON in JSON": _nested,
    "JSON in JSON in JSON": lambda name, value: json.dumps({"body": _nested(name, value)}),
    "a variable as JSON": lambda name, value: json.dumps(
        [{"name": name, "value": value}], indent=2
    ),
    "a variable as dict": lambda name, value: repr({"name": name, "value": value}),
    "a variable as YAML": lambda name, value: yaml.safe_dump([{"name": name, "value": value}]),
    "a variable in Go": lambda name, value: f"[{{Name:{name} Value:{value} ValueFrom:nil}}]",
    "YAML": lambda name, value: yaml.safe_dump({name: value}, width=1000),
    "YAML in a line": lambda name, value: yaml.safe_dump(
        {name: value}, default_flow_style=True, width=1000
    ),
    "keyword": lambda name, value: f"Config({name}={value!r}, port=1)",
    "bytes by keyword": lambda name, value: f"Config({name}={value.encode()!r}, port=1)",
    "wrapped": lambda name, value: f"Config({name}=SecretStr({value!r}), port=1)",
    "list": lambda name, value: f"Config({name}=[{value!r}, {value!r}], port=1)",
    "shell": lambda name, value: f"export {name}={shlex.quote(value)} && run",
    "shell, in double quotes": lambda name, value: f"{name}={json.dumps(value)} run",
    "header": lambda name, value: f"{name}: {value}",
    "curl": lambda name, value: f"curl -H {shlex.quote(f'{name}: {value}')} http://host/",
    "hash": lambda name, value: f'{{"{name}" => {json.dumps(value)}}}',
    "URL": lambda name, value: f"https://host/m?{urlencode({name: value})}&a=b was not found",
    "comparison": lambda name, value: f"assert {name} == {value!r}",
    "assignment": lambda name, value: f"{name} = {value!r}",
    "annotated": lambda name, value: f"{name}: str = {value!r}",
    "annotated, or None": lambda name, value: f"{name}: str | None = {value!r}",
    "environment in Python": lambda name, value: f"os.environ[{name!r}] = {value!r}",
    "environment in Ruby": lambda name, value: f'ENV["{name}"]={json.dumps(value)}',
    "environment, got": lambda name, value: f"os.environ.get({name!r}) == {value!r}",
    "environment, set": lambda name, value: f'setenv("{name}", {json.dumps(value)}, 1)',
    "PowerShell": lambda name, value: f"$env:{name} = {json.dumps(value)}",
    "index": lambda name, value: f"env[{name}]={value!r}",
    "with its type": lambda name, value: f"{name} (str): {value!r}",
    "XML": lambda name, value: f"<a><{name}>{value}</{name}></a>",
    "XML's attribute": lambda name, value: f'<add key="{name}" value={json.dumps(value)} />',
    "columns": lambda name, value: f"{name.upper()}      {value}",
    "columns by tabs": lambda name, value: f"{name.upper()}\t{value}\tx",
    "rows": lambda name, value: f"| name | value |\n| {name} | {value} |",
    "rows with lines": lambda name, value: f"\u2502 {name} \u2502 {value} \u2502",
    "another alphabet": lambda name, value: f"{name}\uff1a{value!r}",
    "assigned if unset": lambda name, value: f"{name} ?= {value!r}",
    "appended": lambda name, value: f"{name}+={value!r}",
    "an item": lambda name, value: f"{name}[0] = {value!r}",
    "after a mark that nobody sees": lambda name, value: f"{name}\u200b={value!r}",
    "an arrow": lambda name, value: f"{name} \u2192 {value!r}",
}
WAYS_OF_WORDS: dict[str, Callable[[str, str], str]] = {
    "env": lambda name, value: f"env: {name}={value} PORT=1",
    "arrow": lambda name, value: f"{name} -> {value}",
    "table": lambda name, value: f"{name}={value}; port=1",
    "index, bare": lambda name, value: f"env[{name}]={value}",
    "docker": lambda name, value: f"docker run -e {name}={value} img",
    "csh": lambda name, value: f"setenv {name} {value}",
    "CSV": lambda name, value: f"name,value\n{name},{value}",
    "in brackets": lambda name, value: f"{name} ({value})",
    "in angle brackets": lambda name, value: f"{name} <{value}>",
    "Markdown": lambda name, value: f"**{name}** `{value}`",
    "percent-encoded": lambda name, value: f"body={name}%3D{value}",
    "HTML": lambda name, value: f"&quot;{name}&quot;:&quot;{value}&quot;",
    "a KeyError": lambda name, value: f"KeyError: {name} {value}",
    "a sentence": lambda name, value: f"the {name} {value} is not valid",
    "a sentence with is": lambda name, value: f"{name} is {value}",
    "a sentence with a dash": lambda name, value: f"{name} - {value}",
}
WAYS_OF_FLAGS: dict[str, Callable[[str, str], str]] = {
    "argv": lambda flag, value: repr(["python3", flag, value, "--tp", "2"]),
    "argv as tuple": lambda flag, value: repr((flag, value)),
    "argv of bytes": lambda flag, value: repr([flag.encode(), value.encode()]),
    "argv as JSON": lambda flag, value: json.dumps(["python3", flag, value]),
    "argv as JSON, indented": lambda flag, value: json.dumps(["python3", flag, value], indent=10),
    "argv in JSON as text": lambda flag, value: json.dumps(json.dumps([flag, value])),
    "argv as YAML": lambda flag, value: yaml.safe_dump(["python3", flag, value], width=1000),
    "command line": lambda flag, value: shlex.join(["python3", flag, value, "--tp", "2"]),
    "command line with =": lambda flag, value: f"python3 {flag}={shlex.quote(value)} --tp 2",
    "quoted flag": lambda flag, value: f"'{flag}' {shlex.quote(value)}",
    "in a shell's text": lambda flag, value: repr(["sh", "-c", f"run {flag} {shlex.quote(value)}"]),
}
# Under no name: how people and programs speak of it.
SPOKEN = ("api key", "access key", "API-key", "password", "passphrase", "token", "Secret Key")
WAYS_OF_SPEAKING: dict[str, Callable[[str, str], str]] = {
    "invalid": lambda spoken, value: f"invalid {spoken} {value!r}",
    "provided": lambda spoken, value: f"Incorrect {spoken} provided: {value!r}.",
    "was": lambda spoken, value: f"the {spoken} was {value!r}",
    "in backticks": lambda spoken, value: f"no such {spoken}: `{value}`",
    "in angle brackets": lambda spoken, value: f"{spoken} <{value}> is refused",
    "bare": lambda spoken, value: f"{spoken} {value} is invalid",
    "of somebody": lambda spoken, value: f"{spoken} for me {value}",
}
WAYS_OF_USERS: dict[str, Callable[[str, str], str]] = {
    "curl": lambda flag, value: f"curl {flag} me:{shlex.quote(value)} https://host/",
    "curl, all in quotes": lambda flag, value: f"curl {flag} {shlex.quote('me:' + value)} http://h",
    "curl with =": lambda flag, value: f"curl {flag}=me:{value} https://host/",
    "argv": lambda flag, value: repr(["curl", flag, f"me:{value}", "https://host/"]),
    "argv as JSON": lambda flag, value: json.dumps(["curl", flag, f"me:{value}"]),
}
SHORT = ("mysql -u me -p{}", "sshpass -p {} ssh h", "docker login -u me -p {}", "redis-cli -a {}")
FLAG_WORDS: dict[str, Callable[[str, str], str]] = {
    "Go's slice": lambda flag, value: f"args: [python3 {flag} {value} --tp 2]",
    "a list without quotes": lambda flag, value: f"[python3, {flag}, {value}, --tp, 2]",
    "packed": lambda flag, value: f"[python3,{flag},{value},--tp,2]",
}
WRITTEN = [
    pytest.param(way(name, value), id=f"{title}, {name}, {value}")
    for ways, names, values in (
        (WAYS, NAMES, VALUES),
        (WAYS_OF_WORDS, NAMES, WORDS),
        (WAYS_OF_FLAGS, FLAGS, VALUES),
        (FLAG_WORDS, FLAGS, WORDS),
        (WAYS_OF_SPEAKING, SPOKEN, (SECRET,)),
        (WAYS_OF_USERS, ("-u", "--user", "--auth", "--creds"), WORDS),
        ({"a short flag": lambda said, value: said.format(value)}, SHORT, WORDS),
    )
    for title, way in ways.items()
    for name in names
    for value in values
]


# By its form alone: what the hubs, clouds and services give out that engines and trainers use.
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
FORMS: list[tuple[str, str, int]] = [
    *((f"{of}_", LETTERS, 36) for of in ("hf", "api_org", "ghp", "ghs", "npm", "gsk", "r8")),
    *((f"{of}_", LETTERS, 48) for of in ("dop_v1", "wandb_v1", "sk_live", "rk_test", "dckr_pat")),
    *((f"gl{of}-", LETTERS, 20) for of in ("pat", "rt", "dt", "ptt")),
    *((of, CAPITALS, 16) for of in ("AKIA", "ASIA")),
    *((f"{of}-", LETTERS, 40) for of in ("sk-proj", "pypi", "nvapi", "xoxb-1", "xapp-1-A0")),
    *((f"{of}.", LETTERS, 40) for of in ("ya29", "hvs", f"SG.{'a' * 22}")),
    *(("AIza", LETTERS, 35), ("AGE-SECRET-KEY-1", CAPITALS, 58)),
    *((f"https://{of}/", LETTERS, 24) for of in ("hooks.slack.com/services/T0A1/B0B2",)),
    ("https://discord.com/api/webhooks/123456789/", LETTERS, 68),
]
AMID = ("{}", "401 for {}.", "'{}', which", "x={}&y=1", 'key "{}"', "[{}]", "two: {},{}", "`{}`:")


@pytest.mark.parametrize(("begin", "letters", "length"), FORMS, ids=[form[0] for form in FORMS])
def test_a_key_is_known_by_its_form_wherever_it_stands(begin, letters, length):
    luck = random.Random(begin)
    for amid in AMID:
        for _ in range(20):
            key = "".join(luck.choices(letters, k=length))
            said = f"OSError: {amid.format(*[begin + key] * 2)}"
            for hiding in (redaction.in_words, redaction.in_clusters_words):
                told = hiding(said)
                assert key not in told, said
                assert hiding(told) == told


def test_no_way_of_writing_a_secret_tells_it():
    leaks = []
    for written in WRITTEN:
        (said,) = written.values
        for hiding in (redaction.in_words, redaction.in_clusters_words):
            of_cluster = hiding is redaction.in_clusters_words
            if of_cluster and _may_be_a_name(written.id):
                continue
            told = hiding(f"ValueError: {said}")
            if SECRET in told:
                leaks.append(f"{hiding.__name__}: {written.id}: {told}")
    assert not leaks, "\n".join([str(len(leaks)), *leaks[:40]])


def _may_be_a_name(title: object) -> bool:
    """Where Kubernetes says the name of a Secret, or of its key, and then what of it."""
    return str(title).startswith(("YAML", "header", "curl"))


def test_no_way_of_writing_is_hidden_further_once_it_is_hidden():
    for written in WRITTEN:
        once = redaction.in_words(str(written.values[0]))
        assert redaction.in_words(once) == once


@pytest.mark.parametrize("seed", range(10))
def test_text_around_a_secret_hides_it_no_less(seed):
    luck = random.Random(seed)
    for _ in range(200):
        texts = [luck.choice(WRITTEN).values[0] for _ in range(3)]
        said = luck.choice([" ", "\n", ", ", "; "]).join(map(str, texts))
        assert SECRET not in redaction.in_words(f"Error: {said}"), said


@pytest.mark.parametrize("before", range(4060, 4100))
def test_a_secret_at_the_end_of_what_is_told_is_known_by_what_follows(before):
    said = "x" * before + f" https://me:{SECRET}@host/m " + "y" * 9000
    assert SECRET[:3] not in ApiError(403, "Forbidden", said, None).told
    assert SECRET[:3] not in str(
        errors.ARGUMENT_FORM("f", key=said, found="", expected="", advice="")
    )
    assert SECRET[:3] not in str(calls._error(ENGINE, "/x", 500, said[before - 480 :]))
    half = diagnosis.bounded("x" * 9000).index("…")
    said = "x" * (before - 4080 + half) + f" https://me:{SECRET}@host/m " + "y\n" * 9000
    assert SECRET[:3] not in str(diagnosis.read(said))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("found undefined alias 'c4n4ry'", "found undefined alias"),
        ('found undefined tag handle "!c\'4"', "found undefined tag handle"),
        (r"found character '\t' that cannot start any token", None),
        ("expected ',' or '}', but got '<stream end>'", None),
        ("", None),
    ],
)
def test_what_a_parser_says_is_told_up_to_what_it_repeats(said, told):
    assert redaction.unquoted(said) == (said if told is None else told)
