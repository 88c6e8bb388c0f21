"""``make demo ARGS=--gpu``: a pool of real engines on a real GPU, from nothing to a crash and back.

The kit's control plane with one real node, its device plugin, and engines that are the SGLang of
this machine (or of an image), unprivileged as the operator renders them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sglang_operator.engine import versions
from sglang_operator.testing import binaries, errors, nodes, roots
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.gpu import (
    allocation,
    cards,
    environment,
    model,
    pool,
    requirements,
    standin,
)
from sglang_operator.testing.gpu.allocation import Mount
from sglang_operator.testing.gpu.driver import Driver
from sglang_operator.testing.gpu.steps import Steps
from sglang_operator.testing.gpu.story import GROUP_STEPS, Checkpoints, Story
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.realnode import images, tools

NODE = nodes.NAME.format(0)
SPEC = "1x0"  # one node, whose GPUs the plugin tells of
PLUGIN = "device-plugin"
PROGRAM = "sglang_operator.testing.gpu.plugin"  # which only its own process imports
PLANE_SECONDS = 300.0
CARD_SECONDS = 60.0
IMAGE_SECONDS = 900.0  # an image of twenty gigabytes from a slow disk
OPERATOR_SECONDS = 60.0
TRAINER = "broadcast.py"
STEPS = max(GROUP_STEPS)  # that the story syncs
# Where the driver's libraries are in an image: NVIDIA's name this folder in LD_LIBRARY_PATH.
DRIVER_LIBRARIES = "/usr/local/nvidia/lib64"
CACHE = "gpu-kernels"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    gpus: int = 1
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


def main(arguments: argparse.Namespace) -> int:
    """The demo as a command: errors in words, Ctrl-C is a good end."""
    try:
        run(read(arguments), Console())
    except KeyboardInterrupt:
        return 0
    except errors.KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read(arguments: argparse.Namespace) -> Options:
    """The options as the command line has them; raises KitError."""
    if arguments.kwok:
        raise errors.KitError("--kwok asks for nodes without containers, --gpu for real ones")
    if arguments.gpus < 1:
        raise errors.KitError(f"--gpus={arguments.gpus}: at least one GPU is needed")
    if arguments.image is not None:
        images.full_name(arguments.image)
    if arguments.image is not None and arguments.stand_in:
        raise errors.KitError("--stand-in has an engine of its own: leave --image out")
    if arguments.model is not None and arguments.nccl:
        raise errors.KitError("--nccl sends the demo's own model: leave --model out")
    return Options(
        gpus=arguments.gpus,
        nccl=arguments.nccl,
        python=arguments.python,
        image=arguments.image,
        model=arguments.model,
        config=dict(map(pool.setting, arguments.set)),
        variables=dict(map(environment.variable, arguments.env)),
        mounts=arguments.mount,
        report=arguments.report,
        stand_in=arguments.stand_in,
    )


def run(options: Options, console: Console) -> Steps:
    """Show the demo; raises KitError that says the step, or all that is missing."""
    with (
        tempfile.TemporaryDirectory(prefix="sglang-operator-gpu-") as folder,
        _in_their_place(options, Path(folder)) as (options, driver),
    ):
        wanted = requirements.Wanted(
            gpus=options.cards,
            python=options.python,
            image=options.image,
            model=options.model,
            variables=dict(options.variables),
            driver=driver,
        )
        found = requirements.find(wanted)
        tools.locate(lambda text: console.print(f"  {text}"))  # where it may take its time
        demo = _Demo(options, driver, found, Path(folder), console)
        demo.show()
        return demo.steps


@contextlib.contextmanager
def _in_their_place(options: Options, folder: Path) -> Iterator[tuple[Options, Driver]]:
    """The driver and SGLang, or what stands in for both."""
    if not options.stand_in:
        yield options, Driver()
        return
    variables = {**standin.sglang(folder / "sglang"), **options.variables}
    driver = standin.driver(folder / "driver", options.cards)
    yield dataclasses.replace(options, variables=variables), driver


class _Demo:
    """One run of it."""

    def __init__(
        self,
        options: Options,
        driver: Driver,
        found: requirements.Found,
        folder: Path,
        console: Console,
    ) -> None:
        self._options = options
        self._driver = driver
        self._found = found
        self._folder = folder
        self._console = console
        self.steps = Steps(console)

    def show(self) -> None:
        """All of it, and the table at the end, which shows the steps done also after a failure."""
        card = self._found.cards[0]
        self._console.print(
            f"{len(self._found.cards)} × {card.name}, driver {card.driver}; "
            f"SGLang: {self._source()}",
            highlight=False,
        )
        try:
            with contextlib.ExitStack() as stack:
                plane = self._start(stack)
                self._give_cards(plane)
                image = self._load(plane)
                with self.steps.step("the operator, with the shipped roles", OPERATOR_SECONDS):
                    operator = stack.enter_context(InstalledOperator(plane, ask_engines=True))
                self._tell(plane, operator, image)
        finally:
            self._console.print(self.steps.table())
            if self._options.report is not None:
                self.steps.write(self._options.report, self._facts())

    # ---- before the story

    def _start(self, stack: contextlib.ExitStack) -> ControlPlane:
        with self.steps.step("a control plane with one real node", PLANE_SECONDS):
            plane = ControlPlane(SPEC, kind="real", progress=lambda text: self._say(text))
            return stack.enter_context(plane)

    def _give_cards(self, plane: ControlPlane) -> None:
        """Start the plugin on the node, and wait until kubelet has told of its cards."""
        inventory = allocation.Inventory(
            resource=nodes.GPU,
            cards={card.uuid: self._driver.node(card) for card in self._found.cards},
            control=self._driver.control(),
            mounts=self._mounts(),
            variables={} if self._found.environment else self._given(),
            root=str(self._driver.root),
        )
        file = self._folder / "inventory.json"
        file.write_text(allocation.to_json(inventory))
        count, path = len(inventory.cards), f"/api/v1/nodes/{NODE}"
        with self.steps.step("the device plugin tells kubelet of the GPUs", CARD_SECONDS) as step:
            plane.spawn_on_node(
                NODE,
                PLUGIN,
                [sys.executable, "-m", PROGRAM, str(file)],
                {"PYTHONPATH": roots.python_path(os.environ.get("PYTHONPATH", ""))},
            )
            labels = nodes.gpu_labels(count, self._found.cards[0].product)
            plane.api.merge(path, {"metadata": {"labels": labels}})
            plane.wait(
                lambda: nodes.is_ready(plane.api.get(path), gpus=count), CARD_SECONDS, "the GPUs"
            )
            step.seen = f"{count} × {self._found.cards[0].name}"

    def _load(self, plane: ControlPlane) -> str:
        """Put the engines' image on the node; its name."""
        with self.steps.step("the engines' image is on the node", IMAGE_SECONDS) as step:
            if self._options.image is not None:
                plane.load_saved_image([str(requirements.saver()), "save", self._options.image])
                step.seen = self._options.image
                return self._options.image
            known = self._found.environment
            assert known is not None
            root = self._folder / "skeleton"
            root.mkdir()
            environment.write_skeleton(root)
            variables = environment.variables(os.environ, self._options.variables, known.executable)
            plane.load_image(known.image, root, entrypoint=["python3"], env=variables)
            step.seen = known.image
            self._say(f"it sees of this machine: {', '.join(m.host for m in self._system())}")
            return known.image

    def _tell(self, plane: ControlPlane, operator: InstalledOperator, image: str) -> None:
        cache = binaries.cache_folder(os.environ) / CACHE
        cache.mkdir(parents=True, exist_ok=True)
        checkpoints = self._write_models()
        story = Story(
            plane,
            operator,
            self.steps,
            checkpoints=checkpoints,
            driver=self._driver,
            chosen=self._found.cards,
            version=str(versions.detect(image, None).version),
        )
        engines = pool.manifest(image, self._options.gpus, self._options.config, str(cache))
        story.tell(engines, self._trainer(image, checkpoints) if self._options.nccl else None)

    def _trainer(self, image: str, checkpoints: Checkpoints) -> str:
        """The trainer with a GPU: the kit's sources, in SGLang's environment."""
        own = self._options.variables.get("PYTHONPATH", "")
        variables = {
            "PYTHONPATH": roots.python_path(own),
            "CHECKPOINT": checkpoints.path,
            "STEPS": ",".join(map(str, GROUP_STEPS)),
            "STAND_IN": "1" if self._options.stand_in else "",
        }
        return pool.trainer(image, str(Path(__file__).parent / TRAINER), variables)

    # ---- what containers see

    def _source(self) -> str:
        known = self._found.environment
        if known is None:
            return str(self._options.image)
        what = "stand-in" if self._options.stand_in else "SGLang"
        return f"{what} {known.sglang} of {known.executable}"

    def _mounts(self) -> list[Mount]:
        models = [Mount(host=str(self._folder / "models"), inside=pool.MODELS)]
        if self._options.model is not None:
            models = [Mount(host=str(self._options.model.resolve()), inside=pool.BASE)]
        else:
            (self._folder / "models").mkdir()
        sources = [str(package.parent) for package in roots.PACKAGES] if self._options.nccl else []
        return [*self._system(sources), *models]

    def _system(self, sources: Sequence[str] = ()) -> list[Mount]:
        """The host's folders with SGLang in them, or the driver's libraries for an image."""
        libraries = [] if self._driver.is_stand_in else self._driver.libraries()
        known = self._found.environment
        if known is None:
            own = [
                Mount(host=str(path.resolve()), inside=f"{DRIVER_LIBRARIES}/{path.name}")
                for path in libraries
            ]
            return [*own, *environment.mounts([*sources, *self._options.mounts])]
        folders = [str(path.parent) for path in libraries]
        return environment.mounts(
            [*environment.SYSTEM, *known.folders, *folders, *sources, *self._options.mounts]
        )

    def _given(self) -> dict[str, str]:
        """Variables for an image that is somebody else's."""
        return {**environment.ALWAYS, **self._options.variables}

    def _write_models(self) -> Checkpoints:
        if self._options.model is not None:
            return Checkpoints(path=pool.BASE, own=False)
        title = f"a tiny model, and its weights of {STEPS} steps"
        with self.steps.step(title, CARD_SECONDS) as step:
            models = self._folder / "models"
            model.write(models / "base", 0)
            for number in range(1, STEPS + 1):
                model.write(models / f"step-{number}", number)
            size = (models / "base" / model.SAFETENSORS).stat().st_size
            step.seen = f"{size / cards.MIB:.1f} MiB each"
        # The fake engine knows where weights came from, and computes nothing with them.
        return Checkpoints(path=f"{pool.MODELS}/step-{{step}}", own=not self._options.stand_in)

    def _facts(self) -> dict[str, Any]:
        known, card = self._found.environment, self._found.cards[0]
        return {
            "card": card.name,
            "cards": len(self._found.cards),
            "driver": card.driver,
            "stand_in": self._options.stand_in,
            "image": self._options.image or (known.image if known else None),
            "sglang": known.sglang if known else None,
            "torch": known.torch if known else None,
            "kubernetes": binaries.kubernetes_version(),
            "model": self._options.model.name if self._options.model else "written by the demo",
            "config": {**pool.CONFIG, **self._options.config},
        }

    def _say(self, text: str) -> None:
        self._console.print(f"  {text}", highlight=False, markup=False)
