"""The components' command lines."""

import json
from pathlib import Path

import pytest

from sglang_operator.testing import components, credentials


@pytest.fixture
def settings(tmp_path):
    def settings(**changes):
        options = components.Options(
            **{
                "pod_cidr": "10.240.0.0/16",
                "controller_manager_as_shipped": False,
                "node_monitor_grace_seconds": None,
                "flags": {},
                **changes,
            }
        )
        secrets = tmp_path / "secrets"
        return components.Settings(
            options=options,
            tools=Path("tools"),
            data=tmp_path,
            port=20001,
            secrets=credentials.Credentials(
                ca=secrets / "ca.crt",
                ca_key=secrets / "ca.key",
                kubelet_client_cert=secrets / "kubelet-client.crt",
                kubelet_client_key=secrets / "kubelet-client.key",
                server_cert=secrets / "server.crt",
                server_key=secrets / "server.key",
                account_key=secrets / "sa.key",
                account_public_key=secrets / "sa.pub",
                token_file=secrets / "tokens.csv",
                tokens={},
            ),
            kubeconfigs={user: tmp_path / f"{user}.kubeconfig" for user in credentials.USERS},
        )

    return settings


def test_etcd_is_reached_by_a_socket_in_the_planes_own_folder(settings, tmp_path):
    address = f"unix://{tmp_path}/etcd.sock"
    assert f"--listen-client-urls={address}" in components.command("etcd", settings())
    assert f"--etcd-servers={address}" in components.command("kube-apiserver", settings())


def test_only_the_api_server_listens_on_a_port_and_only_on_loopback(settings):
    api = components.command("kube-apiserver", settings())
    assert "--bind-address=127.0.0.1" in api
    assert "--secure-port=20001" in api
    for name in ("kube-controller-manager", "kube-scheduler"):
        assert "--secure-port=0" in components.command(name, settings())
    assert "http" not in " ".join(components.command("etcd", settings()))


def test_rights_are_checked_and_controllers_have_their_own(settings):
    assert "--authorization-mode=RBAC" in components.command("kube-apiserver", settings())
    manager = components.command("kube-controller-manager", settings())
    assert "--use-service-account-credentials=true" in manager


def test_the_controller_manager_is_fast_unless_wanted_as_shipped(settings):
    fast = components.command("kube-controller-manager", settings())
    shipped = components.command(
        "kube-controller-manager", settings(controller_manager_as_shipped=True)
    )
    assert {"--kube-api-qps=300", "--kube-api-burst=600"} == set(fast) - set(shipped)


def test_the_grace_of_silent_nodes_is_left_alone_unless_given(settings):
    argv = components.command("kube-controller-manager", settings())
    assert "node-monitor" not in " ".join(argv)
    argv = components.command("kube-controller-manager", settings(node_monitor_grace_seconds=3))
    assert "--node-monitor-grace-period=3s" in argv
    assert "--node-monitor-period=0.6s" in argv


@pytest.mark.parametrize(
    ("grace", "lease"), [(None, 40), (60, 40), (40, 40), (3, 3), (3.9, 3), (0.5, 1)]
)
def test_a_lease_is_renewed_within_the_grace(grace, lease):
    assert components.lease_seconds(grace) == lease


def test_own_flags_come_last_so_that_they_win(settings):
    flags = {"kube-apiserver": ["--v=4", "--secure-port=1"]}
    argv = components.command("kube-apiserver", settings(flags=flags))
    assert argv[-2:] == ["--v=4", "--secure-port=1"]


def test_every_component_has_a_command_line(settings):
    for name in components.ALL:
        assert components.command(name, settings())[0] == f"tools/{name}"


def test_the_files_that_command_lines_name_are_written(settings, tmp_path):
    components.write_files(settings(pod_cidr="127.32.0.0/16", node_monitor_grace_seconds=4))
    options = json.loads((tmp_path / "kwok.json").read_text())["options"]
    assert options["cidr"] == "127.32.0.0/16"
    assert options["nodeLeaseDurationSeconds"] == 4
    assert options["podsOnNodeSyncParallelism"] > 0
    assert "RequestReceived" in (tmp_path / "audit-policy.json").read_text()
    scheduler = json.loads((tmp_path / "scheduler.json").read_text())
    assert scheduler["clientConnection"]["kubeconfig"].endswith("kube-scheduler.kubeconfig")


def test_components_collect_garbage_seldom_unless_this_process_was_told_otherwise(monkeypatch):
    monkeypatch.delenv("GOMEMLIMIT", raising=False)
    monkeypatch.setenv("GOGC", "50")
    assert components.go_environment() == {**components.GO, "GOGC": "50"}
    monkeypatch.delenv("GOGC")
    assert components.go_environment() == components.GO
