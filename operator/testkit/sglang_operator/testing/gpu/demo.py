"""``make demo ARGS=--gpu``: a pool of real engines on a real GPU, from nothing to a crash and back.

The kit's control plane with one real node, its device plugin, and engines that are the SGLang of
this machine (or of an image), unprivileged as the operator renders them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from rich.console import Console

from sglang_operator.testing import errors, roots
from sglang_operator.testing.controlplane import ControlPlane
from sglang_operator.testing.gpu import cards, environment, ground, pool
from sglang_operator.testing.gpu.ground import Ground, Options
from sglang_operator.testing.gpu.steps import Steps
from sglang_operator.testing.gpu.story import GROUP_STEPS, Checkpoints, Story
from sglang_operator.testing.installed import InstalledOperator
from sglang_operator.testing.realnode import images

PLANE_SECONDS = 300.0
IMAGE_SECONDS = 900.0  # an image of twenty gigabytes from a slow disk
OPERATOR_SECONDS = 60.0
TRAINER = "broadcast.py"
STEPS = max(GROUP_STEPS)  # that the story syncs


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

    def say(text: str) -> None:
        console.print(f"  {text}", highlight=False, markup=False)

    with ground.prepared(options, say) as prepared:
        demo = _Demo(prepared, console)
        demo.show()
        return demo.steps


class _Demo:
    """One run of it."""

    def __init__(self, prepared: Ground, console: Console) -> None:
        self._ground = prepared
        self._options = prepared.options
        self._console = console
        self.steps = Steps(console)

    def show(self) -> None:
        """All of it, and the table at the end, which shows the steps done also after a failure."""
        found = self._ground.found.cards
        self._console.print(
            f"{len(found)} × {found[0].name}, driver {found[0].driver}; "
            f"SGLang: {self._ground.source()}",
            highlight=False,
        )
        try:
            with contextlib.ExitStack() as stack:
                plane = self._start(stack)
                with self.steps.step("the operator, with the shipped roles", OPERATOR_SECONDS):
                    operator = stack.enter_context(InstalledOperator(plane, ask_engines=True))
                self._tell(plane, operator)
        finally:
            self._console.print(self.steps.table())
            if self._options.report is not None:
                self.steps.write(self._options.report, self._ground.facts())

    # ---- before the story

    def _start(self, stack: contextlib.ExitStack) -> ControlPlane:
        with self.steps.step("a control plane with one real node", PLANE_SECONDS):
            plane = stack.enter_context(self._ground.plane)
        seconds, found = ground.CARD_SECONDS, self._ground.found.cards
        with self.steps.step("the device plugin tells kubelet of the GPUs", seconds) as step:
            self._ground.give_cards()
            step.seen = f"{len(found)} × {found[0].name}"
        with self.steps.step("the engines' image is on the node", IMAGE_SECONDS) as step:
            step.seen = self._ground.load_image()
        return plane

    def _tell(self, plane: ControlPlane, operator: InstalledOperator) -> None:
        checkpoints, image = self._write_models(), self._ground.image
        story = Story(
            plane,
            operator,
            self.steps,
            checkpoints=checkpoints,
            driver=self._ground.driver,
            chosen=self._ground.found.cards,
            version=self._ground.version,
        )
        options = self._options
        engines = pool.manifest(image, options.gpus, options.config, self._ground.kernels())
        story.tell(engines, self._trainer(image, checkpoints) if options.nccl else None)

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

    def _write_models(self) -> Checkpoints:
        if self._options.model is not None:
            return Checkpoints(path=pool.BASE, own=False)
        title = f"a tiny model, and its weights of {STEPS} steps"
        with self.steps.step(title, ground.CARD_SECONDS) as step:
            size = self._ground.write_models(STEPS)
            step.seen = f"{size / cards.MIB:.1f} MiB each"
        # The fake engine knows where weights came from, and computes nothing with them.
        return Checkpoints(path=f"{pool.MODELS}/step-{{step}}", own=not self._options.stand_in)
