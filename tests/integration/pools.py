"""A pool on a control plane, as a test handles it: apply, look, wait, break."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from tests.builders import guide_spec

WAIT = 30.0
QUIET = 2.0
APPLY = "application/apply-patch+yaml"  # which JSON is too

Json = dict[str, Any]


def engine_env(**variables: object) -> Json:
    """A podTemplate that tells the fake engines something."""
    env = [{"name": f"FAKE_SGLANG_{key}", "value": str(value)} for key, value in variables.items()]
    return {"spec": {"containers": [{"name": names.ENGINE_CONTAINER, "env": env}]}}


class PoolUnderTest:
    """One SGLangInference and everything that belongs to it."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str = "actor-infer") -> None:
        self.plane = plane
        self.namespace = namespace
        self.name = name

    @property
    def _path(self) -> str:
        return f"/apis/{names.API_VERSION}/namespaces/{self.namespace}/{names.PLURAL}/{self.name}"

    # --- writing

    def apply(self, **changes: Any) -> None:
        """Apply the guide's spec with these changes; a field set to None is left out.

        As ``kubectl apply --server-side --force-conflicts`` would, without starting one.
        """
        spec = {k: v for k, v in guide_spec(**changes).items() if v is not None}
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": self.name},
            "spec": spec,
        }
        path = f"{self._path}?fieldManager=kubectl&force=true&fieldValidation=Strict"
        self.plane.api.call("PATCH", path, body, content_type=APPLY)

    def patch(self, spec: Json) -> None:
        """Merge this into the spec."""
        self.plane.api.merge(self._path, {"spec": spec})

    def delete(self, *arguments: str) -> None:
        self.kubectl("delete", "sgi", self.name, *arguments)

    def remove(self) -> None:
        """Delete it, and its pods at once, so that the next test has their GPUs."""
        self.plane.api.delete(self._path, missing_ok=True)

        def left() -> int:
            """Pods that were still there: one may have been made meanwhile."""
            found = [pod["metadata"]["name"] for pod in self.all_pods()]
            for name in found:
                path = f"/api/v1/namespaces/{self.namespace}/pods/{name}?gracePeriodSeconds=0"
                self.plane.api.delete(path, missing_ok=True)
            return len(found)

        self.wait(lambda: not left(), "no pod left")

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.plane.kubectl(*arguments, "--namespace", self.namespace, **options).stdout

    def break_pod(self, name: str, exit_code: int = 137, message: str = "", reason: str = "Error"):
        """Let the engine container of this pod end."""
        notes = {
            "fake.sglang/fail": str(exit_code),
            "fake.sglang/fail-message": message,
            "fake.sglang/fail-reason": reason,
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        self.plane.api.merge(path, {"metadata": {"annotations": notes}})

    # --- looking

    def object(self) -> Json:
        found: Json = self.plane.api.get(self._path)
        return found

    @property
    def status(self) -> Json:
        status: Json = self.object().get("status", {})
        return status

    def condition(self, type_: str) -> Json:
        return dict(conditions.find(self.status.get("conditions", []), type_) or {})

    def pods(self) -> list[Json]:
        """The pods whose controller is this very pool."""
        uid = self.object()["metadata"]["uid"]
        return [pod for pod in self.all_pods() if _controller(pod) == uid]

    def all_pods(self) -> list[Json]:
        listed = self.plane.api.get(f"/api/v1/namespaces/{self.namespace}/pods")
        return list(listed["items"])

    def uids(self) -> dict[str, str]:
        """UID of each engine's pod, by engine; those being deleted are left out."""
        return {
            pod["metadata"]["labels"][names.LABEL_ENGINE]: pod["metadata"]["uid"]
            for pod in self.pods()
            if not _is_over(pod)
        }

    def events(self) -> list[Json]:
        listed = self.plane.api.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")
        uid = self.object()["metadata"]["uid"]
        return [e for e in listed["items"] if e.get("regarding", {}).get("uid") == uid]

    def told(self, reason: str, count: int = 1) -> list[Json]:
        """The Events with this reason, once there are so many: they come after the status."""

        def found() -> list[Json]:
            return [event for event in self.events() if event["reason"] == reason]

        self.wait(lambda: len(found()) >= count, f"the Event {reason}")
        return found()

    def registry(self) -> Json:
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/{self.name}-engines"
        document: Json = json.loads(self.plane.api.get(path)["data"]["engines.json"])
        return document

    # --- waiting

    def wait(self, check: Callable[[], Any], what: str, seconds: float = WAIT) -> Any:
        return self.plane.wait(check, seconds, f"{self.namespace}/{self.name}: {what}")

    def is_current(self) -> bool:
        found = self.object()
        observed = found.get("status", {}).get("observedGeneration")
        return bool(observed == found["metadata"]["generation"])

    def is_ready(self) -> bool:
        """Ready by the status and by the pods: right after a pod ended, a status is of before.

        Its count too has to be that of the pods: one that ended has no successor at first.
        """
        found = self.object()
        status, pods = found.get("status", {}), self.pods()
        ready = conditions.find(status.get("conditions", []), conditions.READY) or {}
        alive = {p["metadata"]["labels"][names.LABEL_ENGINE] for p in pods if not _is_over(p)}
        return bool(
            status.get("observedGeneration") == found["metadata"]["generation"]
            and ready.get("status") == "True"
            and status["readySummary"] == f"{len(alive)}/{len(alive)}"
            and not any(_is_starting(pod) for pod in pods)
        )

    def wait_ready(self, seconds: float = WAIT) -> dict[str, str]:
        """Wait until the pool is Ready at its present generation; the UIDs of its pods."""
        self.wait(self.is_ready, "Ready", seconds)
        return self.uids()

    def wait_for(self, type_: str, reason: str, seconds: float = WAIT) -> Json:
        """Wait for a condition with this reason at the present generation."""

        def check() -> Json | None:
            condition = self.condition(type_)
            return condition if self.is_current() and condition.get("reason") == reason else None

        found: Json = self.wait(check, f"{type_} with reason {reason}", seconds)
        return found

    def wait_rest(self, seconds: float = WAIT) -> str:
        """Wait until nothing was written to the object for two seconds; its resource version."""
        seen: list[tuple[str, float]] = []

        def rests() -> str | None:
            version = self.object()["metadata"]["resourceVersion"]
            if not seen or seen[-1][0] != version:
                seen.append((version, time.monotonic()))
            return version if time.monotonic() - seen[-1][1] > QUIET else None

        found: str = self.wait(rests, "no more writes", seconds)
        return found

    def wait_engines(self, engines: Iterable[str], seconds: float = WAIT) -> dict[str, str]:
        """Wait until exactly these engines have a pod, and the pool is Ready."""
        wanted = set(engines)
        self.wait(lambda: set(self.uids()) == wanted and self.is_ready(), f"{wanted}", seconds)
        return self.uids()


def _is_over(pod: Json) -> bool:
    """Whether it ended or is being deleted."""
    ended = pod["status"].get("phase") in ("Failed", "Succeeded")
    return ended or bool(pod["metadata"].get("deletionTimestamp"))


def _is_starting(pod: Json) -> bool:
    """Whether its containers are not ready yet (the pod itself waits for its gate besides)."""
    if _is_over(pod):
        return False
    found = conditions.find(pod["status"].get("conditions", []), "ContainersReady") or {}
    return found.get("status") != "True"


def _controller(pod: Json) -> str | None:
    owners = pod["metadata"].get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)
