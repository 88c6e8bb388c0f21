"""The policy by which nobody deletes a Lease of weights that says something is under way.

What such a Lease says is nowhere else: who writes into the engines, which of them sleep or may.
The operator makes another one, and holds it for a while; what was said in the last moment, or while
no operator ran, is lost, and engines end of it.
"""

from generators.policies import objects
from generators.policies.objects import Json
from sglang_operator.api import names
from sglang_operator.weights.lease_state import Phase

FILE = "weights-lease.yaml"
NAME = "sglang-operator-weights-lease"
# Who writes it on the Lease means it.
MAY_GO = f"{names.GROUP}/may-be-deleted"
HEADER = """\
# A pool's Lease of weights is not deleted while a trainer has it, or engines sleep.
# Made by `make policies`; do not edit.
"""

_MESSAGE = (
    "'the Lease ' + oldObject.metadata.name + ' says who writes weights into engines, or which of "
    "them sleep: who begins after it is gone may end them. Let the trainer end that, or see "
    "`kubectl sglang weights status` and `abort`; to delete it all the same: kubectl annotate "
    f"lease ' + oldObject.metadata.name + ' {MAY_GO}=true'"
)
_PHASES = ", ".join(f"'{phase.value}'" for phase in (Phase.SYNCING, Phase.SLEEPING, Phase.AWAKE))
_NOTES = (
    names.ANNOTATION_FENCE,
    names.ANNOTATION_ASLEEP,
    names.ANNOTATION_WOKEN,
    names.ANNOTATION_UNCLEAR,
    names.ANNOTATION_RECOVERING,
)
# What Kubernetes itself deletes, with its pool or its namespace.
_OWNERS = (
    "request.userInfo.username.startsWith('system:serviceaccount:kube-system:') || "
    "request.userInfo.username == 'system:kube-controller-manager'"
)


def policy() -> Json:
    """The policy, to be bound by its name."""
    says = " || ".join(f"'{note}' in variables.notes" for note in _NOTES)
    return objects.policy(
        NAME,
        matchConstraints={
            "resourceRules": [
                {
                    "apiGroups": ["coordination.k8s.io"],
                    "apiVersions": ["v1"],
                    "operations": ["DELETE"],
                    "resources": ["leases"],
                }
            ],
            "objectSelector": {
                "matchLabels": {
                    names.LABEL_MANAGED_BY: names.MANAGED_BY,
                    names.LABEL_COMPONENT: "weights",
                }
            },
        },
        matchConditions=[{"name": "by-hand", "expression": f"!({_OWNERS})"}],
        variables=[
            {
                "name": "notes",
                "expression": "has(oldObject.metadata.annotations) ? "
                "oldObject.metadata.annotations : {}",
            },
            {
                "name": "held",
                "expression": "has(oldObject.spec) && has(oldObject.spec.holderIdentity) && "
                "oldObject.spec.holderIdentity != ''",
            },
            {
                "name": "phase",
                "expression": f"'{names.ANNOTATION_PHASE}' in variables.notes ? "
                f"variables.notes['{names.ANNOTATION_PHASE}'] : ''",
            },
            {
                "name": "busy",
                "expression": f"variables.held || variables.phase in [{_PHASES}] || {says}",
            },
        ],
        validations=[
            {
                "expression": f"!variables.busy || '{MAY_GO}' in variables.notes",
                "messageExpression": _MESSAGE,
                "reason": "Forbidden",
            }
        ],
    )
