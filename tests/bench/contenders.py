"""Who makes the pods: a raw client, this operator, a Deployment; all of them the same pods."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.kube import paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.pool.resolve import Owner, Pool, resolve_pool
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.processes import cpu_seconds
from tests.builders import guide_spec

NAME = "bench"
LABELS = {"app": NAME}
# Pods of groups are up as soon after they run, whoever makes them: on KWOK's nodes the operator's
# otherwise take longer, as if they met.
GROUPED = {"metadata": {"annotations": {"fake.sglang/start-delay": "2s"}}}


class Contender:
    """One way to make pods in a namespace of its own."""

    name: str

    async def prepare(self, namespace: str, size: int) -> None:
        """What is not part of the measurement."""

    async def start(self, client: ApiClient, namespace: str, size: int) -> None:
        """Ask for ``size`` pods."""
        raise NotImplementedError

    async def clean(self, client: ApiClient, namespace: str) -> None:
        """Ask for them to go."""
        raise NotImplementedError

    def cpu(self) -> float:
        """Seconds of CPU that the one who makes them has used so far."""
        raise NotImplementedError


def a_spec(size: int, pods: int = 1) -> dict[str, Any]:
    """The guide's pool with this many engines, each of so many pods of one GPU."""
    spec = guide_spec(replicas=size, num_gpus_per_worker=pods)
    del spec["device_mapping"]
    return spec if pods == 1 else spec | {"num_gpus_per_node": 1, "podTemplate": GROUPED}


def a_pool(namespace: str, size: int) -> Pool:
    owner = Owner(name=NAME, namespace=namespace, uid=names.Uid("0" * 36), generation=1)
    pool = resolve_pool(owner, a_spec(size))
    assert isinstance(pool, Pool), pool
    return pool


def bodies(namespace: str, size: int) -> list[dict[str, Any]]:
    """The operator's pods, as somebody else's: without owner and without the operator's labels."""
    pool = a_pool(namespace, size)
    template = engine_pod.template(pool)
    template["metadata"] = {"namespace": namespace, "labels": LABELS, "annotations": {}}
    made = [engine_pod.pod(pool, template, engine, 0, 0) for engine in pool.engines]
    for body in made:
        body["metadata"]["labels"] = LABELS
    return made


class Ours(Contender):
    """One object; the operator does the rest."""

    name = "ours"

    def __init__(self, plane: ControlPlane, operator: str, pods: int = 1) -> None:
        """``pods``: so many are an engine."""
        self._plane, self._operator, self._pods = plane, operator, pods

    async def start(self, client: ApiClient, namespace: str, size: int) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": NAME},
            "spec": a_spec(size // self._pods, self._pods),
        }
        await client.request("POST", paths.pools(namespace), body=orjson.dumps(body))

    async def clean(self, client: ApiClient, namespace: str) -> None:
        await client.request("DELETE", paths.pool(namespace, NAME))

    def cpu(self) -> float:
        return self._plane.cpu_seconds()[self._operator]


class Deployment(Contender):
    """kube-controller-manager makes them; its client's limits are lifted."""

    name = "deployment"

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def start(self, client: ApiClient, namespace: str, size: int) -> None:
        spec = bodies(namespace, 1)[0]["spec"] | {"restartPolicy": "Always"}
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME},
            "spec": {
                "replicas": size,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": spec},
            },
        }
        await client.request("POST", _deployments(namespace), body=orjson.dumps(body))

    async def clean(self, client: ApiClient, namespace: str) -> None:
        await client.request("DELETE", f"{_deployments(namespace)}/{NAME}")
        await delete_pods(client, namespace)

    def cpu(self) -> float:
        return self._plane.cpu_seconds()["kube-controller-manager"]


class Raw(Contender):
    """The floor: aiohttp with 32 requests in flight, in a process of its own."""

    name = "raw"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def prepare(self, namespace: str, size: int) -> None:
        await self._order({"namespace": namespace, "size": size})
        assert self._process.stdout
        answer = await self._process.stdout.readline()
        assert answer == b"ready\n", answer

    async def start(self, client: ApiClient, namespace: str, size: int) -> None:
        await self._order({})

    async def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()

    async def clean(self, client: ApiClient, namespace: str) -> None:
        await delete_pods(client, namespace)

    def cpu(self) -> float:
        return cpu_seconds(self._process.pid)


@asynccontextmanager
async def raw_client(plane: ControlPlane) -> AsyncIterator[Raw]:
    """The raw client's process, ended on exit."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.rawclient",
        str(plane.kubeconfig),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Raw(process)
    finally:
        process.kill()
        await process.wait()


async def delete_pods(client: ApiClient, namespace: str) -> None:
    """All pods of the namespace, at once and without grace."""
    options = orjson.dumps({"gracePeriodSeconds": 0})
    await client.request("DELETE", paths.pods(namespace), body=options, timeout=300)


def _deployments(namespace: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments"
