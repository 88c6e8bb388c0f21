"""How a plane that is up is reached: addresses, credentials, kubectl, waiting."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sglang_operator.testing import client, components, credentials, errors, running

T = TypeVar("T")

TOKEN_SECONDS = 24 * 3600


class Access:
    """What a ControlPlane offers its users once it runs."""

    def __init__(self) -> None:
        self._running: running.Running | None = None

    @property
    def _up(self) -> running.Running:
        if self._running is None:
            raise errors.PlaneError("this control plane is not running; call start() first")
        return self._running

    @property
    def url(self) -> str:
        """The API server's address."""
        return self._up.url

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._up.settings.kubeconfigs["admin"]

    @property
    def ca_file(self) -> Path:
        """The certificate by which the API server is known."""
        return self._up.settings.secrets.ca

    @property
    def admin_token(self) -> str:
        """The administrator's bearer token."""
        return self._up.settings.secrets.tokens["admin"]

    @property
    def data(self) -> Path:
        """The folder that holds everything of this plane, its logs among it."""
        return self._up.settings.data

    @property
    def tools(self) -> Path:
        """The folder of the programs, kubectl and helm among them."""
        return self._up.settings.tools

    @property
    def api(self) -> client.Client:
        """The administrator's HTTP client."""
        return self._up.api

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """This process's environment with kubectl and helm on PATH and pointed at the plane."""
        return {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            # Else two planes that had the same port share what kubectl knows of their resources.
            "KUBECACHEDIR": str(self.data / "kubectl-cache"),
            "PATH": f"{self.tools}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - as in subprocess.run
        check: bool = True,
        as_: str | Path | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator and return what it wrote.

        ``as_`` is another kubeconfig, or the name of a user to impersonate; ``timeout`` is in
        seconds.  Raises CommandError with kubectl's own words when it fails and ``check`` is set.
        """
        argv = [str(self.tools / "kubectl"), *args]
        if isinstance(as_, str):
            argv[1:1] = [f"--as={as_}"]
        environ = self.environment(as_ if isinstance(as_, Path) else None)
        environ |= components.go_environment()
        try:
            result = subprocess.run(
                argv, input=input, env=environ, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            self.check()
            text = f"kubectl {' '.join(args)}: no end after {timeout:g} s"
            raise errors.CommandError(text) from error
        if check and result.returncode != 0:
            said = (result.stderr or result.stdout).strip()
            raise errors.CommandError(
                f"kubectl {' '.join(args)}: exit code {result.returncode}: {said}"
            )
        return result

    def service_account_kubeconfig(
        self, namespace: str, name: str, *, create: bool = False
    ) -> Path:
        """Return a new kubeconfig of a ServiceAccount, by a token of 24 hours; raises ApiError.

        ``create`` makes the namespace and the account where they are missing.
        """
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        if create:
            self.namespace(namespace)
            if not self.api.exists(f"{accounts}/{name}"):
                self.api.post(accounts, {"metadata": {"name": name}})
        answer = self.api.post(
            f"{accounts}/{name}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": TOKEN_SECONDS},
            },
        )
        return credentials.write_kubeconfig(
            self.data / f"account-{namespace}-{name}-{uuid.uuid4().hex[:8]}.kubeconfig",
            url=self.url,
            ca=self.ca_file,
            token=answer["status"]["token"],
            namespace=namespace,
        )

    def namespace(self, name: str) -> str:
        """Make sure that a namespace exists in which pods can be created; return its name."""
        if not self.api.exists(f"/api/v1/namespaces/{name}"):
            self.api.post("/api/v1/namespaces", {"metadata": {"name": name}})
        self._wait_for_account(name)
        return name

    def _wait_for_account(self, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        self.wait(
            lambda: self.api.exists(path),
            running.START_SECONDS,
            f"the ServiceAccount default in {namespace}",
        )

    # ---- waiting

    def check(self) -> None:
        """Raise PlaneError, with the end of the log, when a component has died by itself."""
        self._up.check()

    def wait(self, predicate: Callable[[], T], timeout: float, what: str) -> T:
        """Ask until the answer is true in the sense of ``if``, and return it.

        A CommandError, ApiError, AssertionError or ConnectionError counts as no.  Raises
        WaitTimeoutError after ``timeout`` seconds, and PlaneError when a component dies meanwhile.
        """
        return self._up.wait(predicate, timeout, what)
