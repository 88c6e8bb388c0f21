"""Certificates, tokens and kubeconfig files."""

import json
import ssl
import stat

import pytest

from sglang_operator.testing import credentials, errors


@pytest.fixture
def made(tmp_path):
    return credentials.create(tmp_path / "secrets")


def shake_hands(client, server):
    """Let two ends of TLS talk in memory until both are content."""
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def handshake(made, *, name, ca):
    client_in, server_in = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = ssl.create_default_context(cafile=str(ca))
    # What Python 3.13 and later do by default.
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(made.server_cert, made.server_key)
    client = ours.wrap_bio(client_in, server_in, server_hostname=name)
    server = theirs.wrap_bio(server_in, client_in, server_side=True)
    shake_hands(client, server)
    return client


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "10.96.0.1", "kubernetes.default.svc"])
def test_the_server_is_known_by_the_authority_under_each_of_its_names(made, name):
    assert handshake(made, name=name, ca=made.ca).cipher()


def test_the_server_is_not_known_under_another_name(made):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, name="127.0.0.2", ca=made.ca)


def test_another_planes_authority_does_not_know_the_server(made, tmp_path):
    other = credentials.create(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, name="127.0.0.1", ca=other.ca)


def test_tokens_differ_between_users_and_planes(made, tmp_path):
    other = credentials.create(tmp_path / "other")
    tokens = [*made.tokens.values(), *other.tokens.values()]
    assert len(set(tokens)) == 2 * len(credentials.USERS)


def test_the_token_file_quotes_groups_and_leaves_out_none():
    lines = credentials.token_lines({"admin": "t1", "system:kube-scheduler": "t2"})
    assert lines == (
        't1,admin,admin,"system:masters"\nt2,system:kube-scheduler,system:kube-scheduler\n'
    )


def test_only_those_who_stand_in_for_people_and_kubelets_may_do_everything():
    masters = {user for user, groups in credentials.USERS.items() if "system:masters" in groups}
    assert masters == {"admin", "kwok"}


def test_secrets_are_their_owners_alone(made, tmp_path):
    assert stat.S_IMODE(made.ca.parent.stat().st_mode) == 0o700
    path = kubeconfig(made, tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def kubeconfig(made, tmp_path):
    return credentials.write_kubeconfig(
        tmp_path / "config", url="https://127.0.0.1:1", ca=made.ca, token="t", namespace="ns"
    )


def test_a_kubeconfig_verifies_the_server_and_names_the_namespace(made, tmp_path):
    path = kubeconfig(made, tmp_path)
    config = json.loads(path.read_text())
    assert "insecure" not in path.read_text()
    assert config["clusters"][0]["cluster"]["certificate-authority-data"]
    assert config["contexts"][0]["context"]["namespace"] == "ns"
    assert credentials.read_token(path) == "t"


def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path):
    (tmp_path / "x").write_text("{}")
    with pytest.raises(errors.KitError, match="no kubeconfig of this kit"):
        credentials.read_token(tmp_path / "x")
