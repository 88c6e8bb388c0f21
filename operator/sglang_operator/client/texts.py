"""The client's messages: what was found, what was expected, what to do."""

NO_CLUSTER = "{detail}; give kubeconfig=, set KUBECONFIG, or run inside the cluster"
ANSWER_TOO_LARGE = "the answer is larger than {most} bytes"
REDIRECT = "it redirects to {location}, which is not followed"
UNREACHABLE = "the API server {server} does not answer: {detail}"
REFUSED = "the API server refuses {verb} {what}: {status} {message}"
UNAUTHORIZED = (
    "the API server does not take these credentials for {verb} {what}: {message}; renew the token "
    "or certificate, or the login, that they come from"
)
FORBIDDEN = (
    "the API server refuses {verb} {what}: {message}; bind the trainer's Role "
    "(manifests/samples/trainer) to this identity"
)
NO_REGISTRY = (
    "there is no registry {namespace}/{name}; expected a pool {pool} that the operator has seen: "
    "check the name, the namespace and that the operator runs"
)
NO_LEASE = (
    "there is no Lease {namespace}/{name}; the operator makes it for each pool: check that it runs "
    "and is new enough"
)
NO_SLOTS = (
    "there is no ConfigMap {namespace}/{name}; the operator makes it for a pool with "
    "placement.mode Shared and no placement.shared.slots: check pool {pool}, and that the operator "
    "runs"
)
POD_UNKNOWN = (
    "this pod does not say who it is: {missing} not set; give the container env with valueFrom "
    "fieldRef: NODE_NAME (spec.nodeName), POD_NAME (metadata.name), POD_UID (metadata.uid)"
)
NODE_RANK_UNKNOWN = (
    "node_rank is {found}; expected which of the trainer's nodes this is, 0 to 9999, given or in "
    "the variable NODE_RANK"
)
GPUS_UNKNOWN = (
    "nobody tells which GPUs this container has: there is no NVML, nvidia-smi says nothing, and "
    "NVIDIA_VISIBLE_DEVICES names no UUIDs; give gpus=, as nvidia-smi -L tells them on the node"
)
NUMBERS_TAKEN = (
    "an engine has the process numbers of this process (span {span} in {folder}): a handle of GPU "
    "memory would be taken for its own; start one of the two again, this one first"
)
NUMBERS_UNLOCKED = (
    "the process numbers of this process cannot be kept from engines: {path}: {error}; have "
    "trainer and engines run as one user, and nothing else write there"
)
SLOT_PUBLISHED = "{pool}: node rank {rank} has {gpus} GPUs"
BROKEN_REGISTRY = "the registry {namespace}/{name} cannot be read: {detail}"
NOT_UP = "{up}/{wanted} engines are up; waiting for {which}"
NO_ENGINES = "the pool has no engines: its replicas are 0 or it is suspended"
NOT_FOLLOWED = "the registry cannot be followed: {detail}"
BLIND = (
    "for {seconds:.0f} s it could not be seen whether engines restarted ({detail}); the sync to "
    "{version} is aborted and every gate closes"
)
SLEEP_LOST = "the Lease of the sleep is lost: {reason}"
LOOP_ENDED = "the client's thread has ended; make another Pool"
WAITED = "{what} after {seconds:.0f} s"
STALE_BEFORE = (
    "the engines are not those of epoch {given} any more (now {epoch}); make the plan and the "
    "process group anew, then begin again"
)
STALE_DURING = (
    "{what}; the sync to {version} is aborted and every gate closes: wait until the pool is ready, "
    "make the process group anew, and write all weights again"
)
RESTARTED = "engine {rank} ({engine}) restarted"
GONE = "engine {rank} ({engine}) is gone"
MOVED = "engine {engine} is rank {now} now, was {rank}"
NOT_RENEWED = (
    "the Lease could not be renewed for {seconds:.0f} s ({detail}); the transaction counts as "
    "aborted, and every gate closes"
)
NOT_SENT = (
    "POST {path} was not sent to engine {rank} ({url}): by the time that it was to leave, the "
    "Lease had not been renewed for too long, or the transaction was over; begin again, and write "
    "all weights again"
)
TURN = (
    "{holder} is in {call} since {since}, in another thread or task; wait until that call returns, "
    "one changes the engines' memory at a time"
)
CONFLICTS = (
    "the Lease was changed by others {count} times in {seconds:.1f} s, each time before it could "
    "be written ({detail}); look who writes it: kubectl get lease -o yaml --show-managed-fields"
)
LEASE_DELETED = (
    "the Lease was deleted under this transaction, which is over; nobody vouches for what the "
    "engines hold: begin again, and write all weights again"
)
LEASE_ANEW = (
    "the Lease was deleted under this transaction, and made anew: it is over, and nobody vouches "
    "for what the engines hold; begin again, and write all weights again"
)
OWED = (
    "what became of the engines' memory does not stand in the Lease: {detail}; those that it takes "
    "for asleep and that are awake end when they are woken, and come back behind a closed gate"
)
OWED_ABORT = (
    "that the sync was aborted does not stand in the Lease: {detail}; unless it is over, others "
    "wait until its duration is over, or for: kubectl sglang weights abort --force"
)
OWED_REST = (
    "that this process changes engines no more does not stand in the Lease: {detail}; another one "
    "of its name waits until the Lease was not renewed for its whole duration"
)
UNANSWERED = "the API server has not said whether it wrote the Lease, and may write it yet"
NO_ANSWER = "the API server does not answer"
UNREACHED = (
    "{error}; nothing was begun, and clients are served as before: run this where the pods' "
    "addresses lead to the pods, as inside the cluster (manifests/samples/trainer)"
)
OTHER_VERSION = (
    "engine {rank} ({engine}, {url}) says that it is SGLang {said}, and the registry that it is "
    "{version}, of which other requests are to be made; it was not changed. The operator tells the "
    "registry what engines say within seconds of their start, but cannot ask those that have a "
    "key: set engineVersion: {said} in the pool"
)
UNREACHED_LATER = (
    "{error}; the sync that was begun is left as it is until its time is over: run this where the "
    "pods' addresses lead to the pods, as inside the cluster (manifests/samples/trainer)"
)
SEVERAL = "{failed} of {asked} engines cannot be reached, the first: {error}"
NOT_BEGUN = (
    "{holder} has no sync to end: the pool is in phase {phase}, held by {found}; begin one, or say "
    "with --holder who began it"
)
ATTACH_ASLEEP = (
    "the sync of {holder} ended before the engines had memory for weights again, so nothing was "
    "written; abort it (kubectl sglang weights abort) and begin again, which wakes them first"
)
ANOTHER_BEGUN = (
    "the sync of {holder} that was to be ended (transaction {found}) is over or was taken up by "
    "another process, and {holder} has another one now; look at it (kubectl sglang weights "
    "status), then end that"
)
UNDER_WAY = (
    "updates of this sync ({count} calls) are still under way after {seconds:.0f} s; wait for each "
    "before the sync ends (the result of submit(), the task), and see that the trainer broadcasts"
)
UPDATE_LATE = (
    "POST {path} comes after the sync was told to commit, and was not sent; wait for each update "
    "before the sync ends (the result of submit(), the task)"
)
LEFT_OUT = (
    "{count} engines got no update in this sync while others did, the first: engine {rank} "
    "({engine}, {url}); a commit covers no engine that was not written: write into all of them"
)
UPDATE_CANCELLED = (
    "POST {path} was cancelled before every engine had answered, so that nobody knows what they "
    "hold; make this update again, or all of them from disk, before the sync ends"
)
WRITTEN_BEFORE = (
    "POST {path} was made in a sync that is over, and not again in the one that came after it; "
    "send every bucket again once a sync was aborted"
)
CLOSED = "the pool was closed meanwhile"
OVER = "this sync is over; begin another one"
NO_PAUSE = (
    "SGLang {version} has no /pause_generation, so requests would be answered while weights are "
    "written; make sure that nobody sends any, then pass pause=None"
)
LACKS_PATH = (
    "engine {rank} ({engine}) has no {path}, so that it is not SGLang {version} as its pool says; "
    "nothing was begun: give the pool the version that its image has (spec.engineVersion), or an "
    "image whose tag says so"
)
PAUSE_MODE = "SGLang {version} cannot pause in mode {mode}; expected abort"
PAUSE_KEEPS_CACHE = (
    "SGLang {version} cannot empty its prefix cache while requests wait, so that pause={mode} "
    "would leave answers from the old weights' cache under the new version; use pause='abort'"
)
PAUSE_UNKNOWN = (
    "pause={mode!r}: expected 'abort', 'retract' (which keeps requests, and has their cache "
    "computed anew) or None; a mode that keeps the old weights' cache, as 'in_place' does, would "
    "leave answers from it under the new version"
)
GROUP_TAKEN = (
    "{error}; the engine is in a group of this name that it cannot leave, which torch keeps for "
    "the life of its process: give the group another name on both sides, or restart the engines "
    "(kubectl sglang rollout restart)"
)
NOT_IN_GROUP = (
    "engine {rank} ({engine}, {url}) is not in the process group {name}: it came, or restarted, "
    "after the group was set up; nothing was sent, because SGLang ends over a group that it is not "
    "in. Set the group up again with all engines, and write all weights again"
)
GROUPS_TAKEN = (
    "the engines are in the process groups of {holder} since {since} (it was seen at {seen}), and "
    "in this trainer's no more: nothing was sent, because they would write what that one "
    "broadcasts. If both are to go on in turns, set the group up again and write all weights "
    "again; else end one of them"
)
GROUPS_NOT_OWN = (
    "the engines are in the process groups of {holder} since {since} (it was seen at {seen}), and "
    "this trainer has set none up: nothing was sent. Set its group up (init_weights_update_group); "
    "or, where it forms groups by means of its own, end the other and call kubectl sglang weights "
    "reset before"
)
GROUPS_RESET = (
    "the engines are in no process group since {since}: {holder} has reset them (kubectl sglang "
    "weights reset). Nothing was sent, because SGLang ends over a group that it is not in; set the "
    "group up again, and write all weights again"
)
GROUPS_FORGOTTEN = (
    "the Lease was deleted and made anew, and does not say any more whose process groups the "
    "engines are in. Nothing was sent, because SGLang ends over a group that it is not in; set the "
    "group up again, and write all weights again"
)
GROUPS_FROM = (
    "the engines leave the process groups of {holder}, which has set them up (since {since}, seen "
    "at {seen}): should it go on, it is told so before it sends anything"
)
RESET_VERSION = (
    "SGLang {version} has no /destroy_weights_update_group, so its engines leave a group only with "
    "their process; restart them: kubectl sglang rollout restart {pool}"
)
RESET_STUCK = (
    "{error}; its scheduler may wait for a trainer that is gone, in a broadcast that never comes. "
    "The other engines are reset; delete the pods of {engine}, and it comes back in no group"
)
RESET_NONE = "no engine runs that could be reset; one that starts is in no group"
BUSY = (
    "requests still run after {seconds:.0f} s, so that the cache of the old weights cannot be "
    "emptied; see that nobody sends any, or give the sync a pause"
)
BUSY_STILL = (
    "requests are still left after {seconds:.0f} s in a scheduler that stands still, as those that "
    "wait for their grammar do, which no abort ends; it cannot be let run, because its weights may "
    "not be whole and what waits would be answered from them. Restart the engine: delete the pods "
    "of {engine}, and sync again once it is back"
)
NO_SYNC = (
    "these engines cannot be synced: {why}; remove it from the pool, whose engines start anew then"
)
TAGS_UNKNOWN = (
    "SGLang {version} does not know the memory {tags}; it knows {known}. Nothing was taken, "
    "nothing released"
)
TAGS_NOT_APART = (
    "SGLang {version} releases weights and KV cache together, so that {tags} alone cannot be "
    "released; name both"
)
UNLISTED = (
    "engines that the spec wants no more still run, hold their memory or sleep, and the registry "
    "does not say where they answer: pods {pods}; wait for the rollout, or let it go on (kubectl "
    "sglang rollout), and try again"
)
STILL_GOING = (
    "pods {pods} are on their way out, still answer what they were asked before, and hold their "
    "memory after {seconds:.0f} s; sleep once they are gone"
)
NO_MEMORY_SAVER = (
    "the engines cannot release memory: enable_memory_saver is not set. SGLang would answer 200 "
    "and free nothing; set it in strategy_config, e.g. enable_memory_saver: true"
)
NOT_ACKNOWLEDGED = (
    "the operator has not {what} within {seconds:.0f} s (its registry has transaction "
    "{transaction}, phase {phase}); check that the operator runs, and by its log or /readyz "
    "that it may read the namespace. Nothing was released"
)
KEEPS_IMAGES = (
    "{which}: the model sees images, and these engines keep what its vision tower makes of each, "
    "under the image's hash, where nothing empties it: after a commit the tower of before would "
    "answer. They were started with SGLANG_VLM_CACHE_SIZE_MB other than 0, by an earlier operator "
    "or by system_envs or podTemplate: remove it there, and have them replaced "
    "(kubectl sglang rollout restart {pool}). Nothing was sent to them"
)
NOT_CONFIRMED = (
    "the operator has not told of the engines since this was begun, {seconds:.0f} s ago (its "
    "registry has {has}{trouble}), and an address in it may be another pod's by now: no engine was "
    "asked to change anything. Check that the pool's spec is taken (kubectl sglang status), that "
    "the operator runs, and by its log or /readyz that it may read the namespace; then try again"
)
CONFIRMED_TRANSACTION = "transaction {transaction}, phase {phase}"
CONFIRMED_GROUPS = "process groups {groups}, claim {claims}"
NOT_TO_SLEEP = (
    "{engines}: running but not ready, and without an answer for {seconds:.0f} s, so that the "
    "memory it holds cannot be released; nothing was taken, nothing released: wait until it is "
    "ready (wait_ready), then sleep"
)
ENDED_BY_OPERATOR = (
    "the operator has ended this transaction before anything was asked of an engine, because the "
    "Lease was edited or put back to an earlier state: begin again"
)
HIDDEN_FROM_SLEEP = (
    "engines may run in pods {pods}, of whose containers nothing has been told for "
    "{seconds:.0f} s, so that the memory they hold cannot be released; nothing was taken, nothing "
    "released: try again once they are back, or delete those pods"
)
SLEEPS_OUT_OF_SIGHT = (
    "these engines sleep, and for {seconds:g} s the registry has not said where they are: "
    "{engines}; the pool stays asleep, because they would be counted as awake: call wake() again "
    "once they are back, or delete their pods"
)
MEMORY_UNCLEAR = (
    "{engines}: told to release or to resume memory, and the answer was lost, so that nobody knows "
    "which of their memory is there; told so again one that has done it ends, and so does one that "
    "serves and has not: replace them (kubectl delete pod {pods}), and try again once they are back"
)
NOT_SILENCED = (
    "an engine that this sync does not write into was not paused, and clients that keep their "
    "connections may get answers from older weights: {error}"
)
SLEEPERS_HIDDEN = (
    "engines that sleep may be in pods {pods}, of whose containers nothing is told, and a sync "
    "would count them as awake: try again once they are back, or delete those pods"
)
NOT_ALL_ASLEEP = (
    "{engines}: came up while the pool was put to sleep, and holds its memory; the others sleep: "
    "call sleep() again once it is ready"
)
PARTS_UNKNOWN = (
    "the operator is of a release that knows of no parts of a pool, and would close every gate: "
    "sleep and wake the pool as a whole, or update the operator"
)
PART_NOWHERE = "no engine of the pool is at the GPUs {devices}; its engines have {there}"
PART_BESIDE = (
    "beside the pool's engines others run, and nobody knows on which of its GPUs: {engines}; sleep "
    "the pool as a whole, or wait until the rollout has ended them"
)
PART_WITHOUT_A_RUN = "none of these engines runs: {engines}; there is no memory to release yet"
PART_NOT_COMMITTED = (
    "no version of the weights was committed, so that nothing would tell, once a part gave up its "
    "own, which engines are whole: {engines} would get no requests either. Commit one first, keep "
    "the weights (tags kv_cache), or put the pool to sleep as a whole"
)
BEGUN_BEFORE = "this sync was begun before; make another for each try: pool.sync(version)"
ABORTED = "{kind}: {message}"
NOTHING_SLEEPS = "there is nothing to wake: the pool is in phase {phase}"
NOT_SYNCED = "{synced} engines have their gate open at version {version}"
NOT_COMMITTED = (
    "version {version} is not committed (the pool has no gate, so its Lease tells: {phase}, last "
    "committed version: {last!r})"
)

# --- ROLL (client/roll.py)
ROLL_SIZE = (
    "ROLL has {workers} inference workers, the pool has {engines} engines; expected as many, "
    "because ROLL's process groups have a place for each: give both the same device_mapping and "
    "num_gpus_per_worker"
)
ROLL_EXTRA = (
    "engine {rank} ({engine}) has no inference worker of ROLL's, whose number does not change: it "
    "gets no weights, and stays closed, until ROLL is started with as many workers as engines"
)
PART_OF_THE_POOL = (
    "engines that this trainer does not write into: {which}; the pool's gate is {gate}, so that "
    "nothing keeps requests from weights that a sync before has left in them. Start the trainer "
    "with as many workers as the pool has engines ({engines}), or give the pool gate Committed "
    "(spec.weights.gate)"
)
PART_WITHOUT_GATE = (
    "engines that this trainer does not write into: {which}; they were started before the pool's "
    "gate was {gate}, so that nothing keeps requests from weights that a sync before has left in "
    "them. Start the trainer with as many workers as the pool has engines ({engines}), or wait "
    "until the rollout has replaced them (kubectl sglang rollout status)"
)
ROLL_NO_IDS = (
    "the engines of ranks {ranks} have no GPU ids, so that they cannot sleep alone: give the pool "
    "a device_mapping in place of replicas"
)
ROLL_NO_HOOK = (
    "ROLL's schedulers and env managers have processes of their own, which would import ROLL's "
    "strategy for sglang, and there is no sglang in this image; start the job with Ray's hook: "
    'runtime_env {{"worker_process_setup_hook": "{hook}"}}'
)
ROLL_LORA = (
    "{role} trains a LoRA adapter (model_args.lora_target: {target}), whose updates neither ROLL's "
    "strategy for sglang nor a pool can take; leave lora_target out, or infer with vllm"
)
ROLL_REPLAY = (
    "router_replay wants to know the experts of each token, which SGLang {version} cannot tell "
    "over HTTP without a tokenizer; use an image of 0.5.10 or newer, or router_replay.mode: disable"
)
ROLL_FREQUENCY = (
    "actor_train.model_update_frequency is {frequency}, and the pool sleeps in each step, because "
    "other roles share actor_infer's ids: SGLang {version} releases the weights with the rest, so "
    "that a step without an update would have none. Use an image of a version that releases "
    "kv_cache alone, model_update_frequency: 1, or a device_mapping of its own for actor_infer"
)
ROLL_EXPERTS = (
    "an answer tells of {count} experts, which are no whole tokens of a model of {layers} layers "
    "that chooses {chosen} each; give ROLL the model that the pool has (model_name_or_path)"
)
ROLL_NO_EXPERTS = (
    "the engines tell no experts (enable_return_routed_experts is off), but router_replay needs "
    "them: write router_replay into the pool too"
)
ROLL_MEDIA = (
    "a request has {kind} data, which ROLL hands over as tensors of its own process; a pool's "
    "engines take text and pictures only: train without it, or infer with vllm"
)
ROLL_MEDIA_FILE = (
    "{role} has prompts with {kind} data (data_args.{key}: {told}), which ROLL hands over as "
    "tensors of its own process; a pool's engines take text and pictures only: train without it, "
    "or infer with vllm"
)
ROLL_BATCH_OF_PICTURES = (
    "a batch with pictures is generated by ROLL's router only (generate_request), one by one"
)
ROLL_OTHER = "{name} is {given} in ROLL's file, and {found} at the engines"
ROLL_DIFFERS = (
    "the pool {pool} is not what ROLL's file says of {role}, and stays as it is: {differences}; "
    "write both alike, or name another pool (strategy_config.pool)"
)
ROLL_NOT_COMPARED = "the pool could not be compared with ROLL's file: {error}"
KEY_FILE = (
    "the file that {variable} names cannot be read: {detail}; expected one that holds the key"
)
ROLL_OVER = "the transaction {transaction} of worker 0 is over: the Lease is in phase {phase}"
ROLL_GROUP = "the process group {name} is not of the engines as they are now"
ROLL_GIVEN_UP = "this model update was given up, and another one may go on: nothing more is written"
ROLL_LEADER = "worker 0 keeps it, and may have ended"
ROLL_STALE = (
    "{what}, since ROLL formed its process groups; set the model update up again "
    "(setup_model_update), or start the pipeline again from its checkpoint"
)
ROLL_AGAIN = "{what}; ROLL's process groups are set up again once the pool is up"
ROLL_STUCK = (
    "{error}: it has not left its process groups yet. If it waits for a broadcast that does not "
    "come any more, NCCL ends it within ten minutes; to go on at once, delete the pod {pod}"
)
ROLL_SILENT = (
    "{error}: it does not leave its process groups, and the registry has had it up for "
    "{seconds:.0f} s since; delete the pod {pod}, then start the pipeline again from its checkpoint"
)
ROLL_FOLLOW = (
    "worker 0 has not done its part in time: the Lease is in phase {phase}, held by {holder}; this "
    "call has to be made to all inference workers"
)
ROLL_ELSEWHERE = (
    "engine {rank} ({engine}, {url}) ended, or did not answer: another engine of the same policy "
    "answers its requests, until the next model update has set the groups up again"
)
ROLL_ENDED_OVER = (
    "{count} engines ended over the request {rid}, or ended their connections: it may be what ends "
    "them; ROLL is told that it was aborted. See why they ended: kubectl sglang logs"
)
ROLL_NOBODY = (
    "no engine of the policy has answered a request for {seconds:.0f} s{why}; ROLL is told that it "
    "was aborted, and goes on with others"
)
ROLL_NOT_OPEN = (
    "this job has written no weights itself, and no engine with committed ones is open ({states}); "
    "its requests wait until a trainer has committed a model update (kubectl sglang weights status)"
)
ROLL_GIVES_UP = (
    "no engine of the policy has answered any request for {seconds:.0f} s{why}, and none will "
    "before a model update, which comes after the answers ({states}). If they cannot be reached, "
    "see what keeps this pod from them (NetworkPolicy, the network of its node); else start the "
    "pipeline again from its checkpoint, or let the pool load weights itself "
    "(spec.weights.recovery)"
)
ROLL_UNANSWERED = (
    "no engine of the policy has answered this batch, or it was aborted; see that the pool is up "
    "(kubectl sglang status), then generate again"
)
ROLL_NOT_ABORTED = "{error}; it counts as aborted with the engine"
NOBODY_VOUCHES = (
    "nobody vouches for {count} engines after {seconds:.0f} s: {which}; their workers have to end "
    "the model update too (process_weights_after_loading), each after its last bucket"
)
ROLL_VOUCHED = (
    "worker 0 is to write more once others have vouched for their engines: of another update, and "
    "it was not told that this one has ended (process_weights_after_loading)"
)
OBJECTION = "a worker could not write what it had to ({why}); nothing is committed"
NO_BUCKET = (
    "engine {rank} ({engine}, {url}) got no update in this sync while others did; a commit covers "
    "no engine that was not written: send every bucket to all inference workers"
)

# --- what a trainer gives (client/given.py)
WRONG_ARGUMENT = "{argument} is {found} ({kind}); expected {expected}"
WRONG_KEY = "{argument} ({kind}, not shown); expected one line of ASCII text"
EXPECTED_TEXT = "text"
EXPECTED_TAGS = "a list of SGLang's memory tags, such as ['weights', 'kv_cache']"
EXPECTED_DEVICES = "GPU ids of device_mapping, such as range(0, 8)"
EXPECTED_GROUPS = "a list of names of process groups, such as ['slime-pp_0']"
EXPECTED_NOT_EMPTY = "text that is not empty"
EXPECTED_PRINTABLE = "one line of text, without control characters"
EXPECTED_SHORT = "at most {most} characters, found {length}"
EXPECTED_NAME = "the name of an object of Kubernetes: lower-case letters, digits, '-' and '.'"
EXPECTED_SECONDS = "seconds, 0 or more"
EXPECTED_ABOVE = ", above {above:g}"
EXPECTED_AT_MOST = ", at most {most:g}"
EXPECTED_PORT = "a TCP port, 1 to 65535"
