"""A stand-in for NVIDIA's driver and for SGLang, by which the demo runs without either.

Everything between them is as it is with GPUs: the real node, the plugin's socket, mounts of the
host's folders, the operator and the trainer.  The driver is a folder with an nvidia-smi and device
files (which are /dev/null's); SGLang is a package of that name around the kit's fake engine.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sglang_operator.testing import roots
from sglang_operator.testing.engine import settings, shim
from sglang_operator.testing.gpu.driver import CONTROL_NODES, Driver

VERSION = "0.5.14"
NULL = os.makedev(1, 3)
PROGRAM = """#!/bin/sh
# Answers as nvidia-smi does to the one question that it is asked.
{lines}
"""
CARD = "echo 'GPU-00000000-0000-0000-0000-{number:012x}, Stand-in GPU, 0.0, 1024, 81920'"
METADATA = "Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n"


def driver(folder: Path, count: int) -> Driver:
    """Make a driver that shows so many cards; raises OSError without the right to mknod."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(parents=True)
    lines = "\n".join(CARD.format(number=number) for number in range(count))
    program.write_text(PROGRAM.format(lines=lines))
    program.chmod(0o755)
    (folder / "dev").mkdir()
    for name in [*(f"nvidia{number}" for number in range(count)), *CONTROL_NODES[:2]]:
        node = folder / "dev" / name
        os.mknod(node, stat.S_IFCHR | 0o666, NULL)
        node.chmod(0o666)
    return Driver(root=folder)


def sglang(folder: Path, version: str = VERSION) -> dict[str, str]:
    """Write the stand-in of SGLang; the variables by which an interpreter finds it."""
    information = folder / f"sglang-{version}.dist-info" / "METADATA"
    texts = {
        **{folder / path: text for path, text in shim.files().items()},
        information: METADATA.format(version=version),
    }
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    inherited = os.environ.get("PYTHONPATH", "")  # the fake engine needs what this process has
    return {
        "PYTHONPATH": os.pathsep.join([str(folder), roots.python_path(inherited)]),
        f"{settings.PREFIX}VERSION": version,
    }
