"""The words of turns between a trainer and engines on its GPUs, as the client says them."""

NOT_STANDING = (
    "{engines}: not up {seconds:.0f} s after their GPUs were given back; those that slept are "
    "awake, and all of that is on record: call again to wait on, and look for the cause with "
    "kubectl sglang status {pool}"
)
ALL_STAND = (
    "no engine of these sleeps or waits for its GPUs (phase {phase}), so that nothing can be woken"
)
NOT_OUT_OF_THE_WAY = (
    "{engines}: neither asleep nor said to wait by the operator, for {seconds:.0f} s, so that they "
    "may come up while the trainer has their memory: do not take it; the others sleep. Sleep "
    "again, or wake the pool"
)
NOTHING_FREED = (
    "a release freed nothing: {cards}, after engines there had answered that they released {tags}. "
    "The trainer has no memory by that: do not take it. Either the engines' memory saver does "
    "nothing (enable_memory_saver, torch_memory_saver in the image, LD_PRELOAD of the pod), or "
    "another process took it at once. The engines are on record as asleep: wake them, or delete "
    "their pods"
)
TAKEN = (
    "{engines}: {pools} has the memory of these GPUs, and of pools on the same GPUs at most one "
    "may be awake there; nothing was taken, nobody was woken: put the engines of that pool to "
    "sleep before (pool.sleep(), kubectl sglang weights sleep), and call again"
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
