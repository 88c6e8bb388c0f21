"""Where the API server is and how to prove who we are.

Reading kubeconfig files and in-cluster credentials, exec plugins and token refresh included, is
the official client's work; the connection itself is ours.
"""

import logging
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.config import kube_config

# Asking the official client whether its token is still good costs more than a request of ours.
AUTHORIZATION_SECONDS = 10.0

log = logging.getLogger(__name__)


class NoClusterError(Exception):
    """There are no credentials of any cluster."""


class Connection:
    """One cluster and one identity.  ``authorization`` may block, for as long as it likes."""

    def __init__(
        self,
        configuration: "client.Configuration",
        renew: Callable[[], None] = lambda: None,  # read anew what may have been renewed
    ) -> None:
        self._configuration = configuration
        self._renew = renew
        self.server: str = configuration.host.rstrip("/")
        self.ca_file: str | None = configuration.ssl_ca_cert
        self.cert_file: str | None = configuration.cert_file
        self.key_file: str | None = configuration.key_file
        # Whose certificate the server has, if it is not reached by its own name.
        self.tls_name: str | None = configuration.tls_server_name
        self.verify: bool = configuration.verify_ssl is not False
        self._authorization: str | None = None
        self._asked = float("-inf")

    def authorization(self) -> str | None:
        """The Authorization header, refreshed when it is about to expire; None without one.

        Credentials that cannot be read for a moment are what they were.  Raises OSError if there
        never were any.
        """
        now = time.monotonic()
        if now - self._asked > AUTHORIZATION_SECONDS:
            try:
                self._renew()
                value = self._configuration.get_api_key_with_prefix("BearerToken", "authorization")
            except Exception as error:  # of a file or a plugin: whatever the official client asks
                # Its type alone: the text may quote what was read.
                what = f"credentials cannot be read: {type(error).__name__}"
                if self._authorization is None:
                    raise OSError(what) from error
                log.warning("%s; the last ones are used on", what)
            else:
                # A token that comes from a file may end in a line break, which no header may.
                self._authorization = str(value).strip() if value else None
            self._asked = now
        return self._authorization

    def ssl_context(self) -> ssl.SSLContext:
        """TLS as the configuration asks for it."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


def load_in_cluster(configuration: "client.Configuration") -> None:
    """What kubelet gives to a pod, as it is now.  Raises ConfigException outside of one."""
    config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]


def load(kubeconfig: Path | None = None, context: str | None = None) -> Connection:
    """In-cluster credentials where there are any and no kubeconfig is named, else a kubeconfig.

    Raises :class:`NoClusterError` if there is neither.
    """
    configuration = client.Configuration()
    if kubeconfig is None and context is None:
        try:
            # By itself it reads the token again by the wall clock, which may be put back.
            load_in_cluster(configuration)
            return Connection(configuration, partial(load_in_cluster, configuration))
        except config.ConfigException:
            pass  # not inside a pod
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig) if kubeconfig else None,
            context=context,
            client_configuration=configuration,
        )
    except config.ConfigException as error:
        where = kubeconfig or "$KUBECONFIG or ~/.kube/config"
        raise NoClusterError(
            f"no cluster is configured: not inside a pod, and {where}: {error}; name a kubeconfig "
            "with --kubeconfig"
        ) from error
    _refuse_what_is_ignored(str(kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION), context)
    return Connection(configuration)


# Of a cluster and of a user, what would change where requests go or as whom.
_IGNORED = {"clusters": ("proxy-url",), "users": ("as", "as-uid", "as-groups", "as-user-extra")}


def _refuse_what_is_ignored(path: str, context: str | None) -> None:
    """Requests that go another way than the file says, or as somebody else, are worse than none."""
    written = kube_config.KubeConfigMerger(path).config.value  # type: ignore[no-untyped-call]
    named = {
        kind: {each.get("name"): each.get(kind[:-1]) or {} for each in map(_plain, found)}
        for kind in ("contexts", *_IGNORED)
        if (found := written.get(kind) or ())
    }
    chosen = named.get("contexts", {}).get(context or written.get("current-context"), {})
    for kind, keys in _IGNORED.items():
        name = chosen.get(kind[:-1])
        for key in keys:
            if named.get(kind, {}).get(name, {}).get(key):
                raise NoClusterError(
                    f"{path}: {kind[:-1]} {name} has {key}, which the operator does not follow; "
                    "remove it, or name a kubeconfig without it with --kubeconfig"
                )

    about = named.get("clusters", {}).get(chosen.get("cluster"), {})
    if not isinstance(about.get("insecure-skip-tls-verify", False), bool):
        raise NoClusterError(
            f"{path}: insecure-skip-tls-verify of cluster {chosen.get('cluster')} is no boolean; "
            "expected true or false, unquoted"
        )


def _plain(node: Any) -> Any:
    """What the official client has wrapped for its own messages."""
    return getattr(node, "value", node)
