"""What ``kubectl sglang`` tells people: its answers and its advice.

What the operator says of a pool is quoted from its status; its texts stand in ``api.texts``.
"""

DIFF_NO_ROOM = "on the nodes where its engines stand now, this change will stall: {message}"
DIFF_NO_SYNC = (
    "no trainer can sync before old engines have made way for all new ones: they go {budget} at a "
    "time without waiting for a sync, and fewer and fewer engines serve until the next one; make "
    "this change between two trainings"
)
KUBECTL_FAILED = "{command}: {detail}"
KUBECTL_MISSING = "kubectl cannot be run: install it and put it on the PATH, or name it in $KUBECTL"
KUBECTL_SLOW = "no answer in time: is the cluster reachable?"
NO_SUCH_POOL = "there is no SGLangInference {name} in {namespace}; kubectl get sgi -A lists all"
LEASES_UNREADABLE = "who holds the operator's Lease cannot be seen: {detail}"
DO_FIND_OPERATOR = "kubectl sglang doctor"
NODES_UNREADABLE = "nodes cannot be read: {detail}"
DELETING = "the pool is being deleted{held}; its engines go with it"
UNSEEN = "the operator has not looked at generation {generation} of this pool yet"
GATES_CLOSED = (
    "{closed} of {desired} engines are up, but clients do not reach them: the weights gate "
    "({gate}) is closed until a trainer commits"
)
GATES_ASLEEP = (
    "{closed} of {desired} engines are up, but clients do not reach them: the trainer closed the "
    "gates for a sleep, and their weights are kept"
)
ENGINES_GO_ON = (
    "engines that run on as they were: {count} ({gpus} GPUs); nothing restarts or scales them "
    "until the spec is mended"
)
ROLLOUT_HELD = "{old} of {desired} engines run an older revision: rollout.paused keeps them"
FAILED_BEFORE = "engines {engines} ended, last {age} ago: {message}"
FAILED_TO_RUN = "engines {engines}, last {age} ago: {message}"
FAILED_LAST = " (engines {engines}, last {age} ago)"
DO_EDIT = "kubectl edit sgi {name} -n {namespace}"
DO_DOCTOR = "kubectl sglang doctor"
DO_MAP = "kubectl sglang map -A: who has the GPUs; kubectl describe nodes: taints and capacity"
DO_QUOTA = "kubectl describe resourcequota -n {namespace}"
QUEUE_SAYS = "Kueue of {engine}: {message}"
DO_QUEUE = "kubectl describe workloads -n {namespace}"
DO_KUEUE = "kubectl get pods,configmaps -n kueue-system"
DO_GROUPS = (
    "kubectl sglang map -A: who has the GPUs; kubectl describe pods -n {namespace} -l "
    "sglang-operator.dev/pool={name}: what the scheduler says"
)
DO_GANG = "kubectl api-resources | grep -i podgroup: what the cluster serves"
DO_NODES = (
    "kubectl get nodes; engines go elsewhere from a single lost node with restart.onNodeLost: "
    "Replace, and from a node that is deleted"
)
DO_LOGS = "kubectl sglang logs {name} -n {namespace}"
DO_UNSUSPEND = (
    'kubectl patch sgi {name} -n {namespace} --type=merge -p \'{{"spec": {{"suspend": false}}}}\''
)
DO_ROLLOUT = "kubectl sglang rollout status {name} -n {namespace}"
DO_IMAGE = "check spec.image and podTemplate.spec.imagePullSecrets; kubectl describe pods says more"
DO_COMMIT = "let the trainer commit through the Lease {name}-weights (sglang_operator.client)"
DO_WAKE = "let the trainer wake them, or: kubectl sglang weights wake {name} -n {namespace}"
DO_RESUME = "kubectl sglang rollout resume {name} -n {namespace}"
NO_POOLS = "there is no SGLangInference in {namespace} to wait for; -A looks in all namespaces"
POOL_GONE = "there is no such pool, or it was deleted meanwhile"
WAIT_TIMED_OUT = "not {aim} after {seconds} s"
ROLLOUT_REFUSED = (
    "the spec of {name} is refused, so nothing rolls; kubectl sglang status {name} -n {namespace}"
)
ROLLOUT_STATUS = "{current}/{desired} engines run revision {revision}"
ROLLOUT_PAUSED = "rollout.paused: the others stay as they are until it is resumed"
ROLLOUT_GOES_ON = "the others follow, at most {budget} away at a time"
ROLLOUT_WINDOW = (
    "rollout.window BetweenSteps: until {until} engines that serve go only as a trainer's step ends"
)
ROLLOUT_STUCK = (
    "{engine} on the new revision does not start, and the others wait for it: {reason}: {message}; "
    "{advice}"
)
ROLLOUT_PARTITION = "rollout.partition {partition}: engines of lower rank stay as they are"
HISTORY_LINE = "{number}  {revision}  {engines}  since {since}{mark}"
HISTORY_PRESENT = "  (the spec's)"
HISTORY_NOTE = "to go back to one: kubectl sglang rollout undo POOL --to-revision NUMBER"
HISTORY_EMPTY = (
    "no revision is stored (rollout.revisionHistoryLimit 0, or the operator may not store them): "
    "to go back, apply the earlier object, from Git for example"
)
UNDO_NO_SUCH = "no revision {number} is stored; there are {known}"
UNDO_NO_EARLIER = "no other revision is stored: there is nothing to go back to"
UNDO_NOTHING = (
    "the spec of {namespace}/{name} is that of revision {number} ({revision}) already: engines are "
    "what they were by it"
)
UNDO_REFUSED = "with revision {number} the spec of {namespace}/{name} would be refused: {why}"
UNDO_DONE = (
    "{namespace}/{name} goes back to revision {number} ({revision}); a pool that Git owns needs it "
    "there too"
)
UNDO_FORCED = "; by this version's rules, and with what else its spec says, that is {revision}"
UNDO_CHANGES = "revision {number} ({revision}) changes of the spec of {namespace}/{name}:"
UNDO_CHANGE = "  {field}: {was} -> {now}"
UNDO_NOT_SET = "(not set)"
UNDO_GATE = "  the weights gate is {was} now, and would be {now}: see that clients may be served so"
UNDO_DRY_RUN = "nothing was written to {namespace}/{name} (--dry-run)"
UNDO_ASK = "write these changes?"
UNDO_UNCONFIRMED = (
    "nothing was written to {namespace}/{name}: nobody confirmed the changes (--yes writes them "
    "without asking)"
)
UNDO_OTHER_HASH = (
    "revision {number} is stored as {revision}, and what is stored makes {found}: somebody else "
    "wrote it, or an operator of another version, or the device_mapping has changed how engines "
    "span nodes. Nothing was written; if the changes above are what is wanted (kubectl get "
    "controllerrevision {object} -n {namespace} -o yaml has all of it), repeat with --to-revision "
    "{number} --force"
)
UNDO_PAUSED = "; rollout.paused keeps the engines until it is resumed"
HISTORY_LEFT_OUT = (
    "left out, as they are nothing that the operator writes: {names} (kubectl get "
    "controllerrevision {name} -n {namespace} -o yaml)"
)
OF_UNDO = "--to-revision, --force, --yes and --dry-run belong to undo"
FORCE_OF_ONE = "--force needs --to-revision: which revision is meant has to be said"
ROLLOUT_NOW_PAUSED = "rollout of {namespace}/{name} paused: changes wait, failures are still mended"
ROLLOUT_RESUMED = "rollout of {namespace}/{name} goes on"
ROLLOUT_RESTARTED = (
    "engines of {namespace}/{name} are replaced within rollout.maxUnavailable; a pool that Git "
    "owns needs the annotation {annotation} in spec.podTemplate.metadata there too"
)
NO_SUCH_ENGINE = "there is no pod of engine {engine}; there are {known}"
NO_LOG = "(no log: {detail})"
NO_DURATION = "found {found}, expected a time such as 90s, 5m or 2h"
DOCTOR_UNKNOWN = "could not be looked at: {detail}"
DO_REACH = "kubectl cluster-info; check --context and --kubeconfig"
KUBERNETES_OLD = "{found} is older than {oldest}, which the resource definition needs"
KUBERNETES_UNTESTED = "it should work; tested are 1.34 and newer"
DO_UPGRADE_CLUSTER = "upgrade the cluster"
CRD_MISSING = "the cluster does not know SGLangInference"
CRD_NOT_SERVED = "the definition serves another version only"
CRD_OLD = "the definition is older than this program: it lacks {missing}"
CRD_NEW = "the definition is newer than this program"
CRD_CURRENT = "as new as this program"
DO_INSTALL = (
    "install: helm install sglang-operator charts/sglang-operator --wait --namespace "
    "sglang-operator --create-namespace --set image.repository=REGISTRY/sglang-operator, the image "
    "built from operator/Dockerfile; or kubectl apply -k manifests, with newName set in "
    "manifests/controller/kustomization.yaml"
)
DO_UPGRADE_CRD = "kubectl apply --server-side -k manifests/crd, then upgrade the operator"
DO_UPGRADE_CLI = "upgrade this program: lint and render may refuse fields that exist"
GPUS_NONE = "no node has GPUs to give"
GPUS_FOUND = "{told} on {nodes} nodes"
GPUS_AWAY = ", {away} of them not usable now"
GPUS_USED = " · {resource}: {free} that no pool has, pools ask for {wanted}"
GPUS_LACKING = ", {unplaced} of them find no node"
DO_FEWER_ENGINES = (
    "kubectl sglang map -A: who has the GPUs; add nodes, or lower device_mapping or replicas"
)
POOLS_NONE = "none yet"
POOLS_READY = "{ready} of {total} are Ready"
DO_STATUS_ALL = "kubectl sglang status -A"
GPUS_PUBLISHED = "none is counted on any node; a driver publishes devices of {nodes} nodes"
DO_BY_CLAIMS = (
    "use placement.mode Slot, or Count where the DeviceClass has an extendedResourceName that is "
    "placement.resourceName (how-to/colocate-by-claims)"
)
DO_PLUGIN = "install the GPU vendor's device plugin (or GPU operator); kubectl describe nodes"
DO_RESOURCE_NAME = "name the resource in spec.placement.resourceName"
DO_NODES_AWAY = "kubectl get nodes: those that are NotReady or cordoned"
RIGHTS_GOOD = "you may work with pools in {namespace}"
RIGHTS_MISSING = "in {namespace} you may not: {missing}"
DO_RIGHTS = "ask for a role with these verbs; who may create a pool may run pods"
SECURITY = "{namespace} enforces the level {level}"
DO_SECURITY = {
    "privileged": "",
    "baseline": "engines fit; hostPath volumes and network.rdma need privileged",
    "restricted": (
        "engines fit with security.runAsNonRoot: true and a runAsUser other than 0; "
        "hostPath volumes and network.rdma need privileged"
    ),
}
QUOTA_GPUS = "{name} in {namespace}: {used} of {hard} {key} in use"
DO_QUOTA_FULL = "a pool waits until somebody gives GPUs back, or the quota grows"
FAMILIES = "pods have {pods} addresses first, Services {services}"
FAMILIES_UNTOLD = "; the operator is not told so, and engines listen on IPv4 alone"
DO_FAMILIES = "upgrade the operator's Deployment: $POD_IP from status.podIP, or --pod-address"
FAMILIES_DIFFER = (
    "; engines listen where their pods have their first address, and a Service does not reach "
    "them there"
)
DO_FAMILIES_DIFFER = (
    "put the same family first in the cluster's pod and Service ranges; trainers, which use the "
    "registry's addresses, are not affected"
)
LIMIT_GIVEN = (
    "LimitRange {name} in {scope} gives {amount} of {resource} to each container that names no "
    "limit; {needed}"
)
LIMIT_MOST = "LimitRange {name} in {scope} allows no more than {amount} of {resource}; {needed}"
LIMIT_FOR = "; for now that is {pools}"
LIMIT_NEEDS_MEMORY = "the /dev/shm of an engine alone may hold {least} GiB"
LIMIT_NEEDS_CPU = "an engine has several processes, and needs {least} and more"
DO_LIMIT_GIVEN = (
    "set resources.limits.{resource} for the container engine in each pool's podTemplate, or raise "
    "the default of the LimitRange"
)
DO_LIMIT_MOST = "have the max of the LimitRange raised, or use another namespace"
SHARED_GOOD = "nothing keeps {pools} from the GPUs of their trainer, as far as can be seen"
SHARED_NO_CLASS = "pool {pool} names the RuntimeClass {name}, which is not there"
DO_RUNTIME_CLASS = (
    "name one of these in placement.shared.runtimeClassName, or leave it out: {known}"
)
SHARED_REFUSED = (
    "the GPU operator's policy {policy} sets {variable}=false: engines see no GPU that they do not "
    "ask for"
)
DO_ACCEPT_VARIABLE = "set it to true, if who may make pods may see any GPU (how-to/colocate.md)"
SHARED_FORBIDDEN = "{namespace} enforces the level {level}, which forbids the hostPath of {pools}"
DO_CLAIM = "use placement.shared.sharedMemory.claimName, or a namespace with the level privileged"
SHARED_FOLDER = "engines of {pools} are not root, and a folder that kubelet makes is root's"
DO_FOLDER = "make the folder on each node beforehand, with mode 1777, or use a claim"
SHARED_NO_TRAINER = "no pod has the label {label}: engines of {pools} wait for their trainer"
DO_TRAINER = "start the trainer, with that label on its pods (how-to/colocate.md)"
CLAIMS_GOOD = "claims are served, and nothing keeps {pools} from their devices, as far as is seen"
CLAIMS_NOT_SERVED = "ResourceClaims are not served in resource.k8s.io/v1 (found: {found})"
DO_SERVE_CLAIMS = "upgrade to Kubernetes 1.34 or newer, or use placement.mode Shared or Count"
CLAIMS_NO_CLASS = "claims of pool {pool} ask for the DeviceClass {name}, which is not there"
DO_DEVICE_CLASS = (
    "install the GPU vendor's driver for dynamic resource allocation, or name one of these in "
    "placement.slot.deviceClassName: {known}"
)
CLAIMS_NO_DEVICES = "no driver publishes devices: there is no ResourceSlice with any"
DO_DRIVER = "look at the pods of the GPU vendor's driver for dynamic resource allocation"
CLAIMS_COUNTED_TWICE = (
    "GPUs of {nodes} are published by a driver and counted by a device plugin too ({resource}): "
    "two pods would be given one, and pools there are refused"
)
DO_COUNT_ONCE = "take the device plugin from these nodes, or the driver (how-to/colocate-by-claims)"
MONITORING_THERE = "the Prometheus Operator is there: kubectl apply -k manifests/monitoring"
MONITORING_MISSING = "no Prometheus Operator; /metrics is served all the same"

# --- which operators act
LEADER = "operator: {holder} in {namespace}, renewed {age} ago"
LEADER_STOPPED = (
    "operator: {holder} in {namespace}, which held the Lease {name}, stopped {age} ago, "
    "and nobody took its place: engines go on, but nothing is restarted, scaled or opened"
)
NO_LEADER = (
    "operator: nobody holds the Lease sglang-operator: engines go on, but nothing is restarted, "
    "scaled or opened"
)
OPERATOR_NOWHERE = "no operator runs here: nobody holds the Lease sglang-operator"
OPERATOR_DEPLOYED = "deployed ({deployed}), but nobody holds the Lease sglang-operator"
OPERATOR_STOPPED = (
    "nobody acts: {holder} in {namespace}, which held the Lease {name}, stopped {age} ago"
)
STANDBY_WAITS = "; {names} waits to take its place"
OPERATOR_LEADS = "{holders} acts"
WITHOUT_LEASE = "{name} in {namespace}, without a Lease"
COPY_SERVES = "{name} serves {where}"
OPERATORS_MEET = "{count} operators act for the same pools, each against the others: {holders}"
OPERATORS_MAY_MEET = (
    "{count} operators act, and whether for the same pools cannot be seen of all: {holders}"
)
OPERATORS_SHARE_LEASE = (
    "copies that share the Lease of {namespace} serve different namespaces, so that only those of "
    "the one that holds it are served: {copies}"
)
OPERATORS_WAIT = (
    "copies wait until {holder} acts no more, for no two write to one pool, and it does not serve "
    "all that they are to serve: {copies}"
)
DO_OPERATOR_IMAGE = (
    "name an image that the nodes can pull: helm upgrade … --set image.repository=…, with kubectl "
    "newName in manifests/controller/kustomization.yaml; for a private registry also "
    "imagePullSecrets (the chart's value)"
)
DO_OPERATOR_LOGS = "kubectl get pods -A -l app.kubernetes.io/name=sglang-operator, and their logs"

# --- plan
PLAN_CARD = "found {found}, expected a card or a size such as 80GiB; known are {known}"
PLAN_SEQUENCE = "found {found}, expected the tokens of prompt + response, such as 8192+4096"
PLAN_TWO_CONFIGS = "--config and --model both name a config.json: give one"
PLAN_LARGE = "a file that is too large for a config.json"
DO_CONFIG = "give the config.json of the model"
PLAN_NOT_KNOWN = "not known: {why}"
PLAN_ONE_THING = "give FILE and --gpu, or --live and the name of a pool"
PLAN_ONE_CARD = "one card, or none, with --live"
PLAN_NO_CARD = "the card of its nodes; give it with --gpu"
PLAN_NOT_REPORTED = "no engine has said yet what it got; pools with an API key are not asked"
PLAN_REFUSED = "the spec of {name} is refused: {why}"
PLAN_LIVE = "planned {planned} tokens, {engine} reported {reported}: the plan is off by {off} %"
PLAN_HEAD = "{name}: {engines} of {gpus}, {card}, SGLang {version}"
PLAN_GIVEN = "given"
PLAN_CHOSEN = "chosen by SGLang for this card"
PLAN_REPLICAS = "on each of {count} replicas of attention"
PLAN_TRAINER = (
    "{name} on {card}: its peak is {gib} GiB too much by the estimate, beside what others keep; "
    "{advice}"
)
PLAN_NO_KNOB = "no argument alone is enough: give it more GPUs"
PLAN_WHO = "who has which GPUs in the pipeline"
PLAN_GRID = "nodes × GPUs"
PLAN_GRID_NOTE = "ids as ROLL counts them; several letters share a GPU, one after another"
PLAN_HIDDEN = "and {count} more nodes"
PLAN_IDLE = "in {phase}, {count} GPUs wait"
PLAN_PEAKS = "what the other roles take of each GPU at their peak, GiB, an estimate"
PLAN_PEAKS_NOTE = (
    "bfloat16 weights 2 bytes of a parameter, gradients 4, Adam 12, divided as the strategy says; "
    "not measured"
)
PLAN_LACKS = "lacks {gib:.0f}"
PLAN_BALANCE = "balance on {card}"
PLAN_MODEL_NOTE = (
    "a simple model that ranks and does not predict: generation is bound by memory, training by "
    "arithmetic, responses are half as long as they may get"
)
PLAN_NO_BETTER = "by the same simple model no other division of these GPUs is better by 5 %"
