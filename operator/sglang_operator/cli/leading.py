"""Who holds the operator's Lease: which process acts for pools, if any."""

import json

from sglang_operator.api import names, weights
from sglang_operator.picture.scene import Leader

# Of all namespaces, for any of them may be the operator's.
QUESTION = (
    "/apis/coordination.k8s.io/v1/leases",
    {"fieldSelector": f"metadata.name={names.LEASE_NAME}"},
)
FRESH_SECONDS = 60.0  # a holder renews every few seconds


def leaders(answer: bytes, now: float) -> tuple[Leader, ...]:
    """Those who hold a Lease of the operator and renew it, by namespace."""
    found = []
    for lease in json.loads(answer)["items"]:
        spec = lease.get("spec", {})
        silent = now - weights.seconds(spec.get("renewTime"))
        if spec.get("holderIdentity") and silent < FRESH_SECONDS:
            namespace = lease["metadata"]["namespace"]
            found.append(
                Leader(namespace=namespace, identity=spec["holderIdentity"], silent=max(0, silent))
            )
    return tuple(sorted(found, key=lambda leader: leader.namespace))
