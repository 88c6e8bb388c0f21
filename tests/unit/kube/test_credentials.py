"""Finding the API server: a ServiceAccount, or kubeconfigs, for the operator and for trainers."""

import base64
import json
import logging
import ssl
import stat
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest

from sglang_operator import clocks
from sglang_operator.client import ClusterError
from sglang_operator.client import credentials as clients
from sglang_operator.kube import credentials
from sglang_operator.kube.credentials import KubeconfigError, NoClusterError
from sglang_operator.testing import credentials as kit


@pytest.fixture
def made(tmp_path):
    """A certificate authority, and a certificate with its key."""
    return kit.create(tmp_path / "kit")


def kubeconfig(tmp_path, user, cluster=None, **context):
    config = {
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", **context}},
            {"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "far"}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "http://127.0.0.1:1/", **(cluster or {})}}
        ],
        "users": [{"name": "u", "user": user}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def test_a_token_in_a_kubeconfig(tmp_path):
    found = credentials.load(kubeconfig(tmp_path, {"token": "abc"}, namespace="rl"))
    assert (found.server, found.namespace) == ("http://127.0.0.1:1", "rl")
    assert found.authorization() == "Bearer abc"
    assert credentials.load(tmp_path / "config", "there").namespace == "far"


def test_kubeconfig_is_found_in_the_environment(tmp_path, monkeypatch):
    path = kubeconfig(tmp_path, {"username": "me", "password": "it"})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/nowhere:{path}")
    found = credentials.load()
    assert found.namespace == "default"
    assert found.authorization() == f"Basic {base64.b64encode(b'me:it').decode()}"


@pytest.mark.parametrize("command", ["bin/get-token", "./bin/get-token", "../home/bin/get-token"])
def test_a_plugin_with_a_path_is_the_one_beside_the_kubeconfig(tmp_path, monkeypatch, command):
    answer = '{"kind": "ExecCredential", "status": {"token": "%s"}}'
    for folder in ("home", "here"):
        program = tmp_path / folder / "bin" / "get-token"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho '{answer % folder}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = kubeconfig(tmp_path / "home", {"exec": {"command": command}})
    monkeypatch.chdir(tmp_path / "here")
    assert credentials.load(path).authorization() == "Bearer home"
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("KUBECONFIG", "config")
    assert credentials.load().authorization() == "Bearer home"


@pytest.mark.parametrize("written", ["false", "true", "", 0, 1])
def test_what_switches_verification_off_is_a_boolean(tmp_path, written):
    path = kubeconfig(tmp_path, {}, {"insecure-skip-tls-verify": written})
    with pytest.raises(KubeconfigError, match="insecure-skip-tls-verify is no boolean; expected"):
        credentials.load(path)


def test_no_cluster_is_said_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NoClusterError, match=r"not inside a pod .* there is no .*/config$"):
        credentials.load()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(NoClusterError, match=r"there is no .*nowhere, which is named as"):
        credentials.load()
    with pytest.raises(ClusterError, match=r"nowhere, which is named .*; give kubeconfig="):
        clients.load()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "while parsing"),
        ("current-context: x", "it has no 'x' among its contexts"),
        ("a: 1", "no 'current-context'"),
        ("- 1", "found a list where a mapping is expected"),
    ],
)
def test_a_broken_kubeconfig_is_said_in_words(tmp_path, text, words):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeconfigError, match=words) as caught:
        credentials.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ClusterError, match=words):
        clients.load(path)


def test_a_plugin_is_asked_once_until_its_token_ends(tmp_path):
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib\n"
        "log = pathlib.Path(os.environ['LOG'])\n"
        "log.write_text(log.read_text() + 'x')\n"
        "about = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "ends = '2999-01-01T00:00:00Z' if len(log.read_text()) > 1 else '2000-01-01T00:00:00Z'\n"
        "status = {'token': about['kind'], 'expirationTimestamp': ends}\n"
        "print(json.dumps({'status': status}))\n"
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    log = tmp_path / "log"
    log.write_text("")
    entry = {"command": str(plugin), "env": [{"name": "LOG", "value": str(log)}]}
    found = credentials.load(kubeconfig(tmp_path, {"exec": entry}))
    assert [found.authorization() for _ in range(3)] == ["Bearer ExecCredential"] * 3
    assert log.read_text() == "xx"


def test_a_token_of_a_plugin_lasts_no_longer_when_the_wall_clock_is_put_back(tmp_path, monkeypatch):
    entry: dict[str, Any] = {"command": "sh", "args": ["-c", 'echo x >>"$LOG"; echo "$STATUS"']}
    ends = datetime.fromtimestamp(time.time() + 3600, UTC).isoformat()
    status = json.dumps({"status": {"token": "t", "expirationTimestamp": ends}})
    log = tmp_path / "log"
    env = {"LOG": str(log), "STATUS": status}
    entry["env"] = [{"name": name, "value": value} for name, value in env.items()]
    found = credentials.load(kubeconfig(tmp_path, {"exec": entry}))
    now, right = clocks.steady(), time.time()
    assert found.authorization() == found.authorization() == "Bearer t"
    assert log.read_text() == "x\n"
    monkeypatch.setattr(time, "time", lambda: right - 3600)
    monkeypatch.setattr(credentials, "steady", lambda: now + 3600)
    assert found.authorization() == "Bearer t"
    assert log.read_text() == "x\nx\n"


def test_a_plugin_that_fails_is_said_in_words(tmp_path):
    entry = {"command": "sh", "args": ["-c", "echo no login >&2; exit 1"]}
    found = credentials.load(kubeconfig(tmp_path, {"exec": entry}))
    with pytest.raises(OSError, match=r"credential plugin sh of .* failed: no login"):
        found.authorization()


def test_a_client_certificate_and_an_authority_are_loaded(tmp_path, made):
    encoded = {
        "client-certificate-data": base64.b64encode(made.server_cert.read_bytes()).decode(),
        "client-key-data": base64.b64encode(made.server_key.read_bytes()).decode(),
    }
    (tmp_path / "ca.crt").write_bytes(made.ca.read_bytes())
    path = kubeconfig(
        tmp_path, encoded, {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"}
    )
    tls = credentials.load(path).tls
    assert tls is not None and len(tls().get_ca_certs()) == 1
    other = kit.create(tmp_path / "other")
    (tmp_path / "ca.crt").write_bytes(other.ca.read_bytes())
    before, after = (ssl.PEM_cert_to_DER_cert(each.ca.read_text()) for each in (made, other))
    assert tls().get_ca_certs(binary_form=True) == [after] != [before]  # as it is now
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(KubeconfigError, match=r"authority ca\.crt cannot be read: No such file"):
        credentials.load(path)


def test_the_service_account_of_a_pod(tmp_path, monkeypatch, made):
    (tmp_path / "ca.crt").write_bytes(made.ca.read_bytes())
    (tmp_path / "namespace").write_text("rl\n")
    (tmp_path / "token").write_text("first")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path)
    found = credentials.load()
    assert (found.server, found.namespace) == ("https://[fd00::1]:6443", "rl")
    assert found.authorization() == "Bearer first"
    (tmp_path / "token").write_text("second")
    assert found.authorization() == "Bearer first"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * credentials.TOKEN_SECONDS)
    assert found.authorization() == "Bearer second"


@pytest.fixture
def in_a_pod(tmp_path, monkeypatch, made):
    account = tmp_path / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(made.ca.read_bytes())
    (account / "token").write_text("of the pod")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", account)


def test_a_kubeconfig_that_the_environment_names_counts_in_a_pod_too(
    tmp_path, monkeypatch, in_a_pod
):
    """A trainer's pool may be in another cluster: kubectl in that pod goes by it as well."""
    path = kubeconfig(tmp_path, {"token": "of another"})
    monkeypatch.setenv("KUBECONFIG", f":{path}")
    assert credentials.load().authorization() == "Bearer of another"
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/nowhere")
    with pytest.raises(NoClusterError, match="nowhere"):  # rather than in the wrong cluster
        credentials.load()


@pytest.mark.parametrize("empty", [None, "", ":"])
def test_a_kubeconfig_at_home_does_not_count_in_a_pod(tmp_path, monkeypatch, in_a_pod, empty):
    """As controller-runtime has it: homes are shared between machines."""
    home = tmp_path / ".kube"
    home.mkdir()
    kubeconfig(home, {"token": "of somebody"})
    monkeypatch.delenv("KUBECONFIG", raising=False)
    if empty is not None:
        monkeypatch.setenv("KUBECONFIG", empty)
    assert credentials.load().authorization() == "Bearer of the pod"


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A token's file that is read at each request, and the header of it."""
    monkeypatch.setattr(credentials, "TOKEN_SECONDS", -1.0)
    path = tmp_path / "token"
    path.write_text("first\n")
    return path, credentials.load(kubeconfig(tmp_path, {"tokenFile": "token"})).authorization


def test_a_token_that_cannot_be_read_for_a_moment_is_the_last_one(token, caplog):
    path, header = token
    assert header() == "Bearer first"
    for spoil in (path.unlink, lambda: path.write_text("\n"), lambda: path.write_bytes(b"\xff")):
        spoil()
        with caplog.at_level(logging.WARNING):
            assert header() == "Bearer first"
    assert caplog.text.count("credentials cannot be read: OSError; the last ones") == 1
    assert caplog.text.count("credentials cannot be read: UnicodeDecodeError; the last") == 1
    path.write_text("second")
    assert header() == "Bearer second"


@pytest.mark.parametrize("content", [None, "\n"])
def test_a_token_that_never_could_be_read_is_an_error_of_the_connection(token, content):
    path, header = token
    path.unlink()
    if content is not None:
        path.write_text(content)
    for _ in range(2):
        with pytest.raises(OSError, match="token"):
            header()


def test_a_plugin_that_fails_for_a_moment_leaves_its_last_token(tmp_path, caplog):
    past = '{"status": {"token": "t", "expirationTimestamp": "2000-01-01T00:00:00Z"}}'
    once = f"[ -e {tmp_path}/asked ] && exit 1; touch {tmp_path}/asked; echo '{past}'"
    header = credentials.load(
        kubeconfig(tmp_path, {"exec": {"command": "sh", "args": ["-c", once]}})
    ).authorization
    assert [header() for _ in range(2)] == ["Bearer t"] * 2
    assert "credentials cannot be read: PluginError; the last ones are used on" in caplog.text


def test_several_kubeconfigs_are_one_and_the_first_counts(tmp_path, monkeypatch):
    """What is beside the file that names it is found from any folder."""
    files = {
        "a/config": {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]},
        "b/config": {
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": "http://b"}}],
            "users": [{"name": "u", "user": {"tokenFile": "token"}}],
        },
        "c/config": {
            "current-context": "y",
            "contexts": [{"name": "y", "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": "http://c"}}],
        },
    }
    for name, config in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(config))
    (tmp_path / "b" / "token").write_text("of b")
    monkeypatch.setenv("KUBECONFIG", ":".join(str(tmp_path / name) for name in files))
    found = credentials.load()
    assert (found.server, found.authorization()) == ("http://b", "Bearer of b")
    assert credentials.load(context="y").server == "http://b"
    assert credentials.load(context="y").authorization() is None


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({"as": "somebody-else"}, {}),
        ({"as-groups": ["admins"]}, {}),
        ({"auth-provider": {"name": "gcp"}}, {}),
    ],
)
def test_what_would_be_ignored_is_refused_in_words(tmp_path, user, cluster):
    """Else requests go another way, or as somebody else, than the file says."""
    path = kubeconfig(tmp_path, {"token": "t", **user}, cluster)
    (key,) = {**user, **cluster}
    with pytest.raises(KubeconfigError, match=f"it has {key}, which is not followed here"):
        credentials.load(path)


def test_the_proxy_is_that_of_the_kubeconfig(tmp_path):
    cluster = {"server": "https://10.0.0.1:6443", "proxy-url": "http://me:secret@proxy:3128"}
    found = credentials.load(kubeconfig(tmp_path, {"token": "t"}, cluster))
    assert found.proxy == "http://me:secret@proxy:3128"
    assert "secret" not in repr(found)
    assert credentials.load(kubeconfig(tmp_path, {"token": "t"})).proxy is None


@pytest.mark.parametrize(
    ("proxy", "has"),
    [
        ("socks5://me:secret@proxy:1080", "socks5"),
        ("https://me:secret@proxy:3128", "https"),
        ("proxy:3128", "no scheme"),
        ("http://proxy", "http"),
        ("http://proxy:many", "http"),
        ("http://:3128", "http"),
        ("http://[::1:3128", "http"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_in_words(tmp_path, proxy, has):
    path = kubeconfig(tmp_path, {"token": "t"}, {"proxy-url": proxy})
    with pytest.raises(
        KubeconfigError, match=rf"its proxy-url has {has}; expected http://"
    ) as told:
        credentials.load(path)
    assert "secret" not in str(told.value)


def test_the_name_in_a_certificate_is_that_of_the_kubeconfig(tmp_path):
    cluster = {"server": "https://10.0.0.1:6443", "tls-server-name": "kubernetes.example.com"}
    found = credentials.load(kubeconfig(tmp_path, {"token": "t"}, cluster))
    assert found.tls_server_name == "kubernetes.example.com"
    assert credentials.load(kubeconfig(tmp_path, {"token": "t"})).tls_server_name is None


def test_a_server_without_a_scheme_is_said_in_words(tmp_path):
    path = kubeconfig(tmp_path, {"token": "t"}, {"server": "10.0.0.1:6443"})
    with pytest.raises(KubeconfigError, match="no https:// or http:// before it"):
        credentials.load(path)


def test_a_plugin_that_gives_a_certificate_is_said_in_words(tmp_path):
    status = json.dumps({"status": {"clientCertificateData": "x", "clientKeyData": "y"}})
    entry = {"command": "echo", "args": [status]}
    found = credentials.load(kubeconfig(tmp_path, {"exec": entry}))
    with pytest.raises(OSError, match="gives a client certificate; expected a token"):
        found.authorization()


# --- what a kubeconfig holds is told to nobody, whatever is wrong with it

SECRET = "c4n4ryS3cret"
KUBECONFIG = """current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "http://x"}}]
users:
- name: u
  user:
    %s
"""


def told(error: BaseException) -> str:
    """What people see of it: its message, and with a traceback what it came of."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (f"token: {SECRET}: x", "line 7, column 24: mapping values are not allowed here"),
        (f"token: '{SECRET}", "line 8, column 1: while scanning a quoted scalar, found"),
        (f"password: %{SECRET}", "found character '%' that cannot start any token"),
        (f"token: `{SECRET}`", "found character '`' that cannot start any token"),
        (f"token: {{{SECRET}", "expected ',' or '}', but got '<stream end>'"),
        (f"token: *{SECRET}", "found undefined alias"),
        (f"token: &{SECRET} &b", "but found '<anchor>'"),
        (f"token: !{SECRET} a", "could not determine a constructor for the tag"),
        (f"token: !!int {SECRET}", "a value in it is no YAML"),
        (f"token: !!bool {SECRET}", "a value in it is no YAML"),
        (f"token: !!timestamp {SECRET}", "a value in it is no YAML"),
    ],
)
def test_a_slip_in_a_kubeconfig_is_told_without_its_line(tmp_path, written, words):
    path = tmp_path / "config"
    path.write_text(KUBECONFIG % written)
    with pytest.raises(KubeconfigError) as raised:
        credentials.load(path)
    assert words in str(raised.value)
    assert SECRET not in told(raised.value)


@pytest.mark.parametrize(
    "server",
    [
        f"me:{SECRET}@10.0.0.1:6443",
        f"https://me:{SECRET}@10.0.0.1:many",
        f"https://me:{SECRET}/@10.0.0.1",
        f"https://me:{SECRET}@[::1",
        f"https://me:{SECRET}@\u2100.example.com",  # a host that is another once normalized
        f"https://me:{SECRET}@10.0.0.1:6443",  # and nothing else says who asks
    ],
)
def test_a_server_that_cannot_be_used_is_told_without_its_password(tmp_path, server):
    with pytest.raises(KubeconfigError, match="its server") as raised:
        credentials.load(kubeconfig(tmp_path, {}, {"server": server}))
    assert SECRET not in told(raised.value)


def test_of_a_servers_address_nothing_is_kept_but_where_it_is(tmp_path):
    server = f"https://me:{SECRET}@10.0.0.1:6443/k8s/?token={SECRET}"
    cluster = {"server": server, "insecure-skip-tls-verify": True}
    found = credentials.load(kubeconfig(tmp_path, {"token": "t"}, cluster))
    assert found.server == "https://10.0.0.1:6443/k8s"
    assert SECRET not in repr(found)


PLUGIN = {"command": "sh", "args": ["-c", "exit 3", "--token=" + SECRET]}


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"exec": PLUGIN}, "the credential plugin sh .* ended with status 3 and said nothing"),
        (
            {"exec": {**PLUGIN, "args": ["-c", "sleep 9", "--client-secret", SECRET]}},
            "it timed out after 0.2 seconds",
        ),
        (
            {"exec": {**PLUGIN, "args": ["-c", "echo $0 $1 >&2; exit 1", "--password", SECRET]}},
            r"failed: --password \*\*\*",
        ),
        (
            {
                "exec": {
                    "command": "sh",
                    "args": ["-c", "echo wrong: $OIDC_SECRET >&2; exit 1"],
                    "env": [{"name": "OIDC_SECRET", "value": SECRET}],
                }
            },
            r"failed: wrong: \*\*\*",
        ),
        ({"exec": {"command": f"get-token --secret={SECRET}"}}, "plugin get-token .*No such file"),
        ({"exec": {"command": f"SECRET={SECRET} get-token"}}, r"plugin SECRET=\*\*\* .*No such"),
        ({"exec": {"command": "echo", "args": [SECRET]}}, "its answer is no ExecCredential"),
        ({"exec": {"command": "echo", "args": [json.dumps({"status": SECRET})]}}, "its answer is"),
        ({"tokenFile": SECRET}, "the tokenFile of .*/config cannot be read: No such file"),
    ],
)
def test_what_gives_no_token_is_told_without_what_it_was_given(tmp_path, monkeypatch, user, words):
    monkeypatch.setattr(credentials, "EXEC_SECONDS", 0.2)
    header = credentials.load(kubeconfig(tmp_path, user)).authorization
    with pytest.raises(OSError, match=words) as raised:
        header()
    assert SECRET not in told(raised.value)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"tokenFile": {"x": SECRET}}, "tokenFile is a dict; expected text"),
        ({"token": [SECRET]}, "token is a list; expected text"),
        ({"username": "me", "password": {"x": SECRET}}, "password is a dict; expected text"),
        ({"exec": SECRET}, "exec is a str; expected a mapping"),
        ({"exec": {"args": [SECRET]}}, "no 'command'"),
        ({"exec": {"command": "x", "args": f"--token {SECRET}"}}, "args of exec is a str"),
        ({"exec": {"command": "x", "args": [{"token": SECRET}]}}, "args of exec has a value"),
        ({"exec": {"command": "x", "env": {"TOKEN": SECRET}}}, "env of exec is a dict"),
        ({"exec": {"command": "x", "env": [f"TOKEN={SECRET}"]}}, "env of exec has a str"),
        ({"exec": {"command": "x", "env": [{"name": "T", "value": {"x": SECRET}}]}}, "env of exec"),
        ([SECRET], "'list' object has no attribute"),
    ],
)
def test_credentials_of_another_kind_are_told_at_once_and_in_words(tmp_path, user, words):
    with pytest.raises(KubeconfigError, match=words) as raised:
        credentials.load(kubeconfig(tmp_path, user))
    assert SECRET not in told(raised.value)


@pytest.mark.parametrize("key", ["client-key", "client-certificate"])
def test_a_key_that_stands_where_its_file_is_to_be_named_is_not_told(tmp_path, key):
    written = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
    user = {"client-key": written, "client-certificate": "config", key: written}
    cluster = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}
    path = kubeconfig(tmp_path, user, cluster)
    with pytest.raises(KubeconfigError, match=rf"{key}.* cannot be read") as raised:
        credentials.load(path)
    assert SECRET not in told(raised.value)
