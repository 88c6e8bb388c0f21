"""What the demo does with a pool that has real GPUs: sync, ask, sleep, wake, crash, rejoin."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sglang_operator.api import names
from sglang_operator.client import Pool, registry
from sglang_operator.client.registry import Engine
from sglang_operator.engine import versions
from sglang_operator.kube import paths
from sglang_operator.testing import errors, roots
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.gpu import cards, model, pool
from sglang_operator.testing.gpu.driver import Driver
from sglang_operator.testing.gpu.steps import Step, Steps
from sglang_operator.testing.installed import InstalledOperator, manifests

START_SECONDS = 900.0  # a cold start compiles kernels
SYNC_SECONDS = 180.0
ANSWER_SECONDS = 60.0
MEMORY_SECONDS = 120.0
NOTICE_SECONDS = 120.0
SERVICE_SECONDS = 60.0
GROUP_SECONDS = 300.0
GROUP_STEPS = (5, 6)  # the first forms the group, the next uses it
SHOWN_SECONDS = 20.0
PROMPT = (11, 7, 5)
TOKENS = 8
LOG_LINES = 30
OPERATOR_LINES = 10
GIB = 1 << 30
PARTS = ("begin", "update", "commit", "gates")  # of a sync


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where engines find the weights of a step, and whether their answers are known."""

    path: str  # in the containers; {step} is the step's number
    own: bool  # of model.py

    def of(self, step: int) -> str:
        """The path of a step."""
        return self.path.format(step=step)


class Story:
    """One pool from its Ready on; every method is a step or two."""

    def __init__(
        self,
        plane: ControlPlane,
        operator: InstalledOperator,
        steps: Steps,
        *,
        checkpoints: Checkpoints,
        driver: Driver,
        chosen: Sequence[cards.Card],
        version: str,
    ) -> None:
        self._plane = plane
        self._operator = operator
        self._steps = steps
        self._checkpoints = checkpoints
        self._driver = driver
        self._uuids = [card.uuid for card in chosen]
        self._model_info = versions.features(versions.parse(version)).model_info_path
        self._trainer = Path()  # its kubeconfig
        steps.diagnosis = self.diagnosis

    def tell(self, manifest: str, trainer: str | None) -> None:
        """All of it, in the plane's network; ``trainer`` is a pod's.  Raises KitError."""
        with self._plane.inside():
            self.come_up(manifest)
            self.first_sync()
            with Pool(pool.POOL, "default", kubeconfig=self._trainer) as client:
                self.sync(client, 2)
                self.sleep(client)
                self.wake(client)
                self.sync(client, 3)
                self.crash(client)
                self.sync(client, 4)
            if trainer is not None:
                self.broadcast(trainer)

    # ---- the steps

    def come_up(self, manifest: str) -> None:
        """Apply the pool; it gets Ready, and its gate is closed."""
        with self._steps.step("kubectl apply: the pool is Ready", START_SECONDS) as step:
            self._plane.kubectl("apply", "-f", "-", input=manifest)
            self._plane.wait(self._is_ready, START_SECONDS, "the pool to be Ready")
            step.seen = str(self._pool()["status"].get("readySummary", ""))
        with self._steps.step("its engines have cards, and no privileges", SERVICE_SECONDS) as step:
            step.seen = "; ".join(self._rights(engine) for engine in self._engines())
        with self._steps.step("the gate is closed", SERVICE_SECONDS) as step:
            labels = [self._closed(engine) for engine in self._engines()]
            step.seen = f"no engine is in the Service; they hold {', '.join(labels)}"

    def first_sync(self) -> None:
        """The sample trainer as it is shipped, as its own ServiceAccount."""
        folder = manifests() / "samples" / "trainer"
        with self._steps.step("the sample trainer syncs step-1", SYNC_SECONDS) as step:
            self._plane.kubectl("apply", "-f", str(folder / "rbac.yaml"))
            self._trainer = self._plane.service_account_kubeconfig("default", "trainer")
            step.seen = self._run_trainer(folder / "trainer.py")
        self.answers(1)

    def sync(self, client: Pool, number: int) -> None:
        """A sync from disk by the client, and how long each part of it took."""
        version = f"step-{number}"
        path = self._checkpoints.of(number)
        with self._steps.step(f"the client syncs {version}", SYNC_SECONDS) as step:
            moments = [time.monotonic()]
            with client.sync(version) as sync:
                moments.append(time.monotonic())
                sync.update_weights_from_disk(path)
                sync.checkpoint = path
                moments.append(time.monotonic())
            moments.append(time.monotonic())
            client.wait_synced(version, SYNC_SECONDS)
            moments.append(time.monotonic())
            laps = (later - sooner for sooner, later in itertools.pairwise(moments))
            parts = dict(zip(PARTS, laps, strict=True))
            step.figures = {key: round(value, 4) for key, value in parts.items()}
            step.seen = ", ".join(f"{key} {1000 * value:.0f} ms" for key, value in parts.items())
        self.answers(number)

    def answers(self, number: int) -> None:
        """The Service and each engine answer with the weights of a step, and say so."""
        version = f"step-{number}"
        known = model.answer(number, PROMPT, TOKENS) if self._checkpoints.own else None
        with self._steps.step(f"answers carry {version}", ANSWER_SECONDS) as step:
            answer = self._plane.wait(
                lambda: tried(f"{self._service()}/generate", question()),
                ANSWER_SECONDS,
                "an answer of the Service",
            )
            others = [ask(f"{each.url}/generate", question()) for each in self._engines()]
            for each in (answer, *others):
                if problem := pool.wrong(each, version, known):
                    raise errors.KitError(problem)
            proof = "as only these weights answer" if known else "of which no answer is known"
            step.seen = f"{list(PROMPT)} → {answer['output_ids']}, {proof}"

    def sleep(self, client: Pool) -> None:
        """The engines give their memory back."""
        with self._steps.step("the engines sleep", MEMORY_SECONDS) as step:
            before = self._driver.used(self._uuids)
            client.sleep()
            self._note_memory(step, before, freed=True)
        with self._steps.step("asleep, they are alive and out of the Service", SERVICE_SECONDS):
            self._plane.wait(lambda: not self._in_service(), SERVICE_SECONDS, "closed gates")
            for engine in self._engines():
                get(f"{engine.url}/health")

    def wake(self, client: Pool) -> None:
        """They take it again; what they hold is no weights until the next sync."""
        with self._steps.step("the engines wake, their gates closed", MEMORY_SECONDS) as step:
            before = self._driver.used(self._uuids)
            client.wake()
            self._note_memory(step, before, freed=False)
            if served := self._in_service():
                raise errors.KitError(f"in the Service without weights: {', '.join(served)}")

    def crash(self, client: Pool) -> None:
        """The scheduler of an engine is killed; the engine comes back behind a closed gate."""
        lost, epoch = client.engines()[0], client.epoch
        with self._steps.step(
            "a scheduler is killed: the operator notices", NOTICE_SECONDS
        ) as step:
            pid, command = self._kill(lost)
            self._plane.wait(
                lambda: _of(client, lost).instance != lost.instance or not _of(client, lost).up,
                NOTICE_SECONDS,
                f"engine {lost.engine} to be missed",
            )
            step.seen = f"SIGKILL to {pid}, {command[:60]}"
        with self._steps.step("the engine is back, its gate closed", START_SECONDS) as step:
            self._plane.wait(
                lambda: _of(client, lost).up and _of(client, lost).instance != lost.instance,
                START_SECONDS,
                f"engine {lost.engine} to be up again",
            )
            client.wait_ready(START_SECONDS)
            if client.epoch == epoch:
                raise errors.KitError(f"the epoch is {epoch} still, after an engine restarted")
            step.seen = f"{self._closed(_of(client, lost))}; a new epoch: {client.epoch}"

    def broadcast(self, manifest: str) -> None:
        """A trainer in a pod with a GPU of its own sends the weights of two steps by NCCL."""
        path = f"{paths.pods('default')}/{pool.TRAINER}"

        def ended() -> str:
            phase = str(self._plane.api.get(path)["status"].get("phase"))
            return phase if phase in ("Succeeded", "Failed") else ""

        first, last = GROUP_STEPS
        title = f"a trainer with a GPU broadcasts step-{first} and step-{last}"
        with self._steps.step(title, GROUP_SECONDS) as step:
            self._plane.kubectl("apply", "-f", "-", input=manifest)
            phase = self._plane.wait(ended, GROUP_SECONDS, "the trainer to end")
            log = self._plane.kubectl("logs", pool.TRAINER, check=False).stdout
            if phase == "Failed":
                end = "\n".join(log.splitlines()[-LOG_LINES:])
                raise errors.KitError(f"the trainer failed:\n{end}")
            step.figures = {"syncs": pool.said(log)}
            step.seen = "; ".join(
                f"step-{each.pop('step')}: "
                + ", ".join(f"{key} {1000 * value:.0f} ms" for key, value in each.items())
                for each in pool.said(log)
            )
        self.answers(last)

    # ---- looking

    def _pool(self) -> Any:
        return self._plane.api.get(f"{paths.pools('default')}/{pool.POOL}")

    def _is_ready(self) -> bool:
        seen = self._pool()
        if reason := pool.hopeless(seen):
            raise errors.PlaneError(reason)  # no more waiting
        return pool.condition(seen, "Ready").get("status") == "True"

    def _engines(self) -> list[Engine]:
        """Those of the registry; through the administrator, for the trainer is not there yet."""
        path = f"/api/v1/namespaces/default/configmaps/{names.registry_name(pool.POOL)}"
        return list(registry.parse(self._plane.api.get(path)).engines)

    def _in_service(self) -> set[str]:
        service = names.service_name(pool.POOL)
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        selector = f"?labelSelector=kubernetes.io/service-name%3D{service}"
        return pool.in_service(self._plane.api.get(path + selector)["items"])

    def _service(self) -> str:
        path = f"/api/v1/namespaces/default/services/{names.service_name(pool.POOL)}"
        spec = self._plane.api.get(path)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def _closed(self, engine: Engine) -> str:
        """The label of an engine's weights; raises KitError when clients could get an answer."""
        if engine.pod_ip in self._in_service():
            raise errors.KitError(f"engine {engine.engine} is in the Service, without weights")
        label = str(ask(f"{engine.url}{self._model_info}").get("weight_version"))
        if label not in ("None", pool.UNSYNCED):
            raise errors.KitError(f"engine {engine.engine} has {label!r} before any sync")
        return f"weight_version {label}"

    def _process(self, engine: Engine) -> tuple[int, str]:
        """The process of an engine that has the GPU, and its command."""
        pod = self._plane.api.get(f"{paths.pods('default')}/{engine.pod}")
        commands = dict(processes(pod["metadata"]["uid"]))
        pid = pool.victim(commands)
        return pid, commands[pid]

    def _rights(self, engine: Engine) -> str:
        pid, _ = self._process(engine)
        folder = Path(f"/proc/{pid}")
        nodes = sorted(path.name for path in (folder / "root/dev").glob("nvidia[0-9]*"))
        if problem := pool.privileged((folder / "status").read_text()):
            raise errors.KitError(f"engine {engine.engine} {problem}")
        if len(nodes) != engine.gpus:
            raise errors.KitError(f"engine {engine.engine} of {engine.gpus} GPU has {nodes}")
        return f"{engine.pod}: /dev/{', /dev/'.join(nodes)}"

    def _note_memory(self, step: Step, before: int, *, freed: bool) -> None:
        """Note what the driver shows; raises KitError when that is no change."""
        uuids, driver = self._uuids, self._driver
        if not driver.is_stand_in:
            word = "less" if freed else "more"
            self._plane.wait(
                lambda: pool.changed(before, driver.used(uuids), freed=freed),
                SHOWN_SECONDS,
                f"the driver to show {word} memory in use than {before / GIB:.1f} GiB",
            )
        after = driver.used(uuids)
        step.figures = {"used_before": before, "used_after": after}
        step.seen = f"{before / GIB:.1f} → {after / GIB:.1f} GiB on {len(uuids)} card(s)"
        if driver.is_stand_in:
            step.seen += "; a stand-in has no memory"

    # ---- doing

    def _run_trainer(self, program: Path) -> str:
        done = subprocess.run(
            [sys.executable, str(program)],
            env={
                **os.environ,
                "KUBECONFIG": str(self._trainer),
                "PYTHONPATH": roots.python_path(os.environ.get("PYTHONPATH", "")),
                "POOL": pool.POOL,
                "STEPS": "1",
                "CHECKPOINT": self._checkpoints.path,
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise errors.KitError(f"the trainer failed: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip().replace("\n", "; ")

    def _kill(self, engine: Engine) -> tuple[int, str]:
        pid, command = self._process(engine)
        os.kill(pid, signal.SIGKILL)
        return pid, command

    # ---- when it fails

    def diagnosis(self) -> str:
        """What the cluster, the engines and the operator say at this moment."""
        return diagnosis(self._plane, self._operator)


def diagnosis(plane: ControlPlane, operator: InstalledOperator) -> str:
    """What the cluster, the engines' logs and the operator's say at this moment."""
    kubectl = plane.kubectl
    parts = [kubectl("get", "sgi,pods", "-o", "wide", check=False).stdout]
    seen = kubectl("get", "sgi", pool.POOL, "-o", "json", check=False)
    if seen.returncode == 0:
        parts += _conditions(json.loads(seen.stdout))
    chosen = ("-l", names.pods_text(pool.POOL))
    pods = kubectl("get", "pods", *chosen, "-o", "name", check=False).stdout.split()
    for pod in pods:
        logs = kubectl("logs", pod, f"--tail={LOG_LINES}", check=False)
        parts.append(f"the end of the log of {pod}:\n{logs.stdout or logs.stderr}")
    events = kubectl("get", "events", "--sort-by=.lastTimestamp", check=False).stdout
    parts.append("\n".join(["the last events:", *events.splitlines()[-OPERATOR_LINES:]]))
    said = operator.log.read_text(errors="replace").splitlines()
    parts.append("\n".join(["the operator:", *said[-OPERATOR_LINES:]]))
    return "\n".join(parts)


def _conditions(seen: Any) -> list[str]:
    found = seen.get("status", {}).get("conditions", [])
    return [
        f"{each['type']}={each['status']} {each['reason']}: {each['message']}" for each in found
    ]


def _of(client: Pool, engine: Engine) -> Engine:
    return next(each for each in client.engines() if each.engine == engine.engine)


def question() -> dict[str, Any]:
    """A request whose answer ``model.answer`` knows."""
    return {
        "input_ids": list(PROMPT),
        "sampling_params": {"max_new_tokens": TOKENS, "temperature": 0, "ignore_eos": True},
    }


def get(url: str, body: object = None) -> bytes:
    """What an engine answers; raises OSError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        content: bytes = answer.read()
    return content


def ask(url: str, body: object = None) -> Any:
    """Its answer as JSON; raises OSError."""
    return json.loads(get(url, body))


def tried(url: str, body: object) -> Any:
    """The answer, or None while nobody gives one."""
    try:
        return ask(url, body)
    except OSError:
        return None


def processes(uid: str) -> Iterator[tuple[int, str]]:
    """The processes in a pod's control groups, with their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if uid in (entry / "cgroup").read_text():
                    said = (entry / "cmdline").read_bytes()
                    yield int(entry.name), said.replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # just ended
