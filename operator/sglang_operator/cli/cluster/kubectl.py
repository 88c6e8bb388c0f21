"""Asking a cluster, through kubectl: its contexts, plugins for credentials and proxies are its own.

Answers are taken raw, as the API server sent them: decoding and printing them again would cost
kubectl more than everything else.  Questions that do not depend on each other are asked at once.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlencode

from sglang_operator.api import redaction
from sglang_operator.cli import texts

TIMEOUT_SECONDS = 60
DEFAULT_NAMESPACE = "default"
# Processes at a time; each opens a connection of its own.
AT_ONCE = 8


class Why(Enum):
    """What kind of refusal it was."""

    FORBIDDEN = "forbidden"
    NOT_FOUND = "not found"
    UNREACHABLE = "unreachable"
    OTHER = "other"


class ClusterError(Exception):
    """kubectl could not do what it was asked."""

    def __init__(self, command: str, detail: str, why: Why) -> None:
        super().__init__(texts.KUBECTL_FAILED.format(command=command, detail=detail))
        self.detail = detail
        self.why = why


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster, and the namespace that the user means."""

    namespace: str | None = None
    all_namespaces: bool = False
    context: str | None = None
    kubeconfig: str | None = None

    def scope(self) -> str:
        """The namespace to look at, or "" for all.  Raises :class:`ClusterError`."""
        if self.all_namespaces:
            return ""
        if self.namespace:
            return self.namespace
        found = self.run("config", "view", "--minify", "--output", "jsonpath={..namespace}")
        return found.decode().strip() or DEFAULT_NAMESPACE

    def get(self, path: str, **query: str) -> bytes:
        """What the API server answers to a GET.  Raises :class:`ClusterError`."""
        return self.run("get", "--raw", _with(path, query))

    def gather(
        self, questions: Mapping[str, tuple[str, Mapping[str, str]]]
    ) -> dict[str, bytes | ClusterError]:
        """Several GETs at once, by name: path and query to answer or refusal."""
        commands = {
            name: ["get", "--raw", _with(path, query)] for name, (path, query) in questions.items()
        }
        return self.run_all(commands)

    def run(self, *arguments: str, given: str | None = None) -> bytes:
        """One kubectl command's output.  Raises :class:`ClusterError`."""
        return _finish(self._start(arguments, given), arguments, given)

    def run_all(self, commands: Mapping[str, Sequence[str]]) -> dict[str, bytes | ClusterError]:
        """The output of several commands, ``AT_ONCE`` at a time."""
        waiting = list(commands.items())
        found: dict[str, bytes | ClusterError] = {}
        while waiting:
            batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            started: list[tuple[str, Sequence[str], subprocess.Popen[bytes]]] = []
            for name, arguments in batch:
                try:
                    started.append((name, arguments, self._start(arguments, None)))
                except ClusterError as error:
                    found[name] = error
            for name, arguments, process in started:
                try:
                    found[name] = _finish(process, arguments, None)
                except ClusterError as error:
                    found[name] = error
        return {name: found[name] for name in commands}

    def command(self, arguments: Iterable[str]) -> list[str]:
        """The whole command line."""
        command = [os.environ.get("KUBECTL") or "kubectl", *arguments]
        command += ["--context", self.context] if self.context else []
        command += ["--kubeconfig", self.kubeconfig] if self.kubeconfig else []
        return command

    def _start(self, arguments: Sequence[str], given: str | None) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                self.command(arguments),
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except (OSError, ValueError) as error:
            raise ClusterError("kubectl", texts.KUBECTL_MISSING, Why.OTHER) from error


def _with(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _finish(
    process: "subprocess.Popen[bytes]", arguments: Sequence[str], given: str | None
) -> bytes:
    shown = " ".join(["kubectl", *arguments[:3]])
    try:
        out, err = process.communicate(
            given.encode() if given is not None else None, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise ClusterError(shown, texts.KUBECTL_SLOW, Why.UNREACHABLE) from error
    if process.returncode:
        detail = _detail(err.decode(errors="replace"))
        # A plugin for credentials says what it likes there, and webhooks quote what they refuse.
        raise ClusterError(shown, redaction.in_clusters_words(detail), _why(detail))
    return out


def _detail(text: str) -> str:
    """kubectl's complaint on one line; of a Status object in it only the message."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return "no message"
    last = lines[-1]
    try:
        return str(json.loads(last)["message"])
    except (ValueError, KeyError, TypeError):
        return last.removeprefix("error: ")


def _why(detail: str) -> Why:
    told = detail.lower()
    if "forbidden" in told or "unauthorized" in told or "must be logged in" in told:
        return Why.FORBIDDEN
    if "notfound" in told or "not found" in told or "could not find" in told:
        return Why.NOT_FOUND
    if (
        "refused" in told
        or "unable to connect" in told
        or "timeout" in told
        or "no such host" in told
    ):
        return Why.UNREACHABLE
    return Why.OTHER
