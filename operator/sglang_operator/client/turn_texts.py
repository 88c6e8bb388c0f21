"""The words of turns between a trainer and engines on its GPUs, as the client says them."""

NOT_STANDING = (
    "{engines}: not up {seconds:.0f} s after their GPUs were given back, which is on record as is "
    "who sleeps: call again to wait on, and look for the cause with kubectl sglang status {pool}"
)
ALL_STAND = (
    "no engine of these sleeps or waits for its GPUs (phase {phase}), so that nothing can be woken"
)
NOT_OUT_OF_THE_WAY = (
    "{engines}: neither asleep nor said to wait by the operator, for {seconds:.0f} s, so that they "
    "may come up while the trainer has their memory: do not take it; the others sleep. Sleep "
    "again, or wake the pool"
)
HELD = (
    "pods {pods} may hold memory of these GPUs, for {seconds:.0f} s, and no engine is told of in "
    "them that could be put to sleep: they are on their way out, have not started yet, are out of "
    "the operator's sight, or are on a node that is silent. The memory is not the trainer's: do "
    "not take it. Call again once they are gone, or delete those pods"
)
NOTHING_FREED = (
    "a release freed nothing: {cards}, after engines there had answered that they released {tags}. "
    "The trainer has no memory by that: do not take it. Either the engines' memory saver does "
    "nothing (enable_memory_saver, torch_memory_saver in the image, LD_PRELOAD of the pod), or "
    "another process took it at once. The engines are on record as asleep: wake them, or delete "
    "their pods"
)
TAKEN = (
    "{engines}: {who} has the memory of these GPUs, and of pools on the same GPUs at most one "
    "may be awake there; nothing was taken, nobody was woken: put the engines of that pool to "
    "sleep before (pool.sleep(), kubectl sglang weights sleep), and call again"
)
LEFT_ON = (
    "{engines}: pods {who} may have the memory of these GPUs, and no pool answers for them: theirs "
    "was deleted, or they are none of its engines any more. Nothing was taken, nobody was woken: "
    "call again once they are gone, or delete those pods"
)
UNSEEN = (
    "the operator has not said since this was begun whether another pool has the memory of these "
    "GPUs; nobody was woken: call again"
)
CARD = "{uuid} holds {after} now and held {before} before"
SAVER_OFF = (
    "{engines}: started without --enable-memory-saver, by its own word (/server_info), so that a "
    "release would answer 200 and free nothing. Nothing was taken, nothing released: remove what "
    "switches it off (strategy_config, podTemplate, the image's own arguments), and have the "
    "engines replaced"
)
NOT_TAKEN = (
    "the turn was not taken within {seconds:.0f} s, and the memory is not the trainer's: {why}"
)
AMID_A_SYNC = "a sync by {holder} is under way"
FREED = "freed {size} on {gpus}"
NOT_MEASURED = "how much was freed nobody has measured: this process does not see their GPUs"
