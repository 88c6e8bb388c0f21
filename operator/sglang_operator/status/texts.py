"""What a status says of engines whose GPUs somebody else has."""

TURN_AWAITED = (
    "{engines} waiting: the trainer has these GPUs, by the Lease {lease}; started as soon as it "
    "gives them back: pool.wake(), or kubectl sglang weights wake {pool} -n {namespace}"
)
RIVAL_AWAITED = (
    "{engines} waiting: {pools} has the memory of these GPUs{gpus}, by its Lease; started as soon "
    "as that pool sleeps there, or is gone: pool.sleep() of it, or kubectl sglang weights sleep"
)
SEAT_TAKEN_ELSEWHERE = (
    "{pod} runs on node {node}, and may hold the memory of their GPUs ({gpus}): it is not this "
    "pool's, and whoever runs the cluster can say whose it is"
)
