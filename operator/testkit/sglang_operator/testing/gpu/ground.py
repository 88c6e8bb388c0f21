"""What stands before any pool with real GPUs: the plane, its cards, the engines' image, the models.

The demo builds it step by step, the tests of tests/gpu at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_operator.engine import versions
from sglang_operator.testing import binaries, nodes, roots
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.gpu import (
    allocation,
    cards,
    environment,
    model,
    pool,
    requirements,
    runtime,
    standin,
)
from sglang_operator.testing.gpu.allocation import Inventory, Mount
from sglang_operator.testing.gpu.driver import Driver
from sglang_operator.testing.realnode import tools

SPEC = "{}x0"  # nodes, whose GPUs the plugin tells of
PLUGIN = "device-plugin"
PROGRAM = "sglang_operator.testing.gpu.plugin"  # which only its own process imports
CARD_SECONDS = 60.0
# Where the driver's libraries are in an image: NVIDIA's name this folder in LD_LIBRARY_PATH.
DRIVER_LIBRARIES = "/usr/local/nvidia/lib64"
CACHE = "gpu-kernels"

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    gpus: int = 1
    nodes: int = 1  # that have the cards, each as many
    nccl: bool = False  # a trainer on one more
    python: str = sys.executable
    image: str | None = None
    model: Path | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mounts: Sequence[str] = ()
    report: Path | None = None
    stand_in: bool = False

    @property
    def cards(self) -> int:
        """How many GPUs are needed."""
        return self.gpus + int(self.nccl)


@contextlib.contextmanager
def prepared(options: Options, say: Say) -> Iterator[Ground]:
    """The ground, of which nothing runs yet; raises KitError with all that is missing."""
    with tempfile.TemporaryDirectory(prefix="sglang-operator-gpu-") as text:
        folder, driver = Path(text), Driver()
        if options.stand_in:
            variables = {**standin.sglang(folder / "sglang"), **options.variables}
            options = dataclasses.replace(options, variables=variables)
            driver = standin.driver(folder / "driver", options.cards)
        wanted = requirements.Wanted(
            gpus=options.cards,
            python=options.python,
            image=options.image,
            model=options.model,
            variables=dict(options.variables),
            driver=driver,
        )
        found = requirements.find(wanted)
        located = tools.locate(say)  # where it may take its time
        yield Ground(options, driver, found, folder, located, say)


class Ground:
    """A control plane whose nodes have the cards of this machine, each its share."""

    def __init__(
        self,
        options: Options,
        driver: Driver,
        found: requirements.Found,
        folder: Path,
        located: Path,
        say: Say,
    ) -> None:
        self.options = options
        self.driver = driver
        self.found = found
        self._folder = folder
        self._tools = located
        self._say = say
        self._runtime = folder / runtime.PROGRAM
        self._shares = {
            nodes.NAME.format(number): own
            for number, own in enumerate(cards.shared_out(found.cards, options.nodes))
        }
        self.plane = ControlPlane(
            SPEC.format(options.nodes),
            kind="real",
            runtimes={runtime.NAME: self._runtime},
            progress=say,
        )

    @property
    def models(self) -> Path:
        """The folder of the models on this machine; pods see it at ``pool.MODELS``."""
        return self._folder / "models"

    def give_cards(self) -> None:
        """Start the plugin on each node, and wait until kubelet has told of its cards."""
        for node, own in self._shares.items():
            self._plug(node, PLUGIN, self._inventory(nodes.GPU, [card.uuid for card in own]))
            labels = nodes.gpu_labels(len(own), own[0].product)
            self.plane.api.merge(_path(node), {"metadata": {"labels": labels}})
        self.plane.wait(
            lambda: all(
                nodes.is_ready(self.plane.api.get(_path(node)), gpus=len(own))
                for node, own in self._shares.items()
            ),
            CARD_SECONDS,
            "the GPUs",
        )

    def share_card(self, uuid: str, resource: str) -> None:
        """Let one pod more have a card, under another resource's name: as a trainer beside it."""
        node = next(
            node for node, own in self._shares.items() if uuid in (card.uuid for card in own)
        )
        self._plug(node, resource.replace("/", "-"), self._inventory(resource, [uuid]))
        self.plane.wait(
            lambda: self.plane.api.get(_path(node))["status"]["allocatable"].get(resource) == "1",
            CARD_SECONDS,
            f"{node} to have {resource}",
        )

    def believe_variables(self) -> None:
        """Give the nodes NVIDIA's runtime, as RuntimeClass ``nvidia``.

        A pod of that class asks for no card: it has those that its NVIDIA_VISIBLE_DEVICES names.
        """
        inventory = self._folder / f"{runtime.NAME}.json"
        every = [card.uuid for card in self.found.cards]
        inventory.write_text(allocation.to_json(self._inventory(runtime.NAME, every)))
        self._runtime.write_text(runtime.program(self._tools / "runc", inventory))
        self._runtime.chmod(0o755)
        self.plane.api.post(
            "/apis/node.k8s.io/v1/runtimeclasses",
            {"metadata": {"name": runtime.NAME}, "handler": runtime.NAME},
        )

    def load_image(self) -> str:
        """Put the engines' image on the nodes; its name."""
        if self.options.image is not None:
            self.plane.load_saved_image([str(requirements.saver()), "save", self.options.image])
            return self.options.image
        known = self.found.environment
        assert known is not None
        root = self._folder / "skeleton"
        root.mkdir()
        environment.write_skeleton(root)
        variables = environment.variables(os.environ, self.options.variables, known.executable)
        self.plane.load_image(known.image, root, entrypoint=["python3"], env=variables)
        self._say(f"it sees of this machine: {', '.join(m.host for m in self._system())}")
        return known.image

    @property
    def image(self) -> str:
        """The name of the engines' image."""
        known = self.found.environment
        return known.image if known is not None else str(self.options.image)

    @property
    def version(self) -> str:
        """SGLang's, as the operator reads it of the image's name."""
        return str(versions.detect(self.image, None).version)

    def write_models(self, steps: int) -> int:
        """The weights of so many steps, and those before the first; the bytes of one."""
        model.write(self.models / "base", 0)
        for number in range(1, steps + 1):
            model.write(self.models / f"step-{number}", number)
        return (self.models / "base" / model.SAFETENSORS).stat().st_size

    @staticmethod
    def kernels() -> str:
        """The folder in which engines keep what they compile, from one run to the next."""
        cache = binaries.cache_folder(os.environ) / CACHE
        cache.mkdir(parents=True, exist_ok=True)
        return str(cache)

    def source(self) -> str:
        """Which SGLang it is, in words."""
        known = self.found.environment
        if known is None:
            return str(self.options.image)
        what = "stand-in" if self.options.stand_in else "SGLang"
        return f"{what} {known.sglang} of {known.executable}"

    def facts(self) -> dict[str, Any]:
        """What a report says of the machine."""
        known, card = self.found.environment, self.found.cards[0]
        options = self.options
        return {
            "card": card.name,
            "cards": len(self.found.cards),
            "driver": card.driver,
            "stand_in": options.stand_in,
            "image": options.image or (known.image if known else None),
            "sglang": known.sglang if known else None,
            "torch": known.torch if known else None,
            "kubernetes": binaries.kubernetes_version(),
            "model": options.model.name if options.model else "written by the demo",
            "config": {**pool.CONFIG, **options.config},
        }

    # ---- what containers see

    def _plug(self, node: str, name: str, inventory: Inventory) -> None:
        file = self._folder / f"{name}-{node}.json"
        file.write_text(allocation.to_json(inventory))
        self.plane.spawn_on_node(
            node,
            file.stem,
            [sys.executable, "-m", PROGRAM, str(file)],
            {"PYTHONPATH": roots.python_path(os.environ.get("PYTHONPATH", ""))},
        )

    def _inventory(self, resource: str, uuids: Sequence[str]) -> Inventory:
        return Inventory(
            resource=resource,
            cards={c.uuid: self.driver.node(c) for c in self.found.cards if c.uuid in uuids},
            control=self.driver.control(),
            mounts=self._mounts(),
            variables={} if self.found.environment else self._given(),
            root=str(self.driver.root),
        )

    def _mounts(self) -> list[Mount]:
        models = [Mount(host=str(self.models), inside=pool.MODELS)]
        if self.options.model is not None:
            models = [Mount(host=str(self.options.model.resolve()), inside=pool.BASE)]
        else:
            self.models.mkdir(exist_ok=True)
        sources = [str(package.parent) for package in roots.PACKAGES] if self.options.nccl else []
        return [*self._system(sources), *models]

    def _system(self, sources: Sequence[str] = ()) -> list[Mount]:
        """The host's folders with SGLang in them, or the driver's libraries for an image."""
        libraries = [] if self.driver.is_stand_in else self.driver.libraries()
        known = self.found.environment
        if known is None:
            own = [
                Mount(host=str(path.resolve()), inside=f"{DRIVER_LIBRARIES}/{path.name}")
                for path in libraries
            ]
            return [*own, *environment.mounts([*sources, *self.options.mounts])]
        folders = [str(path.parent) for path in libraries]
        return environment.mounts(
            [*environment.SYSTEM, *known.folders, *folders, *sources, *self.options.mounts]
        )

    def _given(self) -> dict[str, str]:
        """Variables for an image that is somebody else's."""
        return {**environment.ALWAYS, **self.options.variables}


def _path(node: str) -> str:
    return f"/api/v1/nodes/{node}"
