"""One plane, one operator behind a proxy, one monitor; and pools in fresh namespaces of it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from sglang_operator.children import kinds
from sglang_operator.testing import ApiError, ControlPlane
from sglang_operator.testing.faults import Agent, Ledger, Match, Monitor, ProxiedOperator, Proxy
from sglang_operator.testing.faults.ledger import foreign_writes, removed_unasked
from sglang_operator.testing.faults.lives import KIND, controller
from sglang_operator.testing.faults.reference import differences
from sglang_operator.testing.faults.traffic import WRITES
from sglang_operator.testing.running import pause_after
from tests import collecting
from tests.builders import guide_spec
from tests.faults.rendezvous import Rendezvous

Json = dict[str, Any]

GROUP = "/apis/sglang-operator.dev/v1alpha1"
# Of each kind but the Lease, which is the trainers' to write: its group and its plural.
CHILDREN = {
    each.kind: (each.root, each.plural) for each in kinds.CHILDREN if each is not kinds.LEASE
}
CONVERGE_SECONDS = 40.0
QUIET_SECONDS = 0.3
OURS = Match(agent=Agent.OPERATOR)
NODES = "12x8"


class FaultPool:
    """One pool as a point handles it, by the administrator's own requests."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str = "pool") -> None:
        self.plane, self.namespace, self.name = plane, namespace, name

    @property
    def path(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/sglanginferences"

    def create(self, **changes: Any) -> None:
        """Create it: the guide's spec with these changes; None leaves a field out."""
        spec = {k: v for k, v in guide_spec(**changes).items() if v is not None}
        body = {
            "apiVersion": "sglang-operator.dev/v1alpha1",
            "kind": KIND,
            "metadata": {"name": self.name},
            "spec": spec,
        }
        self.plane.api.post(self.path, body)

    def patch(self, **spec: Any) -> None:
        """Merge this into the spec; None removes a field."""
        self.plane.api.merge(f"{self.path}/{self.name}", {"spec": spec})

    def delete(self, propagation: str = "Background") -> None:
        query = f"?propagationPolicy={propagation}"
        self.plane.api.delete(f"{self.path}/{self.name}{query}", missing_ok=True)

    def object(self) -> Json:
        found: Json = self.plane.api.get(f"{self.path}/{self.name}")
        return found

    def condition(self, type_: str) -> Json:
        listed = self.object().get("status", {}).get("conditions", [])
        return next((c for c in listed if c["type"] == type_), {})

    def all_pods(self) -> list[Json]:
        listed = self.plane.api.get(f"/api/v1/namespaces/{self.namespace}/pods")
        return list(listed["items"])

    def pods(self) -> dict[str, Json]:
        """The pods of this very pool, by name."""
        uid = self.object()["metadata"]["uid"]
        owned = [p for p in self.all_pods() if controller(p["metadata"]).get("uid") == uid]
        return {pod["metadata"]["name"]: pod for pod in owned}

    def uids(self) -> dict[str, str]:
        """UID of the live pod of each engine."""
        return {
            pod["metadata"]["labels"]["sglang-operator.dev/engine"]: pod["metadata"]["uid"]
            for pod in self.pods().values()
            if "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") not in ("Failed", "Succeeded")
        }

    def pod_path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{name}"

    def children(self) -> dict[str, Json]:
        """The pool's other children, by ``Kind/name``."""
        uid, found = self.object()["metadata"]["uid"], {}
        for kind, (group, plural) in CHILDREN.items():
            listed = self.plane.api.get(f"{group}/namespaces/{self.namespace}/{plural}")
            for item in listed["items"]:
                if controller(item["metadata"]).get("uid") == uid:
                    found[f"{kind}/{item['metadata']['name']}"] = item
        return found

    def differences(self, *, foreign: int = 0) -> list[str]:
        """How the world differs from what the spec should lead to."""
        found, pods = self.object(), self.pods()
        rest = len(self.all_pods()) - len(pods)
        told = [f"{rest} pods of somebody else"] if rest != foreign else []
        return told + differences(found, list(pods.values()), self.children())


@dataclasses.dataclass(kw_only=True)
class Result:
    """What came of one point."""

    point: str
    problems: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0  # from the last fault to convergence
    extra_writes: int = 0
    reached: bool = True
    skipped: bool = False  # not among the points that were asked for


class Lab:
    """Where points are run, one after another."""

    def __init__(self, plane: ControlPlane, proxy: Proxy, monitor: Monitor, package: Path | None):
        self.plane, self.proxy, self.monitor = plane, proxy, monitor
        self.package = package  # a source root from which operators run instead
        self.operator = ProxiedOperator(plane, proxy, package=package)
        self.mortal: set[str] = set()  # operators that end when they lose the Lease, as they should
        self.only = ""  # points whose name contains this text; the others are skipped
        self._numbers = itertools.count()

    def replace_operator(self, package: Path | None) -> None:
        """From now on the operator runs from this source root, or as it is."""
        if self.operator.pid is not None:
            self.operator.kill()
        self.package = package
        self.operator = ProxiedOperator(self.plane, self.proxy, package=package)

    def chosen(self, result: Result) -> bool:
        """Whether this point is among those that were asked for; notes it if it is not."""
        result.skipped = self.only not in result.point
        return not result.skipped

    @contextlib.contextmanager
    def pool(self) -> Iterator[FaultPool]:
        """A pool that is not created yet, in a namespace of its own; cleared away afterwards."""
        self.ensure_running()
        namespace = self.plane.namespace(f"point-{next(self._numbers)}")
        pool = FaultPool(self.plane, namespace)
        try:
            yield pool
        finally:
            self.proxy.clear()
            self.monitor.strict = True
            self.clear(pool)
            self.monitor.forget(namespace)

    def clear(self, pool: FaultPool) -> None:
        """Give the GPUs back; the garbage collector does the rest meanwhile."""
        for found in self.plane.api.get(pool.path)["items"]:
            self.plane.api.delete(f"{pool.path}/{found['metadata']['name']}", missing_ok=True)
        for pod in pool.all_pods():
            path = pool.pod_path(pod["metadata"]["name"]) + "?gracePeriodSeconds=0"
            self.plane.api.delete(path, missing_ok=True)

    def ensure_running(self) -> None:
        if self.operator.pid is None:
            self.operator.start()

    def crash(self) -> None:
        """SIGKILL the operator, let the world go on, and start it again."""
        self.operator.kill()
        self.proxy.resume()
        self.operator.start()

    # --- waiting

    def forgive(self) -> None:
        """Forget what was meant to end."""
        for name in self.mortal - self.plane.pids.keys():
            self.plane.await_end(name, 1.0)  # which makes it no failure of the plane

    def wait(self, check: Callable[[], Any], what: str, seconds: float = CONVERGE_SECONDS) -> Any:
        def healed() -> Any:
            self.forgive()
            return check()

        return self.plane.wait(healed, seconds, what)

    def quiet(self) -> bool:
        """Whether the operator has written nothing for a moment."""
        last = max((w.at for w in self.proxy.writes), default=0.0)
        return time.monotonic() - last > QUIET_SECONDS

    def settled(self, pool: FaultPool, foreign: int = 0) -> bool:
        """Whether the pool is as its spec says, and nobody does anything any more."""
        try:
            return self.quiet() and not pool.differences(foreign=foreign)
        except (ApiError, KeyError, OSError):
            return False  # deleted meanwhile, or half there

    def settle(
        self, pool: FaultPool, seconds: float = CONVERGE_SECONDS, foreign: int = 0
    ) -> list[str]:
        """Wait until the pool is settled; what is wrong if it never is."""
        begun = time.monotonic()
        while not self.settled(pool, foreign):
            if time.monotonic() > begun + seconds:
                return [f"not converged after {seconds:g} s: {self._why(pool, foreign)}"]
            self.forgive()
            self.plane.check()
            time.sleep(pause_after(time.monotonic() - begun))
        return []

    def _why(self, pool: FaultPool, foreign: int) -> str:
        try:
            told = pool.differences(foreign=foreign)
        except (ApiError, KeyError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        told = told or ["the operator goes on writing"]
        writes = [f"{w.request} {w.status}" for w in self.proxy.writes[-6:]]
        log = self.operator.log.read_text(errors="replace").splitlines()[-6:]
        return "; ".join([*told, "last writes:", *writes, "last words:", *log])

    # --- judging

    def ledger(self, pool: FaultPool) -> Ledger:
        return Ledger.of(self.monitor.of(pool.namespace, pool.name))

    def differences(self, pool: FaultPool, found: Ledger, reference: Ledger) -> list[str]:
        """What was created and deleted more or less often than without faults."""
        if not found.differences(reference):
            return []
        slips = self.slips(pool)
        return found.without(slips).differences(reference.without(slips))

    def slips(self, pool: FaultPool) -> set[str]:
        """Engines whose new pod KWOK removed instead of an old one of the same name.

        It deletes by name alone, and at times twice; kubelets name the UID.
        """
        taken = removed_unasked(self.plane.audit(), pool.namespace, by="kwok")
        return {name.removeprefix(f"{pool.name}-").rpartition("-")[0] for name in taken}

    def broken(self, pool: FaultPool) -> list[str]:
        """The promises that were broken in the pool's namespace so far."""
        pools = {life.uid: life.name for life in list(self.monitor.pools.values())}
        found = [*self.monitor.broken(pool.namespace), *foreign_writes(self.proxy.writes, pools)]
        return [str(violation) for violation in found]

    def writes(self, verbs: Collection[str] = WRITES) -> int:
        """Writes of the operator since the counters were reset, Events left out."""
        return sum(
            n
            for kind, n in self.proxy.counts.items()
            if kind.split()[0] in verbs and not kind.endswith("events")
        )


@contextlib.contextmanager
def lab(plane: ControlPlane, package: Path | None = None) -> Iterator[Lab]:
    """A lab on this plane; its operator is started."""
    with Proxy(plane.url, ca_file=plane.ca_file) as proxy:
        ProxiedOperator(plane, proxy, name="installer").install()
        collecting.teach(plane)
        with Monitor(plane.url, ca_file=plane.ca_file, token=plane.admin_token) as monitor:
            made = Lab(plane, proxy, monitor, package)
            made.operator.start()
            try:
                with Rendezvous(plane):
                    yield made
            finally:
                made.operator.kill()
