"""A cluster that answers from a table, where kubectl would ask a server."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sglang_operator.cli.cluster.kubectl import Cluster, ClusterError, Why
from tests.unit.view.drawn_cluster import DrawnCluster


class FakeCluster(Cluster):
    """Answers by what a path contains; remembers what else was run."""

    ran: list[tuple[str, ...]]

    def with_world(self, world: DrawnCluster) -> "FakeCluster":
        object.__setattr__(self, "world", world)
        object.__setattr__(self, "ran", [])
        object.__setattr__(self, "logs", {})
        object.__setattr__(self, "led", True)
        object.__setattr__(self, "defined", True)
        object.__setattr__(self, "revisions", [])
        return self

    def scope(self) -> str:
        return self.namespace or "rl"

    def run(self, *arguments: str, given: str | None = None) -> bytes:
        self.ran.append(arguments)
        if arguments[:2] != ("get", "--raw"):
            return b""
        return self._answer(arguments[2])

    def run_all(self, commands: Mapping[str, Sequence[str]]) -> dict[str, bytes | ClusterError]:
        found: dict[str, bytes | ClusterError] = {}
        for name, arguments in commands.items():
            try:
                found[name] = self.run(*arguments)
            except ClusterError as error:
                found[name] = error
        return found

    def _answer(self, path: str) -> bytes:
        world: DrawnCluster = self.world  # type: ignore[attr-defined]
        logs: dict[str, bytes] = self.logs  # type: ignore[attr-defined]
        plain = path.partition("?")[0]
        if plain.endswith("/log"):
            pod = plain.split("/")[-2]
            if pod in logs:
                return logs[pod]
            raise ClusterError("kubectl", "no such host", Why.OTHER)
        items: dict[str, list[Any]] = {
            "sglanginferences": world.pools,
            "pods": world.pods,
            "nodes": world.nodes,
            "controllerrevisions": self.revisions,  # type: ignore[attr-defined]
            "leases": [_lease()] if self.led else [],  # type: ignore[attr-defined]
        }
        if plain.endswith("/sglanginferences") and not self.defined:  # type: ignore[attr-defined]
            detail = "the server could not find the requested resource"
            raise ClusterError("kubectl get", detail, Why.NOT_FOUND)
        return json.dumps({"items": items[plain.rsplit("/", 1)[-1]]}).encode()


def _lease() -> dict[str, Any]:
    """The operator's, renewed at this moment."""
    now = datetime.fromtimestamp(time.time(), UTC).isoformat()
    return {
        "metadata": {"namespace": "sglang-operator"},
        "spec": {"holderIdentity": "op-0", "renewTime": now},
    }


def cluster(world: DrawnCluster) -> FakeCluster:
    return FakeCluster().with_world(world)
