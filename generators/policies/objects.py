"""What every policy has around its rules: the objects by which the API server knows it."""

from typing import Any

Json = dict[str, Any]


def policy(name: str, **rules: Any) -> Json:
    """A policy with these rules.  It fails open: what it says the operator says too."""
    return _object("ValidatingAdmissionPolicy", name, {"failurePolicy": "Ignore", **rules})


def binding(name: str) -> Json:
    """What puts the policy of this name into force."""
    spec = {"policyName": name, "validationActions": ["Deny"]}
    return _object("ValidatingAdmissionPolicyBinding", name, spec)


def _object(kind: str, name: str, spec: Json) -> Json:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "sglang-operator"}},
        "spec": spec,
    }
