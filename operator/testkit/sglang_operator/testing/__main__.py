"""``python -m sglang_operator.testing``: a control plane from the shell.

::

    up [--nodes 3x8] [--detach]     start one and print `export KUBECONFIG=…`
    down                            end the one that `up` started
    kubeconfig                      print the path of its kubeconfig
    run [--nodes 3x8] -- CMD…       start one for a command, and end it with the command
    demo [--once]                   the guide's example on a plane of its own, to look at
    demo --gpu                      real engines on this machine's GPU, from Ready to a crash
    tools [--real]                  print the folder of the programs, built first where needed

``--name`` tells several named planes apart.  ``--real`` after up and run asks for real nodes, with
the fake engine's image on them; the command then runs in their network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Literal

from sglang_operator.testing import binaries, controlplane, errors, extratools, named
from sglang_operator.testing.realnode import requirements
from sglang_operator.testing.realnode import tools as nodetools

CHECK_SECONDS = 1.0
SIGNAL_EXIT = 128  # what a shell adds to the number of the signal that ended a command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        return int(options.action(options))
    except errors.KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return SIGNAL_EXIT + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_operator.testing",
        description="Run a real Kubernetes control plane with fake GPU nodes on this machine.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("--name", default="default", help="which plane (default: default)")
    size = argparse.ArgumentParser(add_help=False)
    size.add_argument("--nodes", default="3x8", help="NODESxGPUS, such as 3x8 or 2x8,1x4")
    size.add_argument("--real", action="store_true", help="real nodes: kubelet and containerd")

    up = commands.add_parser("up", parents=[name, size], help="start a plane")
    up.add_argument("--detach", action="store_true", help="go on in the background, until down")
    up.set_defaults(action=_up)
    down = commands.add_parser("down", parents=[name], help="end a plane")
    down.set_defaults(action=_down)
    kubeconfig = commands.add_parser(
        "kubeconfig", parents=[name], help="print a plane's kubeconfig"
    )
    kubeconfig.set_defaults(action=_kubeconfig)
    run = commands.add_parser("run", parents=[size], help="run a command with a plane of its own")
    run.add_argument("command", nargs="+", metavar="CMD", help="after --, with its arguments")
    run.set_defaults(action=_run)
    demo = commands.add_parser("demo", help="the guide's example, with a live view")
    demo.add_argument(
        "--once", action="store_true", help="end when all is shown, without waiting for Ctrl-C"
    )
    demo.add_argument(
        "--kwok", action="store_true", help="nodes without containers, also where real ones can run"
    )
    _add_gpu_options(demo)
    demo.set_defaults(action=_demo)
    tools = commands.add_parser("tools", help="print the folder of the programs")
    tools.add_argument("--real", action="store_true", help="those of real nodes")
    tools.set_defaults(action=_tools)
    return parser


def _add_gpu_options(demo: argparse.ArgumentParser) -> None:
    gpu = demo.add_argument_group("with a real GPU (Linux, root, NVIDIA); all need --gpu")
    add = gpu.add_argument
    add("--gpu", action="store_true", help="real engines: this machine's SGLang on its GPU")
    add("--gpus", type=int, default=1, metavar="N", help="how many, one for each engine")
    add("--nccl", action="store_true", help="and one more for a trainer that broadcasts by NCCL")
    add("--python", default=sys.executable, help="the interpreter that has SGLang")
    add("--image", help="an image of docker's or podman's instead, with its tag: …/sglang:v0.5.14")
    add("--model", type=Path, help="a folder with a model instead of one that the demo writes")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of strategy_config, such as attention_backend=triton",
    )
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="for SGLang")
    add("--mount", action="append", default=[], metavar="FOLDER", help="more of the host for it")
    add("--report", type=Path, metavar="FILE", help="write all figures there, as JSON")
    add("--stand-in", action="store_true", help="without GPU and SGLang: stand-ins for both")


def _up(options: argparse.Namespace) -> int:
    slot = named.Slot(options.name, os.environ)
    if options.detach:
        extratools.control_plane()  # here, where its progress can be seen
        print(f"export KUBECONFIG={slot.detach(options.nodes, real=options.real)}")
        return 0
    _end_on(signal.SIGTERM, signal.SIGHUP)
    with slot.held(), _plane(options) as plane:
        slot.publish(plane.kubeconfig)
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        binaries.to_stderr(f"up after {plane.start_seconds:.1f} s; Ctrl-C or `down` ends it")
        while True:
            plane.check()
            time.sleep(CHECK_SECONDS)


def _down(options: argparse.Namespace) -> int:
    if not named.Slot(options.name, os.environ).end():
        print(f"no control plane named {options.name!r} is up", file=sys.stderr)
    return 0


def _kubeconfig(options: argparse.Namespace) -> int:
    print(named.Slot(options.name, os.environ).kubeconfig())
    return 0


def _run(options: argparse.Namespace) -> int:
    _end_on(signal.SIGTERM, signal.SIGHUP)
    with _plane(options) as plane:
        try:
            with plane.inside() if options.real else contextlib.nullcontext():
                process = subprocess.Popen(options.command, env=plane.environment())
        except OSError as error:
            print(f"error: {options.command[0]}: {error.strerror}", file=sys.stderr)
            return 127
        try:
            # Ctrl-C reaches the command as well; how to take it is the command's choice.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            code = process.wait()
        except SystemExit:
            process.terminate()
            process.wait()
            raise
        try:
            plane.check()
        except errors.PlaneError as error:
            print(f"warning: {error}", file=sys.stderr)
    return code if code >= 0 else SIGNAL_EXIT - code


@contextlib.contextmanager
def _plane(options: argparse.Namespace) -> Iterator[controlplane.ControlPlane]:
    kind: Literal["kwok", "real"] = "real" if options.real else "kwok"
    with controlplane.ControlPlane(options.nodes, kind=kind) as plane:
        if options.real:
            from sglang_operator.testing.realnode import kitimages

            plane.load_image(kitimages.default_engine())
        yield plane


def _tools(options: argparse.Namespace) -> int:
    if not options.real:
        print(extratools.control_plane())
    elif (reason := requirements.missing()) is None:
        print(nodetools.locate())
    elif os.environ.get("CI"):
        raise errors.PlaneError(f"in CI real nodes must run: {reason}")
    else:
        binaries.to_stderr(f"no real nodes on this machine: {reason}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from sglang_operator.testing import demo  # needs rich, which the rest does not
    from sglang_operator.testing.gpu import demo as gpu_demo

    _end_on(signal.SIGTERM, signal.SIGHUP)
    if options.gpu:
        return gpu_demo.main(options)
    defaults = vars(_parser().parse_args(["demo"]))
    apart = {"once", "kwok"}  # all others are the GPU's
    given = [key for key, value in defaults.items() if vars(options)[key] != value]
    if others := sorted(set(given) - apart):
        named = ", ".join("--" + key.replace("_", "-") for key in others)
        raise errors.KitError(f"{named}: only with --gpu")
    return demo.main(once=options.once, kwok=options.kwok)


def _end_on(*signals: signal.Signals) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(SIGNAL_EXIT + number)

    for each in signals:
        signal.signal(each, end)


if __name__ == "__main__":
    sys.exit(main())
