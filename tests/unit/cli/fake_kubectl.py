"""A cluster that answers from a table, where kubectl would ask a server."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_operator.cli.kubectl import Cluster, ClusterError, Why
from tests.unit.picture.world import World


class FakeCluster(Cluster):
    """Answers by what a path contains; remembers what else was run."""

    ran: list[tuple[str, ...]]

    def with_world(self, world: World) -> "FakeCluster":
        object.__setattr__(self, "world", world)
        object.__setattr__(self, "ran", [])
        object.__setattr__(self, "logs", {})
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
        world: World = self.world  # type: ignore[attr-defined]
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
        }
        return json.dumps({"items": items[plain.rsplit("/", 1)[-1]]}).encode()


def cluster(world: World) -> FakeCluster:
    return FakeCluster().with_world(world)
