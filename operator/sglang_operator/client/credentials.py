"""Where the API server is, and how to prove who we are, in the client's words."""

from pathlib import Path

from sglang_operator.client import texts
from sglang_operator.client.errors import ClusterError
from sglang_operator.kube import credentials
from sglang_operator.kube.credentials import Credentials

__all__ = ["Credentials", "load"]


def load(kubeconfig: str | Path | None = None, context: str | None = None) -> Credentials:
    """The ServiceAccount inside a pod unless a kubeconfig or context is named, else a kubeconfig.

    KUBECONFIG names one.  Raises :class:`ClusterError` if there is neither.
    """
    try:
        return credentials.load(kubeconfig, context)
    except credentials.KubeconfigError as error:
        raise ClusterError(str(error)) from error
    except credentials.NoClusterError as error:
        raise ClusterError(texts.NO_CLUSTER.format(detail=error)) from error
