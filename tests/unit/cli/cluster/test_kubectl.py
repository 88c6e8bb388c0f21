"""kubectl, which is asked for everything."""

import pytest
from click.testing import CliRunner

from sglang_operator.cli import main
from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why


def test_without_kubectl_it_is_said(monkeypatch):
    monkeypatch.setenv("KUBECTL", "/nonexistent/kubectl")
    outcome = CliRunner().invoke(main.cli, ["status", "-n", "rl"])
    assert outcome.exit_code == 2
    assert "install it and put it on the PATH" in outcome.output


def test_a_secret_in_a_complaint_is_not_repeated(tmp_path, monkeypatch):
    """A plugin for credentials may say anything there."""
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/sh\necho 'Unauthorized: client_secret=c4n4ryS3cret' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    with pytest.raises(ClusterError, match=r"client_secret=\*\*\*"):
        Cluster().run("get", "pods")


@pytest.mark.parametrize(
    ("complaint", "why"),
    [
        ('Error from server (Forbidden): pods is forbidden: User "a" cannot list', Why.FORBIDDEN),
        ("Error from server (NotFound): sgi not found", Why.NOT_FOUND),
        ("The connection to the server 1.2.3.4 was refused", Why.UNREACHABLE),
        ("something else", Why.OTHER),
    ],
)
def test_complaints_of_kubectl_are_sorted(tmp_path, monkeypatch, complaint, why):
    program = tmp_path / "kubectl"
    program.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    with pytest.raises(ClusterError) as caught:
        Cluster().run("get", "pods")
    assert caught.value.why is why
    assert complaint in str(caught.value)
