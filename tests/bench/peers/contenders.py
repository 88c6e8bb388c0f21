"""The peers as contenders: installed from their own manifests, with the flags they ship."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.errors import ApiError
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.ports import HOST, free
from tests.bench.contenders import GROUPED, LABELS, NAME, Contender, bodies
from tests.bench.peers import builds

ACCOUNT = ("peers", "operator")
READY_SECONDS = 120.0
Json = dict[str, Any]


class PeerOperator(Contender):
    """A peer's operator on a plane of its own.  ``install`` starts it."""

    peer: builds.Peer
    manifests: str  # the folder that its own kustomization is in

    def __init__(self, plane: ControlPlane) -> None:
        self.name = self.peer.name
        self._plane = plane
        self._ports = {use: free() for use in ("webhook", "metrics", "probe")}
        self._namespace = f"{self.name}-system"
        self._certificates = plane.data / f"{self.name}-certificates"

    # --- what differs from peer to peer

    def object(self, namespace: str, size: int) -> tuple[str, Json]:
        """Where the object is posted that asks for so many pods, and the object."""
        raise NotImplementedError

    def arguments(self) -> list[str]:
        """The flags as shipped; only addresses are those of this machine."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def template(self, **spec: Any) -> Json:
        """The same pod as everybody's."""
        return {
            "metadata": {"labels": LABELS},
            "spec": bodies("", 1)[0]["spec"] | {"restartPolicy": "Always"} | spec,
        }

    # --- the contender

    async def install(self, client: ApiClient) -> None:
        """Definitions, webhooks and the process; returns when it takes an object."""
        built = builds.build(self.peer)
        self._plane.namespace(self._namespace)
        documents = list(self._documents(built.source))
        for document in documents:
            if document["kind"] == "CustomResourceDefinition":
                document["spec"].pop("conversion", None)  # there is one version of each
                await client.request("POST", _DEFINITIONS, body=orjson.dumps(document))
        self._copy_certificates()
        kubeconfig = self._plane.service_account_kubeconfig(*ACCOUNT, create=True)
        account = "system:serviceaccount:" + ":".join(ACCOUNT)
        self._plane.kubectl(
            "create",
            "clusterrolebinding",
            "peers",
            "--clusterrole=cluster-admin",
            f"--user={account}",
        )
        environ = {"KUBECONFIG": str(kubeconfig), **self.environment()}
        self._plane.spawn(self.name, [str(built.program), *self.arguments()], environ)
        for document in documents:
            if document["kind"].endswith("WebhookConfiguration"):
                await self._post_webhooks(client, document)
        await self._accepted(client)

    def _documents(self, source: Path) -> Iterator[Json]:
        """What its own kustomization renders: its patches decide which pods the webhooks see."""
        rendered = self._plane.kubectl("kustomize", str(source / self.manifests)).stdout
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        yield from (document for document in yaml.load_all(rendered, Loader=loader) if document)

    def _copy_certificates(self) -> None:
        """The plane's serving certificate is good for everything on this address."""
        self._certificates.mkdir()
        for kind in ("crt", "key"):
            source = self._plane.data / "secrets" / f"server.{kind}"
            shutil.copyfile(source, self._certificates / f"tls.{kind}")

    async def _post_webhooks(self, client: ApiClient, document: Json) -> None:
        """Reached by address instead of by Service, for there is no network here."""
        authority = base64.b64encode(self._plane.ca_file.read_bytes()).decode()
        for webhook in document["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            url = f"https://{HOST}:{self._ports['webhook']}{path}"
            webhook["clientConfig"] = {"caBundle": authority, "url": url}
        plural = document["kind"].lower() + "s"
        path = f"/apis/admissionregistration.k8s.io/v1/{plural}"
        await client.request("POST", path, body=orjson.dumps(document))

    async def _accepted(self, client: ApiClient) -> None:
        """Wait until an object passes in a dry run, through the webhooks."""
        self._plane.wait(self._dry_run, READY_SECONDS, f"{self.name} to take an object")

    def _dry_run(self) -> bool:
        path, body = self.object("default", 2)
        self._plane.api.post(f"{path}?dryRun=All", body)
        return True

    async def start(self, client: ApiClient, namespace: str, size: int) -> None:
        path, body = self.object(namespace, size)
        await client.request("POST", path, body=orjson.dumps(body))

    async def clean(self, client: ApiClient, namespace: str) -> None:
        path, _ = self.object(namespace, 2)
        try:
            await client.request("DELETE", f"{path}/{NAME}")
        except ApiError as error:
            if error.status != 404:
                raise

    def cpu(self) -> float:
        """Its own and that of kube-controller-manager, which works for it."""
        used = self._plane.cpu_seconds()
        return used[self.name] + used["kube-controller-manager"]

    def configuration(self, content: Json) -> str:
        """The file of a ComponentConfig."""
        path = self._plane.data / f"{self.name}.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "kind": "Configuration",
                    "internalCertManagement": {"enable": False},
                    "webhook": {
                        "host": HOST,
                        "port": self._ports["webhook"],
                        "certDir": str(self._certificates),
                    },
                    "metrics": {"bindAddress": f"{HOST}:{self._ports['metrics']}"},
                    "health": {"healthProbeBindAddress": f"{HOST}:{self._ports['probe']}"},
                    **content,
                }
            )
        )
        return str(path)


_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class KubeRay(PeerOperator):
    """One RayCluster: a head and the others as workers."""

    peer = builds.KUBERAY
    manifests = "config/crd"

    def object(self, namespace: str, size: int) -> tuple[str, Json]:
        group = {"rayStartParams": {}, "template": self.template()}
        workers = {"replicas": size - 1, "minReplicas": size - 1, "maxReplicas": size - 1}
        return f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters", {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": NAME},
            "spec": {
                "rayVersion": "2.52.0",
                "headGroupSpec": group,
                "workerGroupSpecs": [{**group, **workers, "groupName": "workers"}],
            },
        }

    def arguments(self) -> list[str]:
        return [
            "--enable-leader-election=true",
            f"--leader-election-namespace={self._namespace}",
            f"--metrics-addr={HOST}:{self._ports['metrics']}",
            f"--health-probe-bind-address={HOST}:{self._ports['probe']}",
        ]

    def environment(self) -> dict[str, str]:
        return {"ENABLE_WEBHOOKS": "false"}


class LeaderWorkerSet(PeerOperator):
    """As many groups of one pod as there are engines."""

    peer = builds.LWS
    manifests = "config/default"
    pods = 1  # of each group

    def object(self, namespace: str, size: int) -> tuple[str, Json]:
        template = self.template()
        if self.pods > 1:
            template["metadata"] = {**template["metadata"], **GROUPED["metadata"]}
        return f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets", {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": NAME},
            "spec": {
                "replicas": size // self.pods,
                "leaderWorkerTemplate": {"size": self.pods, "workerTemplate": template},
            },
        }

    def arguments(self) -> list[str]:
        content = {
            "apiVersion": "config.lws.x-k8s.io/v1alpha1",
            "leaderElection": {"leaderElect": True, "resourceNamespace": self._namespace},
        }
        return [f"--config={self.configuration(content)}"]


class PairsOfLeaderWorkerSet(LeaderWorkerSet):
    """Groups of two pods."""

    pods = 2


class JobSet(PeerOperator):
    """One job with as many pods as there are engines."""

    peer = builds.JOBSET
    manifests = "config/default"

    def object(self, namespace: str, size: int) -> tuple[str, Json]:
        job = {
            "parallelism": size,
            "completions": size,
            "backoffLimit": 1_000_000,
            "template": self.template(restartPolicy="Never"),
        }
        return f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets", {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": NAME},
            "spec": {
                "replicatedJobs": [
                    {"name": "engines", "replicas": 1, "template": {"spec": job}},
                ]
            },
        }

    def arguments(self) -> list[str]:
        content = {
            "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
            "leaderElection": {"leaderElect": True, "resourceNamespace": self._namespace},
        }
        return [f"--config={self.configuration(content)}"]


PEERS = (KubeRay, LeaderWorkerSet, JobSet)
