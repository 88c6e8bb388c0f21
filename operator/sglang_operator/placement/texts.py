"""Why an engine waits for the GPUs of its trainer."""

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
