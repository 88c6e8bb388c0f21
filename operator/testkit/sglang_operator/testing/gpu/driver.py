"""NVIDIA's driver on this machine, or a folder that stands in for it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import cards

HOST = Path("/")
PROGRAM = "nvidia-smi"
NVML = "pynvml"  # of the distribution nvidia-ml-py
ANSWER_SECONDS = 60.0  # a driver that nothing keeps loaded is slow
CONTROL_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
# Where nvidia-smi is besides PATH: as GKE's images have it, and as WSL does.
MORE_PROGRAMS = "/usr/local/nvidia/bin:/usr/lib/wsl/lib"
LIBRARY = re.compile(r"lib(cuda|cudadebugger|nvcuvid|nvidia-[a-z0-9-]+)\.so\.\d+")
LINKED = re.compile(r"=> (/\S+)$", re.MULTILINE)
MORE_LIBRARIES = ("/usr/local/nvidia/lib64", "/usr/lib/wsl/lib")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Driver:
    """The driver whose device nodes are below ``root``; a stand-in has its nvidia-smi there too."""

    root: Path = HOST

    @property
    def is_stand_in(self) -> bool:
        """Whether this is a folder in the place of a driver."""
        return self.root != HOST

    def find_cards(self) -> list[cards.Card]:
        """The cards that have device nodes; raises KitError when the driver does not answer."""
        found, known = self._by_nvml() or (self._by_program(), {})
        files = (self.root / "proc/driver/nvidia/gpus").glob("*/information")
        known = known or cards.minors(file.read_text(errors="replace") for file in files)
        return cards.with_nodes(found, known, self._numbers())

    def used(self, uuids: Iterable[str]) -> int:
        """Bytes that are in use on some cards; raises KitError."""
        wanted = set(uuids)
        return sum(card.used for card in self.find_cards() if card.uuid in wanted)

    def node(self, card: cards.Card) -> str:
        """The device node of a card."""
        return str(self.root / "dev" / cards.NODE.format(card.minor))

    def control(self) -> list[str]:
        """The device nodes that belong to no card and that every user of one needs."""
        nodes = (self.root / "dev" / name for name in CONTROL_NODES)
        return [str(node) for node in nodes if node.exists()]

    def libraries(self) -> list[Path]:
        """The libraries that come with the driver and so must match it, one of each name."""
        linked = subprocess.run(
            ["ldconfig", "-p"],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        ).stdout
        folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *MORE_LIBRARIES]
        listed = [path for folder in filter(None, folders) for path in _entries(Path(folder))]
        return libraries([*map(Path, LINKED.findall(linked)), *listed])

    def _numbers(self) -> list[int]:
        names = (path.name for path in (self.root / "dev").glob(cards.NODE.format("*")))
        numbers = (name.removeprefix(cards.NODE.format("")) for name in names)
        return [int(number) for number in numbers if number.isdigit()]

    def _program(self) -> str | None:
        own = self.root / "bin" / PROGRAM
        if self.is_stand_in:
            return str(own)
        return shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:{MORE_PROGRAMS}")

    def _by_program(self) -> list[cards.Card]:
        program = self._program()
        if program is None:
            raise errors.KitError(f"there is no {PROGRAM}, which comes with NVIDIA's driver")
        argv = [program, f"--query-gpu={','.join(cards.QUERY)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=ANSWER_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise errors.KitError(f"{PROGRAM}: {error}") from error
        said = (done.stdout + done.stderr).strip()
        if done.returncode:
            raise errors.KitError(f"{PROGRAM} ended with exit code {done.returncode}: {said}")
        try:
            return cards.parse(done.stdout)
        except ValueError as error:
            raise errors.KitError(str(error)) from error

    def _by_nvml(self) -> tuple[list[cards.Card], dict[str, int]] | None:
        """The cards and their minor numbers by NVML; None where it cannot be had."""
        if self.is_stand_in or importlib.util.find_spec(NVML) is None:
            return None
        nvml: Any = importlib.import_module(NVML)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None  # nvidia-smi says in words what is wrong
        try:
            return _read(nvml)
        except nvml.NVMLError as error:
            raise errors.KitError(f"NVML: {error}") from error
        finally:
            nvml.nvmlShutdown()


def libraries(found: Iterable[Path]) -> list[Path]:
    """The driver's libraries among some files, the first of each name."""
    first: dict[str, Path] = {}
    for path in found:
        if LIBRARY.fullmatch(path.name):
            first.setdefault(path.name, path)
    return [first[name] for name in sorted(first)]


def _read(nvml: Any) -> tuple[list[cards.Card], dict[str, int]]:
    found, known, driver = [], {}, _text(nvml.nvmlSystemGetDriverVersion())
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, memory = _text(nvml.nvmlDeviceGetUUID(handle)), nvml.nvmlDeviceGetMemoryInfo(handle)
        known[uuid] = int(nvml.nvmlDeviceGetMinorNumber(handle))
        found.append(
            cards.Card(
                uuid=uuid,
                name=_text(nvml.nvmlDeviceGetName(handle)),
                driver=driver,
                used=int(memory.used),
                total=int(memory.total),
            )
        )
    return found, known


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
