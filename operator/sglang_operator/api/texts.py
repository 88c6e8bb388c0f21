"""The operator's messages, but for errors and warnings about a spec (``errors``).

Most are of conditions and Events of a valid pool.  The others are of gates on pods, of refused
steps in the weights Lease (for trainers), and pieces of what an error says.  Not here: how much
memory a pool takes (memory/texts.py), why an engine waits for its trainer's GPUs
(placement/texts.py) and who has them (status/texts.py), what is said of the API server's
credentials (kube/texts.py), what a scheduler asks of a pool (scheduling/texts.py), why engines end
or do not start (engine/signatures.py, endings.py and node_ends.py, diagnosis/pod_signatures.py),
and what only people at a terminal (cli/texts.py), before a picture (view/texts.py) or with a
trainer (client/texts.py) are told.
"""


def engines(count: int) -> str:
    """``1 engine``, ``4 engines``: the ``{engines}`` of the texts below."""
    return f"{count} engine{'' if count == 1 else 's'}"


def seen_from(own: str, namespace: str, kind: str, name: str) -> str:
    """A thing by its name, as who may see what is in the namespace ``own`` may know of it.

    Of those of other namespaces nothing is named: ``a pool of another namespace``.
    """
    return name if namespace == own else ELSEWHERE.format(kind=kind)


def held(finalizers: list[str]) -> str:
    """The ``{held}`` of the texts below: what a deletion waits for, if for anything."""
    names = ", ".join(sorted(finalizers))
    return f", and waits for the finalizers {names}" if names else ""


READY = "{up}/{desired} engines of {gpus} GPUs are up; a trainer can attach"
READY_EMPTY = "replicas is 0: there is nothing to run"
ENGINES_UP = "{up}/{desired} engines are up"
CREATING = "{up}/{desired} engines are up; {created} pods exist"
STARTING = "{up}/{desired} engines are up; {phases}"
PHASE_GATED = "held by scheduling gates ({gates})"
PHASE_NO_SCHEDULER = "that scheduler {scheduler} has not looked at"
PHASE_NODE = "without a node"
PHASE_KUBELET = "not yet looked at by the kubelet of their node"
PHASE_INIT = "in init container {container}"
PHASE_SANDBOX = "waiting for volumes, network and devices"
PHASE_IMAGE = "pulling the image or creating the container"
PHASE_AGAIN = "between two tries of the container"
PHASE_COMPANION = "waiting for container {container} beside the engine"
PHASE_LOADING = "load their model or warm up"
SCALING = "{obsolete} pods of engines that are no longer wanted are on their way out"
ROLLING = "{updated}/{desired} engines run revision {revision}; at most {budget} are away at a time"
ROLLING_SURGE = (
    "{updated}/{desired} engines run revision {revision}; at most {surge} new ones at a time come "
    "up beside those that serve, {beside} do now"
)
SURGE_NO_ROOM = (
    "{updated}/{desired} engines run revision {revision}; there is no room for one more beside "
    "them (rollout.maxSurge {surge}){why}, so they are replaced in place, at most {budget} away at "
    "a time"
)
SURGE_QUEUED = "queue {queue} has not let pod {pod} in"
PROGRESS_DEADLINE = (
    "no engine of revision {revision} came up for {seconds} s (rollout.progressDeadlineSeconds), "
    "{up}/{desired} are up; {reason}: {message}; it is tried further; to stop it: {command}"
)
DO_PAUSE = "kubectl sglang rollout pause {name} -n {namespace}"
ROLLOUT_WAITS_FOR_SYNC = (
    "the rollout waits for the end of the weight update that a trainer is writing; if it hangs: "
    "kubectl sglang weights abort {name} -n {namespace} --force"
)
ROLLOUT_WAITS_FOR_WAKE = (
    "the rollout waits until the trainer wakes the engines: until then their memory is its own; if "
    "it is gone: kubectl sglang weights wake {name} -n {namespace}"
)
ROLLOUT_WAITS_FOR_WEIGHTS = (
    "the rollout waits for the next sync: {engines} on revision {revision} without weights, and "
    "at most {budget} may be out of service; if no trainer syncs any more, this goes on without, "
    "until nobody serves: {command}"
)
ROLLOUT_WAITS_FOR_WINDOW = (
    "the rollout waits for the end of the trainer's step (rollout.window BetweenSteps): it goes on "
    "with the next commit, and from {until} on whenever no trainer writes weights or has put the "
    "engines to sleep"
)
ROLLOUT_WAITS_FOR_ROOM = (
    "engine {engine} needs {gpus} {resource} on one node, and no node gets as many free while "
    "rollout.maxUnavailable is {budget}; let more engines go at a time: {command}"
)
ROLLOUT_WAITS_FOR_RESUME = (
    "rollout.paused keeps engines whose GPUs others of this spec need: those cannot start, and no "
    "trainer can attach, until it is resumed: kubectl sglang rollout resume {name} -n {namespace}"
)
ROLLOUT_WAITS_FOR_PLACE = (
    "engine {engine} finds no node: {lacking}; request less of it in podTemplate's resources, or, "
    "as rollout.maxUnavailable is {budget}, let more engines go at a time: {command}"
)
LINGERING = (
    "{engines} not up, and pod {pod} on node {node} is still there a minute after the grace period "
    "of its deletion{more}: see what keeps it, a finalizer or the node's driver: kubectl describe "
    "pod {pod} -n {namespace}; once its processes are known to be gone: kubectl delete pod {pod} "
    "-n {namespace} --force --grace-period=0"
)
LINGERING_MORE = ", like {count} more"
ROLLOUT_WAITS_FOR_ADMISSION = "the rollout waits: the API server would refuse its pods"
ROLLOUT_WAITS_FOR_SEATS = "the rollout waits, for engines that go could not come back: {lacking}"
DO_ALLOW = (
    "kubectl patch sgi {name} -n {namespace} --type=merge -p "
    '\'{{"spec": {{"rollout": {{"maxUnavailable": {value}}}}}}}\''
)
READY_PAUSED = (
    "{up}/{desired} engines of {gpus} GPUs are up, {updated} of them on revision {revision}: "
    "rollout.paused or rollout.partition keeps the others as they are"
)
FAILING = "{engines} waiting to be started again after {reason}: {message}; {advice}"
RETRYING = (
    "{up}/{desired} engines are up; {engines} starting again after {reason}: {message}; {advice}"
)
FAILING_UNKNOWN = "{engines} waiting to be started again"
NODE_LOST = "{engines} waiting for lost nodes ({nodes}); restart.onNodeLost is Wait"
NODES_SILENT = (
    "{count} of {total} nodes are not ready at once, so none is taken for lost, and {engines} on "
    "them ({nodes}) stay as they are; see whether kubelets reach the API server, and delete the "
    "nodes that will not come back"
)
WAITING_FOR_QUOTA = (
    "{engines} waiting until Kueue's LocalQueue {queue} has quota for {gpus} {resource} each; what "
    "it says of each: kubectl get workloads -n {namespace}"
)
NOT_QUEUED = (
    "{engines} waiting for LocalQueue {queue}, and Kueue has not looked at them: see that it runs, "
    "that its pod integration is on, and that it manages namespace {namespace}"
)
DEVICES_PENDING = "{engines} waiting for a node with {gpus} free {resource}: {message}"
DEVICES_WANTED = "{engines} waiting for the devices of their ResourceClaims: {message}"
UNSCHEDULABLE = "{engines} waiting for a node that may run them: {message}{advice}"
DO_TOLERATE = "tolerate the taint in podTemplate.spec.tolerations, if the node is for engines"
DO_SELECT = "correct nodeSelector or affinity in podTemplate, or label nodes by them"
DO_SPREAD = "loosen topologySpreadConstraints or affinity in podTemplate, or add nodes"
DO_ASK_LESS = "request less of it in podTemplate's resources, or make room on the GPU nodes"
DO_ADD_NODES = "nodes have room for no more pods: add some, or raise kubelet's maxPods"
CAPACITY = (
    "an engine wants {wanted} on one node; {free} of {total} {resource} are free in the cluster; "
    "nearest is {node} with {node_free} of {node_total} free{holders}"
)
CAPACITY_HELD = ", held by {pods}"
CAPACITY_MORE = "{count} more pods"
CAPACITY_OTHERS = "pods of other namespaces {gpus}"
CAPACITY_TOO_SMALL = (
    "an engine wants {wanted} {resource} on one node, and the largest node has {largest}: lower "
    "num_gpus_per_worker, or add larger nodes"
)
CAPACITY_POOL = (
    "the pool wants {wanted} {resource} and the nodes that take pods have {total}: lower "
    "device_mapping or replicas, or add nodes; "
)
CAPACITY_NONE = "no node that takes pods has {resource}: check the nodes' device plugin"
DEVICES_COUNTED = (
    "{gpus} GPUs on {nodes} nodes; the ids in device_mapping are honoured as a number, not as "
    "places"
)
DEVICES_SHARED = (
    "{gpus} GPUs of the trainer on {nodes} nodes, by UUID: the ids in device_mapping are places"
)
DEVICES_CLAIMED = (
    "{gpus} GPUs of ResourceClaims on {nodes} nodes: the ids in device_mapping are places, which "
    "a trainer has with the same claims"
)
DEVICES_BESIDE = "; on some are engines of {pools} too, of which at most one may be awake"
SEAT_LEFT = "the trainer's pod whose GPUs it is on is gone"
SEAT_MOVED = "its trainer has the GPUs of its ids on node {node} now"
SEAT_OF_CLAIM = "the GPUs of its ids are those of ResourceClaim {claim} now"
SEAT_TAKEN = (
    "pod {pod} is not gone yet, and may hold the memory of their GPUs (delete it if it stays)"
)
SEATS_AWAITED = "{engines} cannot start yet: {why}"
ELSEWHERE = "a {kind} of another namespace"
SEATS_UNKNOWN = "; {engines} could not come back if lost: {why}"
ENGINES_UNPLACED = (
    "{gpus} of {wanted} GPUs are assigned, on {nodes} nodes; the other engines have no node yet"
)
WAITING = "{engines} cannot start: {message}; {advice}"
INIT_CONTAINER_FAILED = "init container {container} failed (exit code {code}){said}"
SIDECAR_ENDED = (
    "container {container} beside the engine ended (exit code {code}), and is not started again, "
    "so that the pod can never be Ready{said}"
)
COMPANION_HANGS = (
    "{kind} {container} runs for longer than {budget} s, the budget of an engine's start, and is "
    "not {done}: the engine waits for it"
)
COMPANION_ADVICE = (
    "kubectl logs POD -c {container}; if a webhook put it there, mend it, or keep its webhook away "
    "from engines by the label or annotation that it knows (podTemplate.metadata)"
)
LIMIT_OF_NAMESPACE = "{limit}, which a LimitRange of the namespace gives"
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
    "{engines} failed at the start with {reason}, after {restarts} restarts too, to be started "
    "again only when the spec changes or the failed pods are deleted: {message}; {advice}"
)
POOL_LEAVES = "the pool is being deleted{held}: {until}"
NAMESPACE_LEAVES = "the namespace {namespace} is being deleted: {until}"
LEAVES_UNTIL = "as long as it has pods, their gates follow the trainer; nothing new is made"
SUSPENDED = "suspend is true: no engine runs; set it to false to start them again"
GATE_OFF = "engines load their weights themselves; nothing keeps requests away"
GATE_OFF_LATER = (
    "engines load their weights themselves; but {other} were started with a gate that is closed, "
    "and get no requests until the rollout replaces them or a trainer commits"
)
WITHOUT_GATE = (
    "{others}/{desired} engines answer clients with weights that no trainer committed: {other} "
    "were started before weights.gate was {gate}, and nothing keeps requests from them until the "
    "rollout replaces them"
)
SYNCED = "{synced}/{desired} engines hold weights that a trainer committed"
SYNCED_BESIDE = "{synced}, {asleep} asleep"
PART_ASLEEP = (
    "{synced}/{desired} engines serve; {apart} sleep for a trainer that uses their GPUs, and get "
    "no requests until it wakes or syncs them"
)
ASLEEP = (
    "the engines' {released} memory is released, and {synced}/{desired} gates are open; wake them"
)
ASLEEP_SOON = (
    "the engines' {released} memory is about to be released, and {synced}/{desired} gates are open"
)
NOT_ASLEEP = (
    "the engines were about to sleep, and nothing was released: they hold what they held before, "
    "and {synced}/{desired} gates are open; wake them"
)
NOT_ASLEEP_NOR_WHOLE = (
    "the engines were about to sleep, and nothing was released; nobody vouched for their weights "
    "before either, so that no engine gets requests until a trainer commits"
)
# Before what else the condition WeightsSynced says.
MEMORY_UNCLEAR = (
    "an answer to a release or a resume of memory was lost, so that nobody knows what engines hold "
    "and sync, sleep and wake are refused until they are replaced: kubectl delete pod {pods}"
)
LEASE_SHORTENED = (
    "leaseDurationSeconds of the weights Lease says {said}, which was edited; others wait for the "
    "{seconds} s that its holder counts on (kubectl sglang weights abort --force --gone, if its "
    "processes have ended for certain)"
)
GATES_OPENING = (
    "{holding}/{desired} engines hold weights that a trainer committed; {synced}/{desired} gates "
    "are open, the others follow"
)
WAITING_FOR_TRAINER = (
    "{holding}/{desired} engines hold weights that a trainer committed; the others started with "
    "random weights and get no requests until then"
)
LEFT_OUT = (
    "{holding}/{desired} engines hold weights that a trainer committed; the last commit did not "
    "cover {left}: they came after it, or the trainer has no worker for them, and writes into "
    "fewer engines than there are; they get no requests until a commit covers them too"
)
UNVERSIONED = (
    "{synced}/{desired} engines name a weight version that a trainer gave them; the others get no "
    "requests until then"
)
SYNC_ABORTED = (
    "a weight update was aborted: {message}; no engine gets requests until a trainer commits one"
)
WEIGHTS_RELEASED = (
    "{phase}: the weights that {covered}/{desired} engines had from the last commit are released; "
    "no engine gets requests until a trainer commits anew"
)
WEIGHTS_GONE = (
    "{phase}: nobody vouches any more for the weights that {covered}/{desired} engines had from "
    "the last commit: they were released, or written over by an update that was aborted; no engine "
    "gets requests until a trainer commits anew"
)
SYNC_EXPIRED = (
    "{holder} began a weight update and has not renewed the Lease for {seconds} s: the engines may "
    "hold half of it"
)
SYNC_VACANT = (
    "the Lease of a weight update names its holder no more, so it was edited: the engines may hold "
    "half of it"
)
LEASE_FORGOTTEN = (
    "the Lease {lease} was deleted, emptied or made anew, maybe amid an update, and nobody else "
    "knows what the engines hold"
)
LEASE_PUT_BACK = (
    "the Lease {lease} was put back to what it said earlier, as from a backup: it counts {then} "
    "transactions, not those {count} that were seen, and nobody knows what the engines hold by now"
)
LEASE_ANEW = (
    "the Lease {lease} was deleted, emptied or made anew, and whoever had begun something by it "
    "may not know yet"
)
GATE_FORGOTTEN = (
    "the Lease {lease} belongs to somebody else, so that nobody vouches for these weights; delete "
    "it, and the operator makes it anew: the next committed update opens the gate"
)
GATE_NOT_COVERED = "the commit of version {version} did not cover this engine"
GATE_ABORTED = "the weight update was aborted ({message}); the next committed one opens the gate"
# Read again by ``lease_state.marked``: a lost Lease is made anew from it.
GATE_SLEEPING = "released: {released}; a request would end this engine"
GATE_AWAKE = (
    "the memory is there, and nobody vouches for the weights in it: they were released, or an "
    "update of them was aborted; the next committed update opens the gate"
)
GATE_NOT_ASLEEP = (
    "this engine sleeps no more, or never did, and its weights are there; a wake of the pool or "
    "the next committed update opens the gate"
)
GATE_INITIAL = "the engine still names the weight version that it started with"
NAME_CONFLICT = (
    "{objects} exists and does not belong to this pool; it is left as it is: delete it "
    "({command}), or give the pool another name"
)
NAME_CONFLICTS = (
    "{objects} exist and do not belong to this pool; they are left as they are: delete them "
    "({command}), or give the pool another name"
)
HISTORY_UNREAD = "the operator may not read {plural}"
HISTORY_DO_ROLES = "apply the roles of this version of the operator"
HISTORY_TAKEN = "what does not belong to this pool has the name of its revision ({objects})"
HISTORY_DO_DELETE = "delete that ({command})"
HISTORY_REFUSED = "{plural} of this pool could not be written ({message}; tried again {when})"
HISTORY_DO_ALLOW = "see that roles, quotas and policies let the operator write them"
HISTORY_CHANGED_BACK = "somebody changes {kind} {name} back each time it is written ({times} times)"
HISTORY_DO_SEE_WHO = "see who does (kubectl get {kind} {name} -o yaml --show-managed-fields)"
QUOTA_EXCEEDED = "the API server refuses {kind} for quota: {message}; tried again {when}"
GATE_ASIDE = "the pod lost the labels of its pool, so nobody keeps its weights up to date"
PODS_VANISH = (
    "{count} times an engine's pods vanished within an hour without having been asked to end: "
    "somebody deletes them by force, or takes their label {label} away, and they hold GPUs out of "
    "sight; see kubectl get pods -l {selector}"
)
PODS_BEYOND = (
    "more than {most} pods of this namespace that may hold GPUs lost their label {label}, so that "
    "nobody counts these GPUs: no engine is put on any before all pods of the namespace are read; "
    "put the label back, or delete them"
)
GROUP_DROPPED = (
    "the API server dropped spec.schedulingGroup ({group}), so the pod would start without the "
    "others of its engine; turn its feature gate GenericWorkload on, or choose another "
    "scheduling.gang"
)
LABEL_CHANGED = (
    "an admission webhook or policy changes its label {label} from {wanted} {found}, by which the "
    "pool finds its engines; have it leave the label alone"
)
LABELS_TAKEN = (
    "{count} pods of engine {engine} stand aside ({pods}): their labels {labels} were taken away "
    "or changed after they were made; no more are made until all but one are gone"
)
CREATE_REJECTED = (
    "the API server refuses {kind} {name}: {message}; correct the cause, tried again {when}"
)
REVISION_REFUSED = (
    "the rollout does not start, and the engines run on: the API server would refuse {kind} of "
    "revision {revision}: {message}; correct the cause, tried again {when}"
)
CHANGED_BACK = (
    "somebody changes {kind} {name} back each time it is written ({times} times by now): a "
    "webhook, a policy or another operator; see who: kubectl get {kind} {name} -o yaml "
    "--show-managed-fields"
)
CHILD_REFUSED = (
    "the API server refuses {kinds} of this pool: {message}; the engines run; tried again {when}"
)
GROUP_REFUSED = (
    "the API server refuses {kind} {name}, by which a scheduler knows pods of an engine that are "
    "there: {message}; tried again {when}"
)
API_ERROR = "the API server did not do what was asked: {message}; tried again {when}"
TRY_AGAIN = "every {seconds} s at most"

BY_LIMIT_RANGE = ", by a LimitRange of the namespace"

# --- which operator acts, and who waits for it
ALL_NAMESPACES = "all namespaces"
HOLDER_SERVES_OTHERS = (
    "waiting for the Lease {namespace}/{name}, which {holder} holds: it serves {theirs}, and this "
    "one is to serve {own}"
)
RIVAL_SERVES_OTHERS = (
    "waiting for {holder}, which holds the Lease {namespace}/{name} and serves {theirs}: this one "
    "is to serve {own}, and no two write to one pool"
)
DO_ONE_OPERATOR = (
    "leave one of them (helm list -A, helm uninstall), or give each namespaces of its own: "
    "watch.scope=Namespaced and watch.namespaces"
)
DO_ONE_LEASE_EACH = (
    "give each release a Lease of its own (leaseName of the chart, which sets --lease-name; empty "
    "is the release's full name), or install one release for all: watch.namespaces"
)

# --- the weights Lease (weights/lease_state.py): why a step was refused, or a transaction aborted
WEIGHTS_HELD = (
    "{holder} holds the weights of this pool ({phase} since {since}, until {until} unless it "
    "renews); wait until it commits or aborts, or run only one trainer for each pool"
)
WEIGHTS_HELD_BY_NAMESAKE = (
    "{holder}, which is this trainer's name too, holds the weights of this pool in another "
    "transaction ({phase} since {since}, until {until} unless it renews); wait until it ends, or "
    "if nobody is at it any more: kubectl sglang weights abort --gone --holder {holder}"
)
WEIGHTS_FENCED = (
    "{holder} ended what was under way in this pool ({why}) at {since}, and whoever was at it may "
    "not know yet: nothing new begins before {until}; try again then, or wait for longer. If its "
    "processes have ended for certain: kubectl sglang weights abort --force --gone"
)
# Behind each of these.
DURATION_EDITED = (
    ". Its leaseDurationSeconds says {said}, which was edited: others wait for the {seconds} s "
    "that its holder counts on"
)
WEIGHTS_OWN_FENCED = (
    "{holder} ended its shared sync ({why}), and the other processes of its job may not know yet: "
    "what they write would end engines that sleep or are reset, or tear the weights of a sync that "
    "they do not join; nothing but their next shared sync begins before {until}"
)
WEIGHTS_VACANT = (
    "the Lease is in phase {phase} and names no holder, so it was edited, and whoever was at it "
    "may not know yet: it is free once it was seen so for as long as it is held without renewal"
)
WEIGHTS_RECOVERING = (
    "the operator ({holder}) loads version {version} from {checkpoint} into {count} of the engines "
    "since {since}, until {until} unless it renews; it is done when they have read it, and nothing "
    "else may be written to them meanwhile: try again then"
)
WEIGHTS_NOTHING_TO_LOAD = (
    "there is nothing to load; expected engines that lack the committed weights, and a commit that "
    "named a checkpoint"
)
WEIGHTS_NOT_HELD = (
    "the transaction {transaction} is not the present one: the Lease is in phase {phase}{by}; "
    "begin again, and write all weights again"
)
SLEEP_GIVEN_UP = ", and says already that this sleep has released nothing"
WEIGHTS_NOT_LEFT = (
    "the process of {holder} that was at this sync is gone and has not left it (detach): engines "
    "may hold halves; begin again, and write all weights again"
)
WEIGHTS_PHASE = "{step} is not possible in phase {phase}; expected {expected}"
WEIGHTS_ASLEEP = (
    "the engines' {released} memory is still released; wake them before the commit opens their "
    "gates, because a request to a sleeping engine kills it"
)
WEIGHTS_OBJECTION = (
    "there is no commit over an engine that was not written as it had to be: {why}; mend that, "
    "begin again, and write all weights again"
)
WEIGHTS_NOT_WRITTEN = (
    "the commit covers instances that nobody vouches for ({which}); expected that whoever writes "
    "into an engine has said that all of it arrived: begin again, and write all weights again"
)
WEIGHTS_NO_INSTANCES = "the commit names no engine; expected the instances whose weights it covers"
PART_WITHOUT_ENGINES = (
    "the sleep of a part names no engine; expected the instances that are to sleep"
)
WEIGHTS_RESET_ASLEEP = "{released} memory is released; wake the engines before a reset"
WEIGHTS_FORMING = (
    "{holder} forms its process groups with the engines (since {since}); wait until it has, or run "
    "only one trainer for each pool"
)
WEIGHTS_GROUPS_IN_USE = (
    "the engines are in the process groups of {holder}, since {since}, which was seen at {seen}: a "
    "reset would end its training, or let it set them up again. Nothing was touched; end that "
    "trainer first, or say that it is gone (kubectl sglang weights reset --force; force=True)"
)
WEIGHTS_RESET_ANEW = "the Lease was made anew: nobody knows what engines hold; sync before a reset"

# --- versions of SGLang
VERSION_TO_SET = (
    "trainers are told so; set engineVersion: {version}, so that arguments and probes fit too"
)
VERSION_UNRELEASED = (
    "that is no release, so what they can do is not known from it; set engineVersion to the "
    "release that they are nearest to"
)
VERSION_FORBIDS_SYNC = "; of that version no trainer may sync them: {why}"
