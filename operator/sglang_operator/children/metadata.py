"""Metadata that all children share."""

from typing import Any

from sglang_operator.api import names
from sglang_operator.pool.resolve import Owner


def owner_reference(owner: Owner) -> dict[str, Any]:
    """The controller reference by which a child is ours, and is collected with the pool."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def labels(owner: Owner, component: str) -> dict[str, str]:
    """The labels of every child; ``component`` says what it is for."""
    return {
        names.LABEL_NAME: "sglang",
        names.LABEL_INSTANCE: owner.name,
        names.LABEL_COMPONENT: component,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_POOL: owner.name,
    }


def child(
    owner: Owner, api_version: str, kind: str, name: str, component: str, **body: Any
) -> dict[str, Any]:
    """An object of this pool, complete but for what its kind adds in ``body``."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": labels(owner, component),
            "ownerReferences": [owner_reference(owner)],
        },
        **body,
    }
