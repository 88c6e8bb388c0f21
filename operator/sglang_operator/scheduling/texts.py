"""What a scheduler asks of a pool, and why one finds no place by what the pool asks of it."""


def pods(count: int) -> str:
    """``1 pod``, ``4 pods``: the ``{pods}`` of the texts below."""
    return f"{count} pod{'' if count == 1 else 's'}"


# --- of a spec
PRIORITY = "a PriorityClass that does not begin with system-: those are for the cluster's own pods"
DO_PRIORITY = "name another, or leave it out"
NO_GANG = "nothing while scheduling.gang is None, because nobody reads it then"
DO_GANG = "set scheduling.gang to one that reads it, such as {gang}, or leave it out"
A_LOCAL_QUEUE = "the name of a LocalQueue of this namespace, in which scheduling.gang: Kueue waits"
NAME_IN_LABEL = (
    'a name that is a label\'s value too: at most 63 small letters, digits, "-" and ".", with a '
    "letter or digit at both ends"
)
ONE_TOPOLOGY = "nothing beside requiredTopology"
DO_ONE_TOPOLOGY = "leave one of the two out"
ONE_AFFINITY = (
    "none beside scheduling.requiredTopology: the scheduler looks for one pod that matches all "
    "required terms, and an engine's first pod would find none, ever"
)
DO_ONE_AFFINITY = "make it preferred, or say which nodes in nodeAffinity"
NO_SPREAD = "nothing beside a scheduling.gang, which chooses nodes by itself"
DO_NO_SPREAD = "leave it out"
ONE_SPREAD = "no constraint with whenUnsatisfiable {when} for the label of scheduling.spread"
DO_ONE_SPREAD = "remove one of the two"
NO_KUEUE_KEYS = "{kind} that are not Kueue's where scheduling.gang is Kueue"
DO_SCHEDULING = "remove it: spec.scheduling says what Kueue reads"
NOT_OF_GANG = "nothing with scheduling.gang: {gang}, which does not read it"
NOT_OF_KUEUE = (
    "nothing with scheduling.gang: Kueue: the pods of one of its groups are counted for good, so "
    "that no engine of it could be replaced or scaled away"
)
DO_LEAVE_OUT = "leave it out"
OWN_KEY = "nothing under a key that the operator writes where scheduling.gang is {gang}"
DO_SAY_IN_SCHEDULING = "leave it out: spec.scheduling says what stands there"
OWN_GROUP = "no group of its own where scheduling.gang is {gang}: each engine's pods have theirs"

A_KAI_QUEUE = "the name of a Queue of KAI, without which it starts no pod"

# --- of engines that wait
REGROUPED = (
    "pod {pod} was moved to PodGroup {group}, whose pods start one by one: KAI's pod grouper "
    "groups pods by their owner; keep it from namespace {namespace} "
    "(global.namespaceLabelSelector of KAI's configuration), or choose another gang for engines of "
    "several pods"
)
SURGE_WAITS_FOR_QUOTA = (
    "{updated}/{desired} engines run revision {revision}; {waiting} waiting until Kueue's "
    "LocalQueue {queue} has quota for more beside those that serve (rollout.maxSurge {surge}); one "
    "that is not let in for {seconds} s gets the quota of the engine that it replaces"
)
WAITING_FOR_GANG = (
    "{engines} waiting until scheduler {scheduler} has room for all of one at once ({pods} with "
    "{gpus} {resource} each): {message}"
)
WAITING_FOR_START = (
    "{engines} waiting until scheduler {scheduler} has room for {least} at once "
    "(scheduling.minEngines {asked}; {pods} with {gpus} {resource} each): {message}"
)
GANG_NOT_WATCHED = (
    "{engines} waiting: this operator makes no {groups}, which scheduling.gang: {gang} needs; "
    "start it with {flag}={gang} and the rights to them (gangs in the chart's values), or choose "
    "another gang"
)
GANG_NOT_SERVED = (
    "{engines} waiting: Kubernetes serves no {groups} here, or the operator may not read them; "
    "{advice}, or choose another gang"
)

# --- of engines that find no place
DO_SPREAD_LESS = (
    "scheduling.spread keeps engines apart by {key}, and counts all domains with a node that may "
    "run them: add nodes where there are fewest engines, or set whenUnsatisfiable: ScheduleAnyway"
)
DO_LABEL_NODES = "scheduling.requiredTopology takes only nodes with the label {key}: label them"
DO_MAKE_ROOM_IN_DOMAIN = (
    "all pods of an engine have to be in one domain by {key} (scheduling.requiredTopology), and "
    "that of {pod}, on {node}, has no room for {count} more: the engine is tried anew, maybe "
    "elsewhere, where nothing moves for a minute; make room, or use gang: Kueue, which looks for a "
    "domain with room for all"
)
