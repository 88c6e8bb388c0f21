"""Where the API server is, and how to prove who we are, without the official client.

In a pod: the ServiceAccount's token, read again as kubelet rotates it.  Elsewhere a kubeconfig:
tokens, client certificates and exec plugins (client.authentication.k8s.io).
"""

import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_operator.api import weights
from sglang_operator.client import texts
from sglang_operator.client.errors import ClusterError
from sglang_operator.clocks import moment, steady

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 60.0  # kubelet rotates a token long before it ends
EXEC_SECONDS = 30.0
_EXEC_MARGIN = 30.0  # a plugin's token is asked for anew so long before it ends

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """One cluster, one identity, one namespace to be in by default."""

    server: str
    namespace: str
    tls: ssl.SSLContext | None  # None: plain http
    authorization: Callable[[], str | None]  # the header; may take its time
    tls_server_name: str | None = None  # whom the certificate is of, where it is not the host

    def told(self) -> str | None:
        """The same, with what goes wrong as an OSError that keeps its words."""
        try:
            return self.authorization()
        except ClusterError as error:
            raise OSError(str(error)) from error


def load(kubeconfig: str | Path | None = None, context: str | None = None) -> Credentials:
    """The ServiceAccount inside a pod unless a kubeconfig or context is named, else a kubeconfig.

    Raises :class:`ClusterError` if there is neither.
    """
    if kubeconfig is None and context is None and in_cluster():
        return service_account()
    path = _kubeconfig_path(kubeconfig)
    if not path.is_file():
        raise ClusterError(texts.NO_CLUSTER.format(detail=f"there is no {path}"))
    return from_kubeconfig(path, context)


def in_cluster() -> bool:
    """Whether this process runs in a pod with a ServiceAccount."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").is_file()


def service_account(folder: Path | None = None) -> Credentials:
    """The identity of this pod."""
    folder = folder or SERVICE_ACCOUNT
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace = folder / "namespace"
    return Credentials(
        server=f"https://{host}:{port}",
        namespace=namespace.read_text().strip() if namespace.is_file() else "default",
        tls=ssl.create_default_context(cafile=str(folder / "ca.crt")),
        authorization=_token_file(folder / "token"),
    )


def from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """One context of a kubeconfig; its current one by default.  Raises ClusterError."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text()) or {}
        chosen = context or config["current-context"]
        entry = _named(config, "contexts", chosen)["context"]
        cluster = _named(config, "clusters", entry["cluster"])["cluster"]
        user = _named(config, "users", entry["user"])["user"] if entry.get("user") else {}
        _refuse_what_is_not_followed(cluster, user)
        server = cluster["server"].rstrip("/")
        if not server.startswith(("https://", "http://")):
            raise ValueError(f"server {server} has no https:// or http:// before it")
        tls = _tls(cluster, user, path) if server.startswith("https:") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ClusterError(texts.KUBECONFIG.format(path=path, detail=detail)) from error
    return Credentials(
        server=server,
        namespace=entry.get("namespace") or "default",
        tls=tls,
        authorization=_authorization(user, path),
        tls_server_name=str(cluster.get("tls-server-name") or "") or None,
    )


def _kubeconfig_path(given: str | Path | None) -> Path:
    """As kubectl, but of several files in KUBECONFIG only the first that exists."""
    if given is not None:
        return Path(given)
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    existing = [path for path in named if path.is_file()]
    return (existing or named or [Path.home() / ".kube" / "config"])[0]


def _named(config: Json, kind: str, name: str) -> Json:
    for item in config.get(kind) or []:
        if item["name"] == name:
            found: Json = item
            return found
    raise ValueError(f"it has no {name!r} among its {kind}")


# What would change where requests go, as whom, or who is asked for the token.
_NOT_FOLLOWED = ("proxy-url", "as", "as-uid", "as-groups", "as-user-extra", "auth-provider")


def _refuse_what_is_not_followed(cluster: Json, user: Json) -> None:
    for key in _NOT_FOLLOWED:
        if cluster.get(key) or user.get(key):
            raise ValueError(f"it has {key}, which is not followed here: remove it")
    unverified = cluster.get("insecure-skip-tls-verify")
    if unverified is not None and not isinstance(unverified, bool):
        raise ValueError("insecure-skip-tls-verify is no boolean; expected true or false, unquoted")


def _tls(cluster: Json, user: Json, path: Path) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority", path)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = _content(user, "client-certificate", path)
    key = _content(user, "client-key", path)
    if certificate and key:
        # OpenSSL reads a client's certificate from files only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _content(section: Json, key: str, path: Path) -> bytes | None:
    data, file = section.get(f"{key}-data"), section.get(key)
    if data:
        return base64.b64decode(data)
    return (path.parent / str(file)).read_bytes() if file else None


def _authorization(user: Json, path: Path) -> Callable[[], str | None]:
    if user.get("tokenFile"):
        return _token_file(path.parent / user["tokenFile"])
    if user.get("token"):
        header = f"Bearer {user['token']}"
        return lambda: header
    if user.get("exec"):
        return _Plugin(user["exec"], path).authorization
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return lambda: basic
    return lambda: None


def _token_file(path: Path) -> Callable[[], str | None]:
    held: tuple[float, str] | None = None

    def authorization() -> str:
        nonlocal held
        now = time.monotonic()
        if held is None or now > held[0]:
            held = (now + TOKEN_SECONDS, f"Bearer {path.read_text().strip()}")
        return held[1]

    return authorization


class _Plugin:
    """An exec plugin: asked once, and again before what it gave ends."""

    def __init__(self, config: Json, path: Path) -> None:
        self._config = config
        self._path = path
        self._header: str | None = None
        self._until = 0.0  # by the steady clock

    def authorization(self) -> str | None:
        if self._header is None or steady() > self._until:
            status = self._run()
            self._header = f"Bearer {status['token']}" if status.get("token") else None
            ends = weights.seconds(status.get("expirationTimestamp"))
            at = moment()  # a clock that is set later makes no token last longer
            self._until = at.steady + ends - _EXEC_MARGIN - at.wall if ends else float("inf")
        return self._header

    def _program(self) -> str:
        """As kubectl has it: a path is beside the kubeconfig, never in the present folder."""
        command = str(self._config["command"])
        return str(self._path.absolute().parent / command) if os.sep in command else command

    def _run(self) -> Json:
        command = [self._program(), *(self._config.get("args") or [])]
        extra = {item["name"]: item["value"] for item in self._config.get("env") or []}
        about: Json = {
            "apiVersion": self._config.get("apiVersion"),
            "kind": "ExecCredential",
            "spec": {},
        }
        environment = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(about), **extra}
        try:
            status: Json = json.loads(_output(command, environment))["status"]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            said = getattr(error, "stderr", b"") or b""
            detail = said.decode(errors="replace").strip() or str(error)
            message = texts.EXEC_FAILED.format(command=command[0], path=self._path, detail=detail)
            raise ClusterError(message) from error
        if not status.get("token") and status.get("clientCertificateData"):
            raise ClusterError(texts.EXEC_CERTIFICATE.format(command=command[0], path=self._path))
        return status


def _output(command: list[str], environment: Mapping[str, str]) -> bytes:
    """What a plugin prints.  It gets no terminal, and goes with all that it started."""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            out, said = process.communicate(timeout=EXEC_SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, said)
    return out
