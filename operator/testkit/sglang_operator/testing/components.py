"""The command lines of a plane's components and the configuration files they read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sglang_operator.testing import audit, credentials, nodes
from sglang_operator.testing.ports import HOST
from sglang_operator.testing.realnode import network

STAGES = Path(__file__).parent / "stages"
ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
KWOK = "kwok"
ALL = (ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER, KWOK)
# A cluster's kubelet starts these again when they end themselves, as kube-scheduler does after an
# outage of the API server in which a pod's name came to stand for another pod on another node.
REVIVED = (CONTROLLER_MANAGER, SCHEDULER)
LEASE_SECONDS = 40  # as a kubelet's; renewed every quarter of it
# A young plane's programs would collect garbage all the while: their heaps are small, and grow.
# Memory is there; beyond the limit they collect as often as they have to.
GO = {"GOGC": "400", "GOMEMLIMIT": "2GiB"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked of the components; see ``ControlPlane``."""

    pod_cidr: str
    controller_manager_as_shipped: bool
    node_monitor_grace_seconds: float | None
    flags: Mapping[str, Sequence[str]]  # more flags, by component


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the command lines depend on."""

    options: Options
    tools: Path
    data: Path
    port: int
    secrets: credentials.Credentials
    kubeconfigs: Mapping[str, Path]  # by user
    real: bool = False  # the nodes are, and the plane has a network of its own


def go_environment() -> dict[str, str]:
    """How often programs in Go collect garbage, unless this process's environment says."""
    return {name: os.environ.get(name, value) for name, value in GO.items()}


def write_files(settings: Settings) -> None:
    """Write the configuration files that the command lines name."""
    _audit_policy(settings).write_text(to_json(audit.POLICY))
    scheduler = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        # The default of 50 requests a second would be what a test of 100 pods measures.
        "clientConnection": {
            "kubeconfig": str(settings.kubeconfigs["system:kube-scheduler"]),
            "qps": 1000,
            "burst": 2000,
        },
    }
    _scheduler_config(settings).write_text(to_json(scheduler))
    kwok = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "cidr": settings.options.pod_cidr,
            "manageAllNodes": False,
            "manageNodesWithLabelSelector": f"{nodes.MANAGED_LABEL}={nodes.MANAGED_VALUE}",
            "podPlayStageParallelism": 32,
            "nodePlayStageParallelism": 16,
            "nodeLeaseParallelism": 16,
            "podsOnNodeSyncParallelism": 4,  # 0 unless told: a restored node forgets its pods
            "nodeLeaseDurationSeconds": lease_seconds(settings.options.node_monitor_grace_seconds),
        },
    }
    _kwok_config(settings).write_text(to_json(kwok))


def to_json(value: object) -> str:
    """A configuration file's text: JSON, which is YAML too."""
    return json.dumps(value)


def lease_seconds(grace: float | None) -> int:
    """How long a node's lease lasts, in seconds, so that it is renewed well within the grace."""
    return LEASE_SECONDS if grace is None else max(1, min(LEASE_SECONDS, int(grace)))


def command(component: str, settings: Settings) -> list[str]:
    """Return the argument vector of one component."""
    argv = {
        ETCD: _etcd,
        API_SERVER: _api_server,
        CONTROLLER_MANAGER: _controller_manager,
        SCHEDULER: _scheduler,
        KWOK: _kwok,
    }[component](settings)
    return [str(settings.tools / component), *argv, *settings.options.flags.get(component, ())]


def _etcd(settings: Settings) -> list[str]:
    client, peer = _etcd_socket(settings), f"unix://{settings.data / 'etcd-peer.sock'}"
    return [
        f"--data-dir={settings.data / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def _api_server(settings: Settings) -> list[str]:
    secrets = settings.secrets
    return [
        f"--etcd-servers={_etcd_socket(settings)}",
        f"--secure-port={settings.port}",
        *_reachable(settings),
        f"--cert-dir={settings.data / 'certs'}",
        f"--tls-cert-file={secrets.server_cert}",
        f"--tls-private-key-file={secrets.server_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={secrets.account_public_key}",
        f"--service-account-signing-key-file={secrets.account_key}",
        f"--token-auth-file={secrets.token_file}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        f"--audit-policy-file={_audit_policy(settings)}",
        f"--audit-log-path={audit_log(settings.data)}",
        # Written before the request ends, and never rotated away.
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=100000",
    ]


def _reachable(settings: Settings) -> list[str]:
    """Where the API server listens, and whom it lets in by what."""
    if not settings.real:
        return [
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            "--authorization-mode=RBAC",
            # No endpoints for the "kubernetes" Service: a loopback address is refused there.
            "--endpoint-reconciler-type=none",
        ]
    secrets = settings.secrets
    return [
        "--bind-address=0.0.0.0",  # of a network that has no way out
        f"--advertise-address={network.CONTROL_PLANE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={secrets.ca}",
        f"--kubelet-client-certificate={secrets.kubelet_client_cert}",
        f"--kubelet-client-key={secrets.kubelet_client_key}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _controller_manager(settings: Settings) -> list[str]:
    argv = [
        f"--kubeconfig={settings.kubeconfigs['system:kube-controller-manager']}",
        "--leader-elect=false",
        f"--service-account-private-key-file={settings.secrets.account_key}",
        "--use-service-account-credentials=true",
        f"--root-ca-file={settings.secrets.ca}",
        "--secure-port=0",
    ]
    if not settings.options.controller_manager_as_shipped:
        # At the default of 20 requests a second garbage collection dominates every teardown.
        argv += ["--kube-api-qps=300", "--kube-api-burst=600"]
    grace = settings.options.node_monitor_grace_seconds
    if grace is not None:
        argv += [
            f"--node-monitor-grace-period={grace:g}s",
            f"--node-monitor-period={min(5.0, grace / 5):g}s",
            "--node-eviction-rate=100",
        ]
    return argv


def _scheduler(settings: Settings) -> list[str]:
    return [f"--config={_scheduler_config(settings)}", "--secure-port=0"]


def _kwok(settings: Settings) -> list[str]:
    return [
        f"--kubeconfig={settings.kubeconfigs['kwok']}",
        f"--config={_kwok_config(settings)}",
        f"--config={STAGES / 'node.yaml'}",
        f"--config={STAGES / 'pod.yaml'}",
        "--manage-all-nodes=false",
    ]


def url(settings: Settings) -> str:
    """The API server's address."""
    return f"https://{HOST}:{settings.port}"


def audit_log(data: Path) -> Path:
    """Where the API server writes its audit events."""
    return data / "logs" / "audit.jsonl"


def _etcd_socket(settings: Settings) -> str:
    # Not a port: one lost to another plane would have this API server write into that one's etcd.
    return f"unix://{settings.data / 'etcd.sock'}"


def _audit_policy(settings: Settings) -> Path:
    return settings.data / "audit-policy.json"


def _scheduler_config(settings: Settings) -> Path:
    return settings.data / "scheduler.json"


def _kwok_config(settings: Settings) -> Path:
    return settings.data / "kwok.json"
