"""Kubelets of engines that are several pods: one answers when all of them run.

KWOK looks at one pod at a time.  Pods that are to wait for each other are given a start that never
ends (``WAITING``); this ends it, as the rendezvous of their processes would.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import Any

from sglang_operator.testing import ApiError, ControlPlane
from sglang_operator.testing.faults import reference
from sglang_operator.testing.faults.lives import ENGINE, NODES, controller
from tests.faults.beside import Beside

Json = dict[str, Any]

WAITING = {"metadata": {"annotations": {"fake.sglang/start-delay": "1h"}}}
PODS = "/api/v1/pods?labelSelector=app.kubernetes.io%2Fcomponent"
FOLLOWERS = f"{PODS}%3Dengine-follower&limit=1"
ALL = f"{PODS}%20in%20(engine,engine-follower)"
PAUSE_SECONDS = 0.1


class Rendezvous(Beside):
    """Lets the pods of whole engines answer; a context manager."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__("rendezvous")
        self._plane = plane

    def _run(self) -> None:
        while not self._ending.wait(PAUSE_SECONDS):
            # The API server may be away, and a pod may go meanwhile.
            with contextlib.suppress(ApiError, OSError):
                if self._plane.api.get(FOLLOWERS)["items"]:
                    self._meet()

    def _meet(self) -> None:
        engines: defaultdict[tuple[str, str, int], list[Json]] = defaultdict(list)
        for pod in self._plane.api.get(ALL)["items"]:
            meta = pod["metadata"]
            owner = controller(meta).get("uid", "")
            attempt, _ = reference.attempt(meta["name"])
            if NODES in meta.get("annotations", {}) and pod["status"].get("phase") == "Running":
                engines[owner, meta["labels"][ENGINE], attempt].append(pod)
        for pods in engines.values():
            if len(pods) == int(pods[0]["metadata"]["annotations"][NODES]):
                for pod in pods:
                    self._answer(pod)

    def _answer(self, pod: Json) -> None:
        status = pod["status"]
        now = {c["type"]: c for c in status["conditions"]}
        if now["ContainersReady"]["status"] == "True":
            return
        gates = pod["spec"].get("readinessGates")
        now["ContainersReady"] = {**now["ContainersReady"], "status": "True"}
        now["Ready"] = {**now["Ready"], "status": "False" if gates else "True"}
        containers = [
            {**each, "ready": True, "started": True} for each in status["containerStatuses"]
        ]
        body = {
            "metadata": {"uid": pod["metadata"]["uid"]},
            "status": {"conditions": list(now.values()), "containerStatuses": containers},
        }
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        self._plane.api.merge(path, body)
