"""The Services of a pool: one for clients, one that only names the engines."""

from typing import Any

from sglang_operator.api import names
from sglang_operator.children import engine_pod, metadata
from sglang_operator.pool.resolve import Owner, Pool


def services(pool: Pool, *, spans: bool = False) -> list[dict[str, Any]]:
    """The Services that this pool has: engines' own names only if they are asked for, or if who
    follows finds its leader by them.  ``spans``: such an engine is there, or is to be."""
    owner, port = pool.owner, pool.spec.network.port
    named = [engines_service(owner, port)] if spans or engine_pod.named(pool) else []
    return [client_service(owner, port), *named]


def client_service(owner: Owner, port: int) -> dict[str, Any]:
    """The Service that clients use: it holds the pods that are Ready, so only open gates."""
    return metadata.child(
        owner,
        "v1",
        "Service",
        names.service_name(owner.name),
        "service",
        spec={
            "type": "ClusterIP",
            "selector": names.serving_selector(owner.name),
            "ports": _ports(port),
        },
    )


def engines_service(owner: Owner, port: int) -> dict[str, Any]:
    """A DNS name for each engine pod, Ready or not: a trainer reaches engines before a sync."""
    return metadata.child(
        owner,
        "v1",
        "Service",
        names.engines_service_name(owner.name),
        "engines",
        spec={
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.serving_selector(owner.name),
            "ports": _ports(port),
        },
    )


def _ports(port: int) -> list[dict[str, Any]]:
    return [
        {
            "name": names.ENGINE_PORT_NAME,
            "port": port,
            "targetPort": names.ENGINE_PORT_NAME,
            "protocol": "TCP",
        }
    ]
