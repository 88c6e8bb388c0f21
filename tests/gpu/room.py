"""One control plane with the operator and the GPUs, and the one pool that tests take turns with.

Its cards are one node's; those of a module with ``NODES = 2`` are two nodes', one on each.
"""

import contextlib
import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sglang_operator.api import names
from sglang_operator.client import Pool, registry
from sglang_operator.client.registry import Engine
from sglang_operator.engine import versions
from sglang_operator.kube import paths
from sglang_operator.testing import __main__ as commandline
from sglang_operator.testing import errors, roots
from sglang_operator.testing.gpu import demo, model, pool, story
from sglang_operator.testing.gpu.ground import Ground, Options, prepared
from sglang_operator.testing.installed import InstalledOperator, manifests
from tests.gpu import starts

VARIABLE = "SGLANG_GPU"
CARDS = 2  # that any test needs at most
STEPS = 12  # with weights of their own; after the last comes the first
ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside"
SHARED = "kit.invalid/shared-gpu"  # a card that an engine has, for a trainer beside it
SHM = "shared-memory"
REMOVED_SECONDS = 120.0
SYNC_SECONDS = 60.0
# For the stand-in: it is as strict as SGLang, and has a card.
DEVICE = "GPU-of-the-engine"
CONTROL_PORT = 39000
FAKE = {
    "FAKE_SGLANG_MODELS": "strict",
    "FAKE_SGLANG_MAX_MEM_FRACTION": "0.99",
    "FAKE_SGLANG_DEVICES": DEVICE,
    "FAKE_SGLANG_DRAIN_POLL_SECONDS": "0.2",
    "FAKE_SGLANG_CONTROL_PORT": str(CONTROL_PORT),
}


class LackingError(errors.KitError):
    """This machine has not what the tests need, in words."""


def options() -> Options:
    """As the variable has them; raises KitError, SystemExit for what is no argument of the demo."""
    given = shlex.split(os.environ.get(VARIABLE, ""))
    arguments = commandline._parser().parse_args(["demo", "--gpu", *given])
    read = demo.read(arguments)
    if read.model is not None or read.image is not None or read.nccl:
        raise errors.KitError(f"{VARIABLE}: the tests have a model and trainers of their own")
    sources = [str(package.parent) for package in roots.PACKAGES]
    variables = {**(FAKE if read.stand_in else {}), **read.variables}
    mounts = [*read.mounts, *sources, str(ROOT / "tests")]
    return replace(read, mounts=mounts, variables=variables)


class Room:
    """What the tests share."""

    def __init__(self, ground: Ground, operator: InstalledOperator, shm: Path) -> None:
        self.ground = ground
        self.plane = ground.plane
        self.operator = operator
        self.known = not ground.options.stand_in  # whether answers tell whose weights they are
        self.trainer = Path()  # the trainer's kubeconfig
        self._shm = shm
        self._shape = (0, 0)  # the engines that are up, and the GPUs of each
        self._step = 0
        self._own = False  # whether the pool is one that a test wrote
        self._shared: set[str] = set()
        self._written = False  # whether the engine has been sent any weights
        self.started: list[dict[str, float]] = []  # the moments of each start, the latest last

    @property
    def stand_in(self) -> bool:
        """Whether driver and engines are stand-ins."""
        return self.ground.options.stand_in

    @property
    def nodes(self) -> int:
        """How many nodes share the cards."""
        return self.ground.options.nodes

    @property
    def gpus_per_node(self) -> int:
        """How many cards each of them has."""
        return len(self.ground.found.cards) // self.nodes

    @property
    def features(self) -> versions.Features:
        """What the engines' version can do."""
        return versions.features(versions.parse(self.ground.version))

    # ---- the pool

    def engine(self, gpus: int = 1, seconds: float = story.START_SECONDS) -> Engine:
        """The engine, which is up; another pool ends before."""
        return self.some_engines(1, gpus, seconds)[0]

    def some_engines(
        self, count: int, gpus: int = 1, seconds: float = story.START_SECONDS
    ) -> list[Engine]:
        """So many engines, which are up; another pool ends before."""
        if self._own or self._shape != (count, gpus):
            self.clear()
            self._shape = (count, gpus)
            self._start(self._manifest(count, gpus), seconds)
        elif not self._is_up():
            self.follow(seconds)
        return self.engines()

    def fresh_engine(self) -> Engine:
        """The engine, with no weights but those that it started with; another starts if need be."""
        found = self.engine()
        return self.another_engine() if self._written else found

    def another_engine(self) -> Engine:
        """The engine that comes up in the place of the one that there is."""
        found = self.engine()
        [pod] = self.pods()
        self.plane.kubectl("delete", "pod", str(found.pod), "--wait=false")
        self.follow(gone=[pod["metadata"]["uid"]])
        return self.engine()

    def clear(self) -> None:
        """No pool of the tests is left, and no pod of a pool or of a trainer."""
        self.plane.kubectl("delete", "sgi", "--all", "--wait=false")
        self.plane.kubectl("delete", "pods", "-l", "role=trainer", "--wait=false")
        self._shape, self._own = (0, 0), False
        self.plane.wait(lambda: not self._pods(), REMOVED_SECONDS, "the pods to be gone")

    def apply(self, made: Mapping[str, Any]) -> None:
        """A pool of one engine that a test wrote, in the place of any other; see ``follow``."""
        self.clear()
        self._shape, self._own = (1, 1), True
        self.plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(dict(made)))

    def follow(
        self,
        seconds: float = story.START_SECONDS,
        *,
        gone: Collection[str] = (),
        begun: float | None = None,
    ) -> dict[str, float]:
        """Watch the engines come up, since ``begun`` or from now on; their moments.

        ``gone`` are UIDs of pods that they are not.
        """
        begun = time.monotonic() if begun is None else begun
        moments = {"asked": 0.0, **starts.follow(self._looks(gone), seconds, begun)}
        self.started.append(moments)
        self._written = False
        return moments

    def _start(self, manifest: str, seconds: float) -> None:
        self.plane.kubectl("apply", "-f", "-", input=manifest)
        self.follow(seconds)

    def _looks(self, gone: Collection[str]) -> dict[str, starts.Seen]:
        port = 30000
        engines, gpus = self._shape
        wanted = engines * max(1, gpus // self.gpus_per_node)

        def pods() -> list[Any]:
            self._check()
            found = [each for each in self.pods() if each["metadata"]["uid"] not in gone]
            there = [each for each in found if not has_ended(each)]
            return there if len(there) == wanted else []

        def all_of(look: Callable[[Any], bool]) -> starts.Seen:
            return lambda: all(map(look, found)) if (found := pods()) else False

        def runs(pod: Any) -> bool:
            states = pod["status"].get("containerStatuses") or [{}]
            return "running" in states[0].get("state", {})

        def answer(pod: Any) -> int:
            if node_rank(pod):
                return 200  # of the engine the leader alone tells
            address = pod["status"].get("podIP")
            return starts.answers(f"http://{address}:{port}/health") if address else 0

        return {
            "pod": all_of(lambda pod: True),
            "container": all_of(runs),
            "listening": all_of(lambda pod: answer(pod) > 0),
            "healthy": all_of(lambda pod: answer(pod) == 200),
            "noticed": all_of(lambda pod: pod_condition(pod, "ContainersReady") == "True"),
            "ready": self._is_up,
        }

    def pods(self, name: str = pool.POOL) -> list[Any]:
        """The pods of a pool, of the shared one, that do not end; leaders first."""
        found = [
            each
            for each in self._pods()
            if "deletionTimestamp" not in each["metadata"]
            and each["metadata"]["labels"].get(names.LABEL_POOL) == name
        ]
        return sorted(found, key=node_rank)

    def members(self, engine: Engine) -> list[Any]:
        """The pods of an engine, the leader first."""
        labelled = [
            each
            for each in self.pods()
            if each["metadata"]["labels"].get(names.LABEL_ENGINE) == engine.engine
        ]
        return [each for each in labelled if not has_ended(each)]

    def _pods(self) -> list[Any]:
        listed = self.plane.api.get(paths.pods("default"))["items"]
        labels = ((each, each["metadata"].get("labels", {})) for each in listed)
        return [
            each for each, has in labels if names.LABEL_POOL in has or has.get("role") == "trainer"
        ]

    def pool(self, name: str = pool.POOL) -> Any:
        """The object."""
        return self.plane.api.get(f"{paths.pools('default')}/{name}")

    def _is_up(self) -> bool:
        self._check()
        return pool.condition(self.pool(), "Ready").get("status") == "True"

    def _check(self) -> None:
        """Raises PlaneError where waiting is of no use: the operator is gone, the pool refused."""
        self.plane.check()
        if not self.started and (reason := pool.hopeless(self.pool())):
            raise errors.PlaneError(reason)

    def engines(self) -> list[Engine]:
        """Those of the registry."""
        path = f"/api/v1/namespaces/default/configmaps/{names.registry_name(pool.POOL)}"
        return list(registry.parse(self.plane.api.get(path)).engines)

    def manifest(self, name: str, gpus: int = 1, **config: object) -> str:
        """A pool of one engine, of this name and with these settings."""
        return yaml.safe_dump(self._object(name, 1, gpus, config), sort_keys=False)

    def _object(
        self, name: str, engines: int, gpus: int, config: Mapping[str, object]
    ) -> dict[str, Any]:
        text = pool.manifest(
            self.ground.image, engines * gpus, {**self.ground.options.config, **config}, "/unused"
        )
        made: dict[str, Any] = list(yaml.safe_load_all(text))[-1]
        made["metadata"]["name"] = name
        made["spec"]["num_gpus_per_worker"] = gpus
        made["spec"]["num_gpus_per_node"] = self.gpus_per_node
        return made

    def lay_volumes(self) -> None:
        """The volumes that engines keep: what they compile, and a /dev/shm to share."""
        text = pool.manifest(self.ground.image, 1, {}, self.ground.kernels())
        kept = list(yaml.safe_load_all(text))[:2]
        volume, claim = json.loads(json.dumps(kept))
        volume["metadata"]["name"] = claim["metadata"]["name"] = SHM
        volume["spec"]["hostPath"]["path"] = str(self._shm)
        claim["spec"]["volumeName"] = SHM
        self.plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([*kept, volume, claim]))

    def _manifest(self, engines: int, gpus: int) -> str:
        """The pool that tests share: its engine's /dev/shm is one that a trainer can have too.

        Pods on several nodes have nothing like that in common.
        """
        made = self._object(pool.POOL, engines, gpus, {})
        if self.nodes > 1:
            return yaml.safe_dump(made, sort_keys=False)
        template = made["spec"]["podTemplate"]["spec"]
        template["volumes"].append({"name": SHM, "persistentVolumeClaim": {"claimName": SHM}})
        mount = {"name": SHM, "mountPath": "/dev/shm"}
        template["containers"] = [{"name": names.ENGINE_CONTAINER, "volumeMounts": [mount]}]
        return yaml.safe_dump(made, sort_keys=False)

    def make_way(self) -> None:
        """There is a card for one engine more."""
        engines, gpus = self._shape
        if engines * gpus >= len(self.ground.found.cards):
            self.clear()

    # ---- weights

    def next_step(self) -> int:
        """The number of a step whose weights no engine has had."""
        self._step = self._step % STEPS + 1
        self._written = True
        return self._step

    def folder(self, step: int) -> str:
        """Where pods find its weights."""
        return f"{pool.MODELS}/step-{step}"

    def client(self) -> Pool:
        """The pool as a trainer has it."""
        if not self.trainer.name:
            rbac = manifests() / "samples" / "trainer" / "rbac.yaml"
            self.plane.kubectl("apply", "-f", str(rbac))
            self.trainer = self.plane.service_account_kubeconfig("default", "trainer")
        return Pool(pool.POOL, "default", kubeconfig=self.trainer)

    def sync(self, client: Pool, **how: Any) -> int:
        """A sync from disk to the next step, seen through to open gates; its number."""
        step = self.next_step()
        with client.sync(f"step-{step}", **how) as sync:
            sync.update_weights_from_disk(self.folder(step))
            sync.checkpoint = self.folder(step)
        client.wait_synced(f"step-{step}", SYNC_SECONDS)
        return step

    def check_answers(self, step: int) -> None:
        """Each engine and the Service answer with the weights of a step; raises AssertionError."""
        expected = model.answer(step, story.PROMPT, story.TOKENS) if self.known else None
        self.plane.wait(
            lambda: story.tried(f"{self.service()}/generate", story.question()),
            story.ANSWER_SECONDS,
            "an answer of the Service",
        )
        for url in (self.service(), *(engine.url for engine in self.engines())):
            answer = story.ask(f"{url}/generate", story.question())
            assert pool.wrong(answer, f"step-{step}", expected) is None

    def share_card(self, uuid: str, resource: str) -> None:
        """Let a trainer have a card that an engine has; once for each resource."""
        if resource not in self._shared:
            self.ground.share_card(uuid, resource)
            self._shared.add(resource)

    # ---- looking

    def service(self) -> str:
        """The address of the pool's Service."""
        path = f"/api/v1/namespaces/default/services/{names.service_name(pool.POOL)}"
        spec = self.plane.api.get(path)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def in_service(self) -> set[str]:
        """The addresses of the engines that clients reach."""
        service = names.service_name(pool.POOL)
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        selector = f"?labelSelector=kubernetes.io/service-name%3D{service}"
        return pool.in_service(self.plane.api.get(path + selector)["items"])

    def processes(self, engine: Engine) -> dict[int, str]:
        """The processes of an engine's pod, its leader's, with their command lines."""
        found = self.plane.api.get(f"{paths.pods('default')}/{engine.pod}")
        return dict(story.processes(found["metadata"]["uid"]))

    def cards(self, engine: Engine) -> list[str]:
        """The UUIDs of the cards that an engine has, by the device nodes of its pods."""
        return [uuid for pod in self.members(engine) for uuid in self.cards_of(pod)]

    def cards_of(self, pod: Any) -> list[str]:
        """The UUIDs of the cards that a pod of an engine has."""
        pid = pool.victim(dict(story.processes(pod["metadata"]["uid"])))
        nodes = {path.name for path in Path(f"/proc/{pid}/root/dev").glob("nvidia[0-9]*")}
        return [
            card.uuid
            for card in self.ground.found.cards
            if Path(self.ground.driver.node(card)).name in nodes
        ]

    def used(self, uuids: Sequence[str]) -> int:
        """Bytes in use on some cards."""
        return self.ground.driver.used(uuids)

    def failures(self, name: str) -> list[Any]:
        """What the pool's status tells of engines that failed."""
        return list(self.pool(name).get("status", {}).get("lastFailures", []))

    def diagnosis(self) -> str:
        """What can be seen at this moment: the pool, the ends of the logs, events."""
        return story.diagnosis(self.plane, self.operator)

    def wait(self, look: Any, seconds: float, what: str) -> Any:
        """Wait for a condition; raises WaitTimeoutError."""
        return self.plane.wait(look, seconds, what)


def pod_condition(pod: Mapping[str, Any], kind: str) -> str:
    """The status of a pod's condition; "" while there is none."""
    found = (pod.get("status") or {}).get("conditions") or []
    return next((each["status"] for each in found if each["type"] == kind), "")


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's containers have all ended, for good."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def node_rank(pod: Mapping[str, Any]) -> int:
    """Which of its engine's pods it is; 0: the leader, or the only one."""
    return names.node_rank_of(pod["metadata"]["name"]) or 0


class Rooms:
    """At most one room at a time: two would take each other's cards."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._stack = contextlib.ExitStack()
        self._room: Room | None = None

    def __enter__(self) -> "Rooms":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, nodes: int) -> Room:
        """The room of so many nodes; raises LackingError, or PlaneError."""
        if self._room is None or self._room.nodes != nodes:
            self.close()
            self._room = self._stack.enter_context(opened(nodes, self._say))
        return self._room

    def close(self) -> None:
        """End the room that there is."""
        self._room = None
        self._stack.close()


@contextlib.contextmanager
def opened(nodes: int, say: Callable[[str], None]) -> Iterator[Room]:
    """A room, with this thread in its network; raises LackingError, or PlaneError."""
    given = replace(options(), nodes=nodes)
    with contextlib.ExitStack() as stack:
        ground = stack.enter_context(_as_many_as_there_are(given, say))
        stack.enter_context(ground.plane)
        ground.give_cards()
        ground.believe_variables()
        ground.load_image()
        ground.write_models(STEPS)
        shm = Path(tempfile.mkdtemp(prefix="sglang-operator-", dir="/dev/shm"))
        shm.chmod(0o1777)
        stack.callback(shutil.rmtree, shm, ignore_errors=True)
        operator = stack.enter_context(InstalledOperator(ground.plane, ask_engines=True))
        stack.enter_context(ground.plane.inside())
        room = Room(ground, operator, shm)
        stack.callback(room.clear)
        room.lay_volumes()
        room.client().close()
        yield room


@contextlib.contextmanager
def _as_many_as_there_are(given: Options, say: Callable[[str], None]) -> Iterator[Ground]:
    """The ground with two cards, or with one for each node where there is no other."""
    with contextlib.ExitStack() as stack:
        try:
            ground = stack.enter_context(prepared(replace(given, gpus=CARDS), say))
        except errors.KitError:
            try:
                ground = stack.enter_context(prepared(replace(given, gpus=given.nodes), say))
            except errors.KitError as error:
                raise LackingError(str(error)) from error
        yield ground
