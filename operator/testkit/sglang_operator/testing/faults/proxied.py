"""The operator as it is installed, but with a fault proxy between it and the API server."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sglang_operator.testing import credentials, installed
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.faults.proxy import Proxy

START_SECONDS = 60.0
_numbers = itertools.count()


class ProxiedOperator(installed.InstalledOperator):
    """One operator process behind one proxy.  ``package`` is a source root to run instead."""

    def __init__(
        self,
        plane: ControlPlane,
        proxy: Proxy,
        *,
        package: Path | None = None,
        namespaces: Sequence[str] = (),
        arguments: Sequence[str] = (),
        name: str = "",
    ) -> None:
        name = name or f"faulted-operator-{next(_numbers)}"
        super().__init__(plane, namespaces=namespaces, arguments=arguments, name=name)
        self.proxy = proxy
        self._package = package
        self._kubeconfig: Path | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start the process; its stores are filled on return unless ``wait`` is off."""
        before = self.log.stat().st_size if self.log.exists() else 0
        scopes = [f"--namespace={namespace}" for namespace in self._namespaces]
        argv = [sys.executable, "-m", "sglang_operator", f"--kubeconfig={self.kubeconfig()}"]
        env = {"PYTHONPATH": str(self._package)} if self._package else {}
        self._plane.spawn(self.name, [*argv, *scopes, *self._arguments], env)
        if wait:
            self._plane.wait(
                lambda: b"in sync:" in self.log.read_bytes()[before:],
                START_SECONDS,
                f"{self.name} to be in sync",
            )

    def kubeconfig(self) -> Path:
        """A kubeconfig of the operator's account that points at the proxy."""
        if self._kubeconfig is None:
            direct = self._plane.service_account_kubeconfig(installed.NAMESPACE, installed.ACCOUNT)
            self._kubeconfig = credentials.write_kubeconfig(
                self._plane.data / f"{self.name}.kubeconfig",
                url=self.proxy.url,
                ca=self._plane.ca_file,
                token=credentials.read_token(direct),
                namespace=installed.NAMESPACE,
            )
        return self._kubeconfig

    def pause(self) -> None:
        """Stop the process where it stands (SIGSTOP)."""
        os.kill(self._running(), signal.SIGSTOP)

    def proceed(self) -> None:
        """Let a stopped process go on (SIGCONT)."""
        os.kill(self._running(), signal.SIGCONT)

    def errors(self) -> list[str]:
        """The lines of its log that tell of an unexpected error of its own; kopf may die."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if " ERROR sglang_operator" in line]

    def _running(self) -> int:
        pid = self.pid
        if pid is None:
            raise ProcessLookupError(f"{self.name} does not run")
        return pid
