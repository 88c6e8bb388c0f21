"""Trainers in pods: beside an engine on its card, or with a card of their own."""

import contextlib
import http.client
import json
import os
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from sglang_operator.api import names
from sglang_operator.kube import paths
from sglang_operator.placement import colocated
from sglang_operator.testing import errors, roots
from sglang_operator.testing.gpu import pool
from sglang_operator.testing.installed import manifests
from sglang_operator.testing.nodes import GPU
from tests.gpu.room import DEVICE, INSIDE, ROOT, SHARED, SHM, Room

PORT = 8000
UP_SECONDS = 180.0  # torch is imported, a card used for the first time
JOB_SECONDS = 240.0
GONE_SECONDS = 60.0
CLAIMED: Mapping[str, Any] = {"persistentVolumeClaim": {"claimName": SHM}}
OWNER = "trainer-that-owns-a-card"
OF_THE_POD = {
    "NODE_NAME": "spec.nodeName",
    "POD_NAME": "metadata.name",
    "POD_UID": "metadata.uid",
}


class Trainer:
    """One pod."""

    def __init__(self, room: Room, name: str) -> None:
        self._room = room
        self.name = name

    def _pod(self) -> Any:
        return self._room.plane.api.get(f"{paths.pods('default')}/{self.name}")

    @property
    def url(self) -> str:
        """Where it takes jobs."""
        return f"http://{self._pod()['status']['podIP']}:{PORT}"

    def is_up(self) -> bool:
        """Whether it takes jobs; raises PlaneError with its log when it has ended."""
        if self._pod()["status"].get("phase") in ("Failed", "Succeeded"):
            raise errors.PlaneError(f"the trainer has ended:\n{self.log()}")
        try:
            urllib.request.urlopen(self.url, timeout=2).close()
        except (OSError, KeyError, http.client.HTTPException):
            return False
        return True

    def log(self) -> str:
        """The end of its log."""
        shown = self._room.plane.kubectl("logs", self.name, "--tail=30", check=False)
        return shown.stdout or shown.stderr

    def sync(self, by: str, step: int, pause: str | None = "abort") -> Any:
        """Have it sync; its answer."""
        return self.tell(by, step=step, pause=pause, folder=self._room.folder(step))

    def tell(self, by: str, **job: Any) -> Any:
        """Give it a job; its answer."""
        job["by"] = by
        sent = urllib.request.Request(self.url, json.dumps(job).encode(), method="POST")
        with urllib.request.urlopen(sent, timeout=JOB_SECONDS) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def beside(room: Room, uuid: str, *, shared_memory: bool = True) -> Iterator[Trainer]:
    """A trainer on the card of an engine; with the engine's /dev/shm, or one of its own."""
    name = "trainer-beside" if shared_memory else "trainer-apart"
    shm = CLAIMED if shared_memory else None
    with _pod(room, name, [_shared(room, uuid)], shm=shm) as trainer:
        yield trainer


@contextlib.contextmanager
def apart(room: Room) -> Iterator[Trainer]:
    """A trainer with a card of its own."""
    with _pod(room, "trainer-with-a-card", [GPU]) as trainer:
        yield trainer


@contextlib.contextmanager
def owner(room: Room) -> Iterator[Trainer]:
    """A trainer that owns a card, and tells the pool so: its engine joins it there."""
    sample = manifests() / "samples" / "colocated" / "trainer.yaml"
    rights = [
        each
        for each in yaml.safe_load_all(sample.read_text())
        if each["kind"] in ("ServiceAccount", "Role", "RoleBinding")
    ]
    room.plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(rights))
    given = {"PYTHONPATH": str(ROOT)}
    folder = {"path": colocated.folder("default"), "type": "DirectoryOrCreate"}
    with _pod(
        room, OWNER, [GPU], "colocated.py", given, shm={"hostPath": folder}, change=_as_owner
    ) as trainer:
        yield trainer


def _as_owner(pod: Any) -> None:
    """As operator/docs/how-to/colocate.md has it: the label, the account, who the pod is."""
    pod["metadata"]["labels"][names.LABEL_TRAINER] = "trainer"
    pod["spec"]["serviceAccountName"] = "colocated-trainer"
    pod["spec"]["containers"][0]["env"] += [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}}
        for name, field in OF_THE_POD.items()
    ]


@contextlib.contextmanager
def roll_job(room: Room, name: str, cards: Sequence[str]) -> Iterator[Trainer]:
    """A job of ROLL's with the cards of these engines, in their order; killed at the end."""
    resources = [_shared(room, uuid) for uuid in cards]
    given = {"ENGINE_CARDS": ",".join(cards), "PYTHONPATH": str(ROOT)}
    with _pod(room, name, resources, "roll_job.py", given) as job:
        yield job


def _shared(room: Room, uuid: str) -> str:
    """The resource by which a trainer has the card of an engine."""
    resource = f"{SHARED}-{room.ground.driver.node(_card(room, uuid)).rpartition('nvidia')[2]}"
    room.share_card(uuid, resource)
    return resource


def _card(room: Room, uuid: str) -> Any:
    return next(card for card in room.ground.found.cards if card.uuid == uuid)


@contextlib.contextmanager
def _pod(
    room: Room,
    name: str,
    resources: Sequence[str],
    program: str = "trainer.py",
    given: Mapping[str, str] = MappingProxyType({}),
    *,
    shm: Mapping[str, Any] | None = None,
    change: Callable[[Any], None] = lambda pod: None,
) -> Iterator[Trainer]:
    """``shm``: the volume at /dev/shm, by default one of the pod's own."""
    options = room.ground.options
    places = [given.get("PYTHONPATH", ""), options.variables.get("PYTHONPATH", "")]
    variables = {
        **given,
        "PYTHONPATH": roots.python_path(os.pathsep.join(filter(None, places))),
        "STAND_IN": "1" if room.stand_in else "",
        # A handle is of memory that the engine can see, or that it cannot.
        "DEVICE": DEVICE if shm else "GPU-of-nobody",
    }
    made = yaml.safe_load(pool.trainer(room.ground.image, str(INSIDE / program), variables))
    made["metadata"] |= {"name": name, "labels": {"role": "trainer"}}
    made["spec"]["containers"][0]["resources"] = {"limits": dict.fromkeys(resources, "1")}
    if shm:
        made["spec"]["volumes"] = [{"name": "dshm", **shm}]
    change(made)
    room.plane.kubectl("apply", "-f", "-", input=json.dumps(made))
    trainer = Trainer(room, name)
    try:
        room.wait(trainer.is_up, UP_SECONDS, f"{name} to be up")
        yield trainer
    finally:
        limit = f"--timeout={GONE_SECONDS:g}s"
        room.plane.kubectl("delete", "pod", name, "--ignore-not-found", limit)
