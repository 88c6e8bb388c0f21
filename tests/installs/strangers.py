"""Objects of somebody else's under the names of a pool's own, one of each kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.builders import a_pool

_POD = {"containers": [{"name": "a", "image": "a"}], "terminationGracePeriodSeconds": 0}


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """An object that somebody made before the pool."""

    version: str
    kind: str
    suffix: str  # of its name, after the pool's
    body: Mapping[str, Any] = field(default_factory=dict)

    def manifest(self, pool: str) -> dict[str, Any]:
        """The object, beside a pool of this name."""
        metadata = {"name": f"{pool}{self.suffix}"}
        return {"apiVersion": self.version, "kind": self.kind, "metadata": metadata, **self.body}


# By resource, as roles name it.
STRANGERS: Mapping[str, Stranger] = {
    "pods": Stranger(version="v1", kind="Pod", suffix="-g0-1-0", body={"spec": _POD}),
    "services": Stranger(
        version="v1", kind="Service", suffix="", body={"spec": {"ports": [{"port": 80}]}}
    ),
    "configmaps": Stranger(version="v1", kind="ConfigMap", suffix="-engines"),
    "poddisruptionbudgets": Stranger(
        version="policy/v1", kind="PodDisruptionBudget", suffix="-engines"
    ),
    # Of the guide's engines, whichever GPUs they have.
    "controllerrevisions": Stranger(
        version="apps/v1",
        kind="ControllerRevision",
        suffix=f"-{a_pool().revision}",
        body={"revision": 1, "data": {}},
    ),
    "resourceclaims": Stranger(
        version="resource.k8s.io/v1",
        kind="ResourceClaim",
        suffix="-node-0",
        body={"spec": {"devices": {"requests": []}}},
    ),
    "leases": Stranger(version="coordination.k8s.io/v1", kind="Lease", suffix="-weights"),
}
