"""Where the API server is, and how to prove who we are: for the operator and for trainers.

In a pod: the ServiceAccount's token, read again as kubelet rotates it.  Elsewhere, and where one
is named, kubeconfigs: tokens, client certificates and exec plugins (client.authentication.k8s.io).
The official client would bring 126 MB for this into every image of an operator or a trainer.
"""

import base64
import contextlib
import json
import logging
import os
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sglang_operator.api import texts
from sglang_operator.clocks import moment, steady
from sglang_operator.weights import lease_state

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 10.0  # a token's file is read again after so long
EXEC_SECONDS = 30.0
_EXEC_MARGIN = 30.0  # a plugin's token is asked for anew so long before it ends

Json = Mapping[str, Any]
Header = Callable[[], str | None]  # of each request; may take its time, and raise OSError

log = logging.getLogger(__name__)


class NoClusterError(Exception):
    """There are no credentials of any cluster."""


class KubeconfigError(NoClusterError):
    """A kubeconfig is not what it should be."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """One cluster, one identity, one namespace to be in by default."""

    server: str
    namespace: str
    tls: Callable[[], ssl.SSLContext] | None  # of what its files hold now; None: plain http
    authorization: Header
    tls_server_name: str | None = None  # whom the certificate is of, where it is not the host
    proxy: str | None = field(default=None, repr=False)  # by which the server is reached
    has_certificate: bool = False  # the client, in files that may be replaced
    forget: Callable[[], None] = lambda: None  # the last header, which was refused


def load(kubeconfig: str | Path | None = None, context: str | None = None) -> Credentials:
    """The ServiceAccount inside a pod unless a kubeconfig or context is named, else a kubeconfig.

    KUBECONFIG names one, as for kubectl and client-go: of another cluster than the pod's, mostly.
    Raises NoClusterError if there is neither, KubeconfigError.
    """
    is_named = kubeconfig is not None or context is not None or bool(_of_environment())
    if not is_named and in_cluster():
        return service_account()
    paths = _kubeconfig_paths(kubeconfig)
    existing = [path for path in paths if path.is_file()]
    if not existing:
        is_file_named = kubeconfig is not None or bool(_of_environment())
        words = texts.KUBECONFIG_MISSING if is_file_named else texts.NO_KUBECONFIG
        raise NoClusterError(words.format(path=os.pathsep.join(map(str, paths))))
    return from_kubeconfig(existing, context)


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
    authorization = _Lasting(_TokenFile(folder / "token"))
    return Credentials(
        server=f"https://{host}:{port}",
        namespace=namespace.read_text().strip() if namespace.is_file() else "default",
        tls=lambda: ssl.create_default_context(cafile=str(folder / "ca.crt")),
        authorization=authorization,
        forget=authorization.forget,
    )


def from_kubeconfig(paths: Sequence[Path], context: str | None = None) -> Credentials:
    """One context of kubeconfigs; their current one by default.  Raises KubeconfigError.

    Of several that name the same, the first counts, as kubectl has it.
    """
    files = [_read(path) for path in paths]
    try:
        chosen = context or _current(files)
        entry, _ = _named(files, "contexts", chosen)
        cluster, beside = _named(files, "clusters", entry["cluster"])
        user, own = _named(files, "users", entry["user"]) if entry.get("user") else ({}, beside)
        _refuse_what_is_not_followed(cluster, user)
        server = cluster["server"].rstrip("/")
        if not server.startswith(("https://", "http://")):
            raise ValueError(f"server {server} has no https:// or http:// before it")
        proxy = _proxy(str(cluster.get("proxy-url") or ""))
        tls = _Tls(cluster, beside, user, own) if server.startswith("https:") else None
        if tls is not None:
            tls()  # what it cannot be made of is told now
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _kubeconfig_error(paths, error) from error
    authorization = _Lasting(_authorization(user, own))
    return Credentials(
        server=server,
        namespace=entry.get("namespace") or "default",
        tls=tls,
        authorization=authorization,
        forget=authorization.forget,
        tls_server_name=str(cluster.get("tls-server-name") or "") or None,
        proxy=proxy,
        has_certificate="client-certificate" in user and "client-certificate-data" not in user,
    )


def _kubeconfig_error(paths: Sequence[Path], error: Exception) -> KubeconfigError:
    detail = f"no {error}" if isinstance(error, KeyError) else str(error)
    where = ", ".join(map(str, paths))
    return KubeconfigError(texts.KUBECONFIG.format(path=where, detail=detail))


class _File(NamedTuple):
    path: Path
    config: Json


def _read(path: Path) -> _File:
    import yaml

    try:
        config = yaml.safe_load(path.read_text()) or {}
        if not isinstance(config, dict):
            raise TypeError(f"found a {type(config).__name__} where a mapping is expected")
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise _kubeconfig_error([path], error) from error
    return _File(path, config)


def _kubeconfig_paths(given: str | Path | None) -> Sequence[Path]:
    """As kubectl has it: several in KUBECONFIG, or one that is named, or the one at home."""
    if given is not None:
        return [Path(given)]
    return _of_environment() or [Path.home() / ".kube" / "config"]


def _of_environment() -> Sequence[Path]:
    return [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]


def _current(files: Sequence[_File]) -> str:
    for file in files:
        if file.config.get("current-context"):
            return str(file.config["current-context"])
    raise KeyError("current-context")


def _named(files: Sequence[_File], kind: str, name: str) -> tuple[Json, Path]:
    """What one of the lists says of the name, and the file in which it does."""
    for file in files:
        for item in file.config.get(kind) or []:
            if item["name"] == name:
                return item.get(kind.removesuffix("s")) or {}, file.path
    raise ValueError(f"it has no {name!r} among its {kind}")


# What would change as whom requests go, or who is asked for the token.
_NOT_FOLLOWED = ("as", "as-uid", "as-groups", "as-user-extra", "auth-provider")


def _refuse_what_is_not_followed(cluster: Json, user: Json) -> None:
    for key in _NOT_FOLLOWED:
        if cluster.get(key) or user.get(key):
            raise ValueError(f"it has {key}, which is not followed here: remove it")
    unverified = cluster.get("insecure-skip-tls-verify")
    if unverified is not None and not isinstance(unverified, bool):
        raise ValueError("insecure-skip-tls-verify is no boolean; expected true or false, unquoted")


def _proxy(url: str) -> str | None:
    """The proxy, which may have a password in its address.  Raises ValueError."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        named = parts.scheme == "http" and parts.hostname and parts.port is not None
    except ValueError:
        named = False
    if not named:
        scheme = url.partition("://")[0] if "://" in url else "no scheme"
        raise ValueError(
            f"its proxy-url has {scheme}; expected http://host:port of a proxy that takes CONNECT"
            " (one by socks5 or https is not followed here)"
        )
    return url


@dataclass(frozen=True, repr=False)  # there may be passwords in it
class _Tls:
    """Makes a context of TLS, each time of what its files hold then."""

    cluster: Json
    beside: Path  # the kubeconfig of the cluster
    user: Json
    own: Path  # the kubeconfig of the user

    def __call__(self) -> ssl.SSLContext:
        """Raises OSError, ValueError."""
        authority = _content(self.cluster, "certificate-authority", self.beside)
        context = ssl.create_default_context(cadata=authority.decode() if authority else None)
        if self.cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = _content(self.user, "client-certificate", self.own)
        key = _content(self.user, "client-key", self.own)
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


def _authorization(user: Json, path: Path) -> Header:
    if user.get("tokenFile"):
        return _TokenFile(path.parent / user["tokenFile"])
    if user.get("token"):
        header = f"Bearer {user['token']}"
        return lambda: header
    if user.get("exec"):
        return _Plugin(user["exec"], path)
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return lambda: basic
    return lambda: None


class _Lasting:
    """A header that is asked for anew: what cannot be had for a moment is what it was."""

    def __init__(self, ask: Header) -> None:
        self._ask = ask
        self._last: str | None = None

    def __call__(self) -> str | None:
        """Raises OSError if there never was one."""
        try:
            self._last = self._ask()
        except Exception as error:  # of a file or a plugin, whatever it is
            if self._last is None:
                raise
            # Its type alone: the text may quote what was read.
            what = type(error).__name__
            log.warning("credentials cannot be read: %s; the last ones are used on", what)
        return self._last

    def forget(self) -> None:
        """The last one was refused: what gives it is asked, however long it was to last."""
        if isinstance(self._ask, (_TokenFile, _Plugin)):
            self._ask.forget()


class _TokenFile:
    """A token's file, read again every few seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = ""
        self._until = float("-inf")

    def __call__(self) -> str:
        now = time.monotonic()
        if now > self._until:
            token = self._path.read_text().strip()
            if not token:
                raise OSError(texts.TOKEN_EMPTY.format(path=self._path))
            self._header, self._until = f"Bearer {token}", now + TOKEN_SECONDS
        return self._header

    def forget(self) -> None:
        self._until = float("-inf")


class PluginError(OSError):
    """A credential plugin gives nothing."""


class _Plugin:
    """An exec plugin: asked once, and again before what it gave ends, or once that is refused."""

    def __init__(self, config: Json, path: Path) -> None:
        self._config = config
        self._path = path
        self._header: str | None = None
        self._until = 0.0  # by the steady clock

    def __call__(self) -> str | None:
        if self._header is None or steady() > self._until:
            status = self._run()
            self._header = f"Bearer {status['token'].strip()}" if status.get("token") else None
            ends = lease_state.seconds(status.get("expirationTimestamp"))
            at = moment()  # a clock that is set later makes no token last longer
            self._until = at.steady + ends - _EXEC_MARGIN - at.wall if ends else float("inf")
        return self._header

    def forget(self) -> None:
        self._until = 0.0

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
            raise PluginError(message) from error
        if not status.get("token") and status.get("clientCertificateData"):
            raise PluginError(texts.EXEC_CERTIFICATE.format(command=command[0], path=self._path))
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
