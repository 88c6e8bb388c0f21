"""Credentials that the official client reads, as they come and go."""

import json
import logging

import pytest
from kubernetes import client
from kubernetes.config import incluster_config

from sglang_operator.cluster import connection


@pytest.fixture
def credentials(monkeypatch):
    """A configuration whose hook is the test's, asked anew each time."""
    monkeypatch.setattr(connection, "AUTHORIZATION_SECONDS", -1.0)
    configuration = client.Configuration()
    configuration.api_key = {"authorization": "Bearer first"}
    return configuration


def raising(error: Exception):
    def hook(_: object) -> None:
        raise error

    return hook


@pytest.mark.parametrize("error", [FileNotFoundError("token"), ValueError("of first: s3cret")])
def test_credentials_that_cannot_be_read_for_a_moment_are_the_last_ones(credentials, error, caplog):
    found = connection.Connection(credentials)
    assert found.authorization() == "Bearer first"
    credentials.refresh_api_key_hook = raising(error)
    with caplog.at_level(logging.WARNING):
        assert found.authorization() == "Bearer first"
    assert f"credentials cannot be read: {type(error).__name__}" in caplog.text
    assert "s3cret" not in caplog.text
    credentials.refresh_api_key_hook = None
    credentials.api_key = {"authorization": "Bearer second\n"}
    assert found.authorization() == "Bearer second"


def test_credentials_that_never_could_be_read_are_an_error_of_the_connection(credentials):
    credentials.refresh_api_key_hook = raising(ValueError("empty"))
    found = connection.Connection(credentials)
    for _ in range(2):
        with pytest.raises(OSError, match="credentials cannot be read: ValueError"):
            found.authorization()


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts:
- {{name: c, context: {{cluster: k, user: u}}}}
- {{name: plain, context: {{cluster: plain, user: plain}}}}
clusters:
- {{name: k, cluster: {{server: "https://10.0.0.1:6443"{cluster}}}}}
- {{name: plain, cluster: {{server: "https://10.0.0.2:6443"}}}}
users:
- {{name: u, user: {{token: t{user}}}}}
- {{name: plain, user: {{token: t}}}}
"""


def kubeconfig(folder, *, cluster="", user=""):
    path = folder / "config"
    path.write_text(KUBECONFIG.format(cluster=cluster, user=user))
    return path


def test_the_name_of_the_certificate_is_taken_from_the_kubeconfig(tmp_path):
    path = kubeconfig(tmp_path, cluster=", tls-server-name: kubernetes.example.com")
    assert connection.load(path).tls_name == "kubernetes.example.com"
    assert connection.load(path, "plain").tls_name is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cluster": ', proxy-url: "http://proxy:3128"'}, "cluster k has proxy-url"),
        ({"user": ", as: somebody-else"}, "user u has as,"),
        ({"user": ", as-groups: [admins]"}, "user u has as-groups"),
    ],
)
def test_what_would_be_ignored_is_refused_in_words(tmp_path, given, words):
    path = kubeconfig(tmp_path, **given)
    with pytest.raises(connection.NoClusterError, match=words):
        connection.load(path)
    assert connection.load(path, "plain").server == "https://10.0.0.2:6443"


@pytest.mark.parametrize("written", ["false", "true", 1])
def test_what_switches_verification_off_is_a_boolean(tmp_path, written):
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [
            {
                "name": "k",
                "cluster": {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": written},
            }
        ],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    with pytest.raises(connection.NoClusterError, match="insecure-skip-tls-verify of cluster k is"):
        connection.load(path)


def test_a_token_that_was_renewed_in_the_pod_is_used_whatever_the_wall_clock_says(
    monkeypatch, tmp_path
):
    """The official client reads it again by the wall clock, which may be put back by an hour."""
    monkeypatch.setattr(connection, "AUTHORIZATION_SECONDS", -1.0)
    for name, content in (("token", "first"), ("ca.crt", "certificate")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = connection.load()
    assert found.authorization() == "bearer first"
    (tmp_path / "token").write_text("second")
    assert found.authorization() == "bearer second"
    (tmp_path / "token").unlink()
    assert found.authorization() == "bearer second"
