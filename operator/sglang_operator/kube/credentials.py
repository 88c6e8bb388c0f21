"""Where the API server is, and how to prove who we are: for the operator and for trainers.

In a pod: the ServiceAccount's token, read again as kubelet rotates it.  Elsewhere, and where one
is named, kubeconfigs: tokens, client certificates and exec plugins (client.authentication.k8s.io).
The official client would bring 126 MB for this into every image of an operator or a trainer.

What is wrong with any of them is told by where it stands and in words of this module: parsers,
``subprocess`` and errors of files repeat what they were given, which is a token or a password.
"""

import base64
import contextlib
import json
import logging
import os
import re
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

from sglang_operator.api import redaction
from sglang_operator.clocks import moment, steady
from sglang_operator.kube import texts
from sglang_operator.weights import times

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 10.0  # a token's file is read again after so long
EXEC_SECONDS = 30.0
_MOST_SAID = 16 * 1024  # bytes of what a plugin says
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
    path = folder / "token"
    authorization = _Lasting(_TokenFile(path, str(path)))
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
        server = _server(_text(cluster, "server"), user)
        proxy = _proxy(str(cluster.get("proxy-url") or ""))
        tls = _Tls(cluster, beside, user, own) if server.startswith("https:") else None
        if tls is not None:
            tls()  # what it cannot be made of is told now
        authorization = _Lasting(_authorization(user, own))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise _kubeconfig_error(paths, detail) from None
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


def _kubeconfig_error(paths: Sequence[Path], detail: str) -> KubeconfigError:
    where = ", ".join(map(str, paths))
    return KubeconfigError(texts.KUBECONFIG.format(path=where, detail=detail))


class _File(NamedTuple):
    path: Path
    config: Json


def _read(path: Path) -> _File:
    import yaml

    try:
        config = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise _kubeconfig_error([path], str(error)) from None
    except yaml.YAMLError as error:
        raise _kubeconfig_error([path], _of_yaml(error)) from None
    except Exception:  # what its constructors raise is not told
        raise _kubeconfig_error([path], "a value in it is no YAML") from None
    if not isinstance(config, dict):
        detail = f"found a {type(config).__name__} where a mapping is expected"
        raise _kubeconfig_error([path], detail)
    return _File(path, config)


def _of_yaml(error: Exception) -> str:
    """Where it is no YAML, and why, without the line that PyYAML quotes."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    said = [getattr(error, "context", None), getattr(error, "problem", None)]
    return where + (redaction.unquoted(", ".join(filter(None, said))) or "unreadable characters")


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


def _text(section: Json, key: str) -> str:
    """A value that is written as text.  Raises KeyError, TypeError."""
    value = section[key]
    if isinstance(value, (Mapping, list)) or value is None:
        raise TypeError(f"{key} is a {type(value).__name__}; expected text")
    return str(value)


def _server(url: str, user: Json) -> str:
    """The server's address and no more: a password in it is nobody's to see.  Raises ValueError."""
    if not url.startswith(("https://", "http://")):
        raise ValueError("its server has no https:// or http:// before it")
    try:
        parts = urlsplit(url)
        is_address = parts.hostname and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError("its server is no address; expected one such as https://host:6443")
    before, _, place = parts.netloc.rpartition("@")
    if before and not user:
        raise ValueError(
            "its server has a user before the host, which is not followed here: write username and"
            " password among its users"
        )
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}(?=://)")


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
        found = _SCHEME.match(url)
        scheme = found[0] if found else "no scheme"
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
    if not file:
        return None
    try:
        return (path.parent / str(file)).read_bytes()
    except OSError as error:
        # Who writes the key itself there has it for the name of a file.
        name = "" if key == "client-key" else f" {redaction.in_words(str(file))}"
        raise ValueError(f"{key}{name} cannot be read: {_words(error)}") from None


def _words(error: OSError) -> str:
    """What the system says, without the name of what it was asked for."""
    return error.strerror or type(error).__name__


def _authorization(user: Json, path: Path) -> Header:
    """Raises TypeError, ValueError."""
    if user.get("tokenFile"):
        file = path.parent / _text(user, "tokenFile")
        return _TokenFile(file, texts.TOKEN_FILE.format(path=path))
    if user.get("token"):
        header = f"Bearer {_text(user, 'token')}"
        return lambda: header
    if user.get("exec"):
        return _Plugin(user["exec"], path)
    if user.get("username"):
        password = _text(user, "password") if user.get("password") is not None else ""
        pair = f"{_text(user, 'username')}:{password}"
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

    def __init__(self, path: Path, called: str) -> None:
        self._path = path
        self._called = called  # who writes the token itself there has it for the name of a file
        self._header = ""
        self._until = float("-inf")

    def __call__(self) -> str:
        now = time.monotonic()
        if now > self._until:
            try:
                token = self._path.read_text().strip()
            except OSError as error:
                words = texts.TOKEN_UNREAD.format(file=self._called, detail=_words(error))
                raise OSError(error.errno, words) from None
            if not token:
                raise OSError(texts.TOKEN_EMPTY.format(file=self._called))
            self._header, self._until = f"Bearer {token}", now + TOKEN_SECONDS
        return self._header

    def forget(self) -> None:
        self._until = float("-inf")


class PluginError(OSError):
    """A credential plugin gives nothing."""


class _Plugin:
    """An exec plugin: asked once, and again before what it gave ends, or once that is refused."""

    def __init__(self, config: Json, path: Path) -> None:
        """Raises KeyError, TypeError."""
        if not isinstance(config, Mapping):
            raise TypeError(f"exec is a {type(config).__name__}; expected a mapping")
        self._command = _text(config, "command")
        self._arguments = _texts(config, "args")
        names, values = _texts(config, "env", "name"), _texts(config, "env", "value")
        self._variables = dict(zip(names, values, strict=True))
        self._version = config.get("apiVersion")
        self._path = path
        self._header: str | None = None
        self._until = 0.0  # by the steady clock

    def __call__(self) -> str | None:
        if self._header is None or steady() > self._until:
            status = self._run()
            self._header = f"Bearer {status['token'].strip()}" if status.get("token") else None
            ends = times.seconds(status.get("expirationTimestamp"))
            at = moment()  # a clock that is set later makes no token last longer
            self._until = at.steady + ends - _EXEC_MARGIN - at.wall if ends else float("inf")
        return self._header

    def forget(self) -> None:
        self._until = 0.0

    def _program(self) -> str:
        """As kubectl has it: a path is beside the kubeconfig, never in the present folder."""
        command = self._command
        return str(self._path.absolute().parent / command) if os.sep in command else command

    @property
    def _called(self) -> str:
        """Its name alone: who writes a whole command line there may have a secret in it."""
        return redaction.in_words((self._command.split() or [""])[0])

    def _run(self) -> Json:
        about: Json = {"apiVersion": self._version, "kind": "ExecCredential", "spec": {}}
        told = {"KUBERNETES_EXEC_INFO": json.dumps(about)}
        environment = {**os.environ, **told, **self._variables}
        try:
            status = json.loads(_output([self._program(), *self._arguments], environment))["status"]
            if not isinstance(status, dict):
                raise TypeError
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            # None of these is told as it stands: they repeat its arguments and its answer.
            words = {"command": self._called, "path": self._path, "detail": self._why(error)}
            raise PluginError(texts.EXEC_FAILED.format(**words)) from None
        if not status.get("token") and status.get("clientCertificateData"):
            raise PluginError(texts.EXEC_CERTIFICATE.format(command=self._called, path=self._path))
        return status

    def _why(self, error: Exception) -> str:
        """What went wrong, without what it was given."""
        if isinstance(error, subprocess.TimeoutExpired):
            return texts.EXEC_SLOW.format(seconds=EXEC_SECONDS)
        if isinstance(error, subprocess.CalledProcessError):
            said = error.stderr[:_MOST_SAID].decode(errors="replace").strip()
            for secret in self._secrets():
                said = said.replace(secret, redaction.HIDDEN)
            return redaction.in_words(said) or texts.EXEC_ENDED.format(status=error.returncode)
        return _words(error) if isinstance(error, OSError) else texts.EXEC_ANSWER

    def _secrets(self) -> Sequence[str]:
        """Values that it is given under the names of secrets, the longest first."""
        found = [value for name, value in self._variables.items() if redaction.is_secret(name)]
        for argument, following in zip(self._arguments, [*self._arguments[1:], ""], strict=True):
            flag, equals, value = argument.partition("=")
            if redaction.is_secret(flag.lstrip("-")):
                found.append(value if equals else following)
        return sorted((value for value in found if len(value) > 3), key=len, reverse=True)


def _texts(config: Json, key: str, name: str = "") -> Sequence[str]:
    """A list of texts, or of mappings with a text of this name.  Raises KeyError, TypeError."""
    items = config.get(key) or []
    if not isinstance(items, list):
        raise TypeError(f"{key} of exec is a {type(items).__name__}; expected a list")
    for item in items:
        if name and not isinstance(item, Mapping):
            raise TypeError(f"{key} of exec has a {type(item).__name__}; expected mappings")
    taken = [item[name] if name else item for item in items]
    if not all(isinstance(each, str) for each in taken):
        raise TypeError(f"{key} of exec has a value that is no text; write it in quotes")
    return taken


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
