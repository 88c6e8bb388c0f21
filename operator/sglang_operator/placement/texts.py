"""Why an engine waits for the GPUs of its trainer, or of a claim."""

SLOT_UNKNOWN = (
    "nobody has said which GPUs the trainer has at node rank {node_rank} ({where}): its pod there "
    "publishes them by sglang_operator.client.slots"
)
TRAINER_UNSEEN = (
    "pod {pod} of the trainer, which has the GPUs of node rank {node_rank}, is not there, or lacks "
    "the label {label}, by which it is watched"
)
TRAINER_ANEW = (
    "pod {pod} of the trainer was made anew, and has not said which GPUs it has at node rank "
    "{node_rank} ({where})"
)
TRAINER_GOES = (
    "pod {pod} of the trainer, which has the GPUs of node rank {node_rank}, has ended or is on its "
    "way out"
)
TRAINER_UNBOUND = (
    "pod {pod} of the trainer, which has the GPUs of node rank {node_rank}, is on no node yet"
)
TRAINER_ELSEWHERE = (
    "pod {pod} of the trainer is on node {node}, but what it has published of node rank "
    "{node_rank} ({where}) names node {told}: have it publish its own (spec.nodeName)"
)
CLAIM_COMING = (
    "ResourceClaim {claim}, by which they have the GPUs of node rank {node_rank}, is yet to be made"
)
CLAIM_MISSING = (
    "there is no ResourceClaim {claim}, which placement.slot.claims names for node rank {node_rank}"
)
CLAIM_GOES = "ResourceClaim {claim}, of node rank {node_rank}, is being deleted{users}"
CLAIM_TAKEN = (
    "ResourceClaim {claim}, which is to have the GPUs of node rank {node_rank}, is somebody "
    "else's: remove it, or name it in placement.slot.claims"
)
CLAIM_OF_ANOTHER = (
    "ResourceClaim {claim}, which placement.slot.claims names for node rank {node_rank}, is that "
    "of node rank {other}, and two node ranks would have the same GPUs: name another"
)
CLAIM_ANEW = (
    "ResourceClaim {claim}, of node rank {node_rank}, is made anew: for the GPUs that it had, and "
    "as the spec is now"
)
CLAIM_LACKS = (
    "ResourceClaim {claim}, of node rank {node_rank}, has no request {requests} for one device "
    "each{users}"
)
CLAIM_USED = " (pods {pods} have it)"
SHORT_OF_DEVICES = (
    "ResourceClaim {claim} wants {wanted} devices of class {device_class} on one node; {free} of "
    "{total} cards are free in the cluster; nearest is {node} with {node_free} of {node_total} "
    "free{holders}"
)
NO_DEVICES = (
    "ResourceClaim {claim} wants {wanted} devices of class {device_class}, and no driver publishes "
    "a card"
)
PIN_HELD = (
    "ResourceClaim {claim} is to have GPU {gpu} on node {node} again, which {holder} has "
    "(placement.slot.pinned: false asks for any)"
)
PIN_TAINTED = (
    "ResourceClaim {claim} is to have GPU {gpu} on node {node} again, which has the taint {taint} "
    "(placement.slot.pinned: false asks for any)"
)
PIN_UNSEEN = (
    "ResourceClaim {claim} is to have GPU {gpu} on node {node} again, where no driver publishes "
    "devices now (placement.slot.pinned: false asks for any)"
)
HOLDER = "ResourceClaim {claim}{users}"
HELD_BY = ", held by {holders}"
CLAIMS_UNSERVED = (
    "found placement.mode Slot, but ResourceClaims (resource.k8s.io/v1) are not served here, or "
    "the operator may not read them; expected Kubernetes 1.34 or newer, and this release's roles; "
    "use placement.mode Shared or Count"
)
COUNTED_TWICE = (
    "found GPUs of node {nodes} counted by a device plugin ({resource}) and published by a driver "
    "of dynamic resource allocation: two pods would be given one GPU; expected one of the two; "
    "take the device plugin from there, or the driver"
)
