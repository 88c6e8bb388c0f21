"""A trainer whose pool is handled by points: a sync whenever an engine lacks weights.

It writes the Lease as ``sglang_operator.client`` does and asks no engine for anything, for pods are
only played.  What it promises engines it watches too: while it syncs, the registry names those with
which it began, but for what is gone.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from sglang_operator.api import names
from sglang_operator.testing import ApiError, ControlPlane
from sglang_operator.weights.times import micro_time
from tests import leases
from tests.faults.beside import Beside

Json = dict[str, Any]

PAUSE_SECONDS = 0.1
SYNC_SECONDS = 0.5  # for so long it writes, once its sync is acknowledged
LEASE_SECONDS = 60
HOLDER = "the-trainer"


class Trainer(Beside):
    """The trainer of one pool; a context manager."""

    def __init__(self, plane: ControlPlane, namespace: str, pool: str) -> None:
        super().__init__("trainer")
        self._api = plane.api
        root = f"/namespaces/{namespace}"
        lease = names.weights_lease_name(pool)
        self._lease = f"/apis/coordination.k8s.io/v1{root}/leases/{lease}"
        self._registry = f"/api/v1{root}/configmaps/{names.registry_name(pool)}"
        self.synced = 0  # syncs that were committed
        self.problems: list[str] = []

    def all_serve(self) -> bool:
        """Whether the registry says of every engine that clients reach it."""
        try:
            engines = self._told()["engines"]
        except (ApiError, OSError, KeyError):
            return False
        return bool(engines) and all(each["state"] == "InService" for each in engines)

    def _run(self) -> None:
        while not self._ending.wait(PAUSE_SECONDS):
            # The API server may be away, and the operator: the same step is taken once more.
            with contextlib.suppress(ApiError, OSError, KeyError):
                engines = self._instances()
                if engines and not set(engines.values()) <= self._committed():
                    self._sync(engines)

    def _told(self) -> Json:
        found: Json = json.loads(self._api.get(self._registry)["data"][names.REGISTRY_KEY])
        return found

    def _instances(self) -> dict[str, str]:
        """The lives of the engines that the registry names; none while one is not up."""
        engines = self._told()["engines"]
        if not all(each["instance"] and each["state"] in ("Up", "InService") for each in engines):
            return {}
        return {each["engine"]: each["instance"] for each in engines}

    def _committed(self) -> set[str]:
        notes = self._api.get(self._lease)["metadata"].get("annotations", {})
        if notes.get(names.ANNOTATION_PHASE) != "Committed":
            return set()
        return set(notes.get(names.ANNOTATION_INSTANCES, "").split(","))

    def _sync(self, engines: dict[str, str]) -> None:
        transaction = f"t{self.synced}-{time.monotonic_ns()}"
        self._write(HOLDER, phase="Syncing", transaction=transaction, target_version=transaction)
        while not self._ending.wait(PAUSE_SECONDS):
            with contextlib.suppress(ApiError, OSError, KeyError):
                if self._told()["weights"]["transaction"] == transaction:
                    break
        # An engine of before may have been named until the operator saw that the sync had begun.
        begun = self._names()
        until = time.monotonic() + SYNC_SECONDS
        while time.monotonic() < until and not self._ending.wait(PAUSE_SECONDS):
            now = self._names()
            for engine, instance in begun.items():
                if now and now.get(engine) not in (instance, None):
                    what = f"the registry names {now[engine]} for {engine}, {instance} amid a sync"
                    self.problems.append(what)
        covered = ",".join(sorted((begun or engines).values()))
        self._write(
            None,
            phase="Committed",
            transaction=transaction,
            version=transaction,
            instances=covered,
            intact="true",
            torn="",
            begun=micro_time(time.time() - SYNC_SECONDS),
            committed=micro_time(time.time()),
        )
        self.synced += 1

    def _names(self) -> dict[str, str]:
        with contextlib.suppress(ApiError, OSError, KeyError):
            told = self._told()["engines"]
            return {each["engine"]: each["instance"] for each in told if each["instance"]}
        return {}

    def _write(self, holder: str | None, **notes: str) -> None:
        self._api.merge(self._lease, leases.held(holder, LEASE_SECONDS, **notes))
