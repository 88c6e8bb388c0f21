"""The Services of a pool: one for clients, one that only names the engines."""

from typing import Any

from sglang_operator.api import names
from sglang_operator.children import metadata
from sglang_operator.pool.resolve import Pool


def services(pool: Pool) -> list[dict[str, Any]]:
    """The Services that this pool has: engines' own names only if they are asked for."""
    named = [engines_service(pool)] if pool.spec.network.headless_service else []
    return [client_service(pool), *named]


def client_service(pool: Pool) -> dict[str, Any]:
    """The Service that clients use: it holds the pods that are Ready, so only open gates."""
    return metadata.child(
        pool.owner,
        "v1",
        "Service",
        names.service_name(pool.owner.name),
        "service",
        spec={
            "type": "ClusterIP",
            "selector": names.serving_selector(pool.owner.name),
            "ports": _ports(pool),
        },
    )


def engines_service(pool: Pool) -> dict[str, Any]:
    """A DNS name for each engine pod, Ready or not: a trainer reaches engines before a sync."""
    return metadata.child(
        pool.owner,
        "v1",
        "Service",
        names.engines_service_name(pool.owner.name),
        "engines",
        spec={
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.serving_selector(pool.owner.name),
            "ports": _ports(pool),
        },
    )


def _ports(pool: Pool) -> list[dict[str, Any]]:
    port = pool.spec.network.port
    return [
        {
            "name": names.ENGINE_PORT_NAME,
            "port": port,
            "targetPort": names.ENGINE_PORT_NAME,
            "protocol": "TCP",
        }
    ]
