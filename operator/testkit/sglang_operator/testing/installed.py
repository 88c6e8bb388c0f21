"""The operator on a control plane of the kit, as it is installed on a cluster.

It runs as its own ServiceAccount with exactly the roles that are shipped, never as the
administrator: a verb that is missing there fails the test that needs it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import yaml

from sglang_operator.api import names
from sglang_operator.testing import errors
from sglang_operator.testing.controlplane import ControlPlane

NAMESPACE = "sglang-operator"
ACCOUNT = "sglang-operator"
COMPONENT = "sglang-operator"
LEASE_ROLE = "sglang-operator-lease"
_DEFINITION = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}"

READY_SECONDS = 30.0
STOP_SECONDS = 20.0


def manifests() -> Path:
    """The folder of the manifests: in the installed package, or beside it in a checkout.

    Raises FileNotFoundError if they are in neither place.
    """
    packaged = Path(__file__).parent / "manifests"
    checkout = Path(__file__).parents[4] / "manifests"
    for folder in (packaged, checkout):
        if (folder / "crd").is_dir():
            return folder
    raise FileNotFoundError(f"the operator's manifests are neither in {packaged} nor {checkout}")


def _resources(folder: Path) -> list[Path]:
    """The files that a kustomization is made of, which changes nothing in them."""
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert said.keys() == {"apiVersion", "kind", "resources"}, f"{folder} changes its resources"
    return [folder / name for name in said["resources"]]


class InstalledOperator:
    """The operator's process, and what an installation brings with it.

    ``namespaces`` asks for namespaced mode: a Role in each of them, nothing cluster-wide.
    ``ask_engines`` lets it send requests to engines; on fake nodes pods have made-up addresses,
    at which somebody else may answer.
    """

    def __init__(
        self,
        plane: ControlPlane,
        *,
        namespaces: Sequence[str] = (),
        arguments: Sequence[str] = (),
        ask_engines: bool = False,
        name: str = COMPONENT,
        source: Path | None = None,
    ) -> None:
        self._plane = plane
        self._namespaces = tuple(namespaces)
        self._arguments = (*([] if ask_engines else ["--no-engine-requests"]), *arguments)
        self.name = name
        self._environ = {"PYTHONPATH": str(source)} if source else None

    @property
    def user(self) -> str:
        """The name by which the API server knows it."""
        return f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._plane.pids.get(self.name)

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self._plane.log(self.name)

    def __enter__(self) -> Self:
        self.install()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(errors.PlaneError):
            self.stop()

    def define(self) -> None:
        """The custom resource definition alone; raises CommandError."""
        self._plane.kubectl("apply", "-k", str(manifests() / "crd"))
        self._plane.wait(self._is_established, READY_SECONDS, "the definition")

    def install(self) -> None:
        """The custom resource definition, the account and its roles; raises CommandError."""
        plane, folder = self._plane, manifests()
        files = [
            *_resources(folder / "crd"),
            folder / "namespace.yaml",
            folder / "controller" / "service_account.yaml",
            *_resources(folder / "rbac" / "lease"),
            *(() if self._namespaces else _resources(folder / "rbac" / "cluster")),
        ]
        # At once: a kubectl costs more than what it applies.
        chosen = (argument for file in files for argument in ("-f", str(file)))
        plane.kubectl("apply", *chosen, "--namespace", NAMESPACE)
        plane.wait(self._is_established, READY_SECONDS, "the definition")
        for namespace in self._namespaces:
            plane.namespace(namespace)
            role = folder / "rbac" / "namespaced" / "role.yaml"
            plane.kubectl("apply", "-f", str(role), "--namespace", namespace)
            # The binding as shipped is for an operator that lives in the namespace it serves.
            plane.kubectl(
                "create",
                "rolebinding",
                ACCOUNT,
                f"--role={ACCOUNT}",
                f"--serviceaccount={NAMESPACE}:{ACCOUNT}",
                f"--namespace={namespace}",
            )

    def _is_established(self) -> bool:
        status = self._plane.api.get(_DEFINITION).get("status", {})
        # A new definition's conditions are null.
        conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
        return conditions.get("Established") == "True"

    def is_permitted(self) -> bool:
        """Whether its account and the roles that every installation has are (still) there."""
        whole = () if self._namespaces else ("clusterrole", "clusterrolebinding")
        objects = [f"{kind}/{ACCOUNT}" for kind in ("serviceaccount", *whole)]
        objects += [f"{kind}/{LEASE_ROLE}" for kind in ("role", "rolebinding")]
        asked = self._plane.kubectl("get", *objects, "--namespace", NAMESPACE, check=False)
        return asked.returncode == 0

    def start(self, *, wait: bool = True) -> None:
        """Start the process and, unless told otherwise, wait until its stores are filled.

        Raises PlaneError.
        """
        kubeconfig = self._plane.service_account_kubeconfig(NAMESPACE, ACCOUNT)
        before = self.log.stat().st_size if self.log.exists() else 0
        self._plane.spawn(
            self.name,
            [
                sys.executable,
                "-m",
                "sglang_operator",
                f"--kubeconfig={kubeconfig}",
                f"--lease-namespace={NAMESPACE}",
                *(f"--namespace={namespace}" for namespace in self._namespaces),
                *self._arguments,
            ],
            self._environ,
        )
        if not wait:
            return
        self._plane.wait(
            lambda: b"in sync:" in self.log.read_bytes()[before:],
            READY_SECONDS,
            "the operator to be in sync",
        )

    def stop(self) -> None:
        """End it as Kubernetes would, by SIGTERM; killed if it takes too long."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        try:
            self._plane.await_end(self.name, STOP_SECONDS)
        except errors.WaitTimeoutError:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as a crash would."""
        self._plane.stop_component(self.name)
