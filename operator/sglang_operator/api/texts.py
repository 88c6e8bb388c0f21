"""What the operator tells about a pool that is valid: the messages of conditions and Events.

Errors and warnings about the spec stand in ``errors``; nothing else words a message.
"""

READY = "{up}/{desired} engines of {gpus} GPUs are up; a trainer can attach"
READY_EMPTY = "replicas is 0: there is nothing to run"
ENGINES_UP = "{up}/{desired} engines are up"
CREATING = "{up}/{desired} engines are up; {created} pods exist"
STARTING = "{up}/{desired} engines are up; {starting} load their model or warm up"
SCALING = "{obsolete} pods of engines that are no longer wanted are on their way out"
ROLLING = "{updated}/{desired} engines run revision {revision}; at most {budget} are away at a time"
READY_PAUSED = (
    "{up}/{desired} engines of {gpus} GPUs are up, {updated} of them on revision {revision}: "
    "rollout.paused or rollout.partition keeps the others as they are"
)
FAILING = "{count} engines wait to be started again after {reason}: {message}"
FAILING_UNKNOWN = "{count} engines wait to be started again"
NODE_LOST = "{count} engines wait for their lost nodes ({nodes}); restart.onNodeLost is Wait"
DEVICES_PENDING = "{count} engines wait for a node with {gpus} free {resource}: {message}"
CAPACITY = (
    "an engine wants {wanted} on one node; {free} of {total} {resource} are free in the cluster; "
    "nearest is {node} with {node_free} of {node_total} free{holders}"
)
CAPACITY_TOO_SMALL = (
    "an engine wants {wanted} {resource} on one node, and the largest node has {largest}: lower "
    "num_gpus_per_worker, or add larger nodes"
)
CAPACITY_NONE = "no node that takes pods has {resource}: check the nodes' device plugin"
DEVICES_COUNTED = (
    "{gpus} GPUs on {nodes} nodes; the ids in device_mapping are honoured as a number, not as "
    "places"
)
DEVICES_MISSING = (
    "{gpus} of {wanted} GPUs are assigned, on {nodes} nodes; the other engines have no node yet"
)
WAITING = "{count} engines cannot start: {message}; {advice}"
POD_LOST = "pod {pod} was lost with its node {node}"
POD_TAKEN = "pod {pod} was taken away: {reason}"
STARTED_AGAIN = "nothing to do: the engine is started again"
STARTUP_TIMEOUT = "the engine gave no healthy answer in {ran} s (it may take {budget} s)"
STARTUP_TIMEOUT_ADVICE = (
    "read the engine's log for what it waits for; if it only loads, raise startup.timeoutSeconds"
)
LIVENESS_FAILED = "the engine's HTTP server stopped answering, and the kubelet killed it"
LIVENESS_FAILED_ADVICE = (
    "read the engine's log; its CPUs may be too few (podTemplate's resources), or it hung"
)
ENGINE_HUNG = "the engine had requests, and nothing moved for {seconds} s"
ENGINE_HUNG_ADVICE = (
    "nothing to do: the engine is started again; if it only worked on a long prompt, or a trainer "
    "synced without the pool's Lease, raise restart.hangSeconds"
)
TUNED = (
    "mem_fraction_static goes from {before} to {after} after {reason} on engine {engine} (change "
    "{changes} of {limit} that restart.autoTune allows); one engine tries it first"
)
WAITING_ADVICE = "describe the pod for what the kubelet says"
STALLED = (
    "{count} engines fail at their start with {reason}, after {restarts} restarts too, and are "
    "not started again until the spec changes or the failed pods are deleted: {message}; {advice}"
)
SUSPENDED = "suspend is true: no engine runs; set it to false to start them again"
GATE_OFF = "engines load their weights themselves; nothing keeps requests away"
SYNCED = "{synced}/{desired} engines hold weights that a trainer committed"
WAITING_FOR_TRAINER = (
    "{synced}/{desired} engines hold weights that a trainer committed; the others started with "
    "random weights and get no requests until then"
)
UNVERSIONED = (
    "{synced}/{desired} engines name a weight version that a trainer gave them; the others get no "
    "requests until then"
)
SYNC_ABORTED = (
    "a weight update was aborted: {message}; no engine gets requests until a trainer commits one"
)
SYNC_EXPIRED = (
    "{holder} began a weight update and has not renewed the Lease for {seconds} s: the engines may "
    "hold half of it"
)
GATE_NOT_COVERED = "the commit of version {version} did not cover this engine"
GATE_ABORTED = "the weight update was aborted ({message}); the next committed one opens the gate"
GATE_SLEEPING = "the trainer released this engine's memory; a request would end it"
GATE_AWAKE = "the memory is back, its weights are not; the next committed update opens the gate"
GATE_INITIAL = "the engine still names the weight version that it started with"
NAME_CONFLICT = (
    "{kind} {name} exists and does not belong to this pool; it is left as it is: delete or rename "
    "it, or give the pool another name"
)
QUOTA_EXCEEDED = "the API server refuses pods for quota: {message}; tried again {when}"
POD_REJECTED = "the API server refuses pod {name}: {message}; correct the cause, tried again {when}"
CHILD_REFUSED = (
    "the API server refuses a Service, ConfigMap or PodDisruptionBudget of this pool: {message}; "
    "the engines run; tried again {when}"
)
API_ERROR = "the API server could not be asked: {message}; tried again {when}"
TRY_AGAIN = "every {seconds} s at most"

# --- the weights Lease (api/weights.py): why a step was refused, and why a transaction was aborted
WEIGHTS_HELD = (
    "{holder} holds the weights of this pool ({phase} since {since}, until {until} unless it "
    "renews); wait until it commits or aborts, or run only one trainer for each pool"
)
WEIGHTS_NOT_HELD = (
    "the transaction {transaction} is not the present one: the Lease is in phase {phase}{by}; "
    "begin again, and write all weights again"
)
WEIGHTS_PHASE = "{step} is not possible in phase {phase}; expected {expected}"
WEIGHTS_ASLEEP = (
    "the engines' {released} memory is still released; wake them before the commit opens their "
    "gates, because a request to a sleeping engine kills it"
)
WEIGHTS_NO_INSTANCES = "the commit names no engine; expected the instances whose weights it covers"
