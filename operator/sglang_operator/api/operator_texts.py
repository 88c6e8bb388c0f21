"""What is told of the operators themselves: who acts, who waits, and for whom."""

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
ALL_NAMESPACES = "all namespaces"
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
DO_OPERATOR_IMAGE = (
    "name an image that the nodes can pull: helm upgrade … --set image.repository=…, with kubectl "
    "newName in manifests/controller/kustomization.yaml; for a private registry also "
    "imagePullSecrets (the chart's value)"
)
DO_OPERATOR_LOGS = "kubectl get pods -A -l app.kubernetes.io/name=sglang-operator, and their logs"
