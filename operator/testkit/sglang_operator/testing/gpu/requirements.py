"""Whether the demo with real GPUs can run here; all that is missing is said at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from sglang_operator.testing import errors, extratools
from sglang_operator.testing.gpu import cards, environment
from sglang_operator.testing.gpu.driver import Driver
from sglang_operator.testing.realnode import requirements

EXTRA = ("grpc", "google.protobuf")
INSTALL_EXTRA = "make demo in a checkout, or pip install 'sglang-operator-testkit[gpu]'"
ENGINES = ("docker", "podman", "nerdctl")  # programs that can save an image
FALLBACK = "Without GPUs the same pool runs on fake engines: make demo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the demo was asked for."""

    gpus: int
    python: str
    image: str | None
    model: Path | None
    variables: dict[str, str]
    driver: Driver


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What there is of it here."""

    cards: Sequence[cards.Card]
    environment: environment.Environment | None  # None with an image


def find(wanted: Wanted) -> Found:
    """Return what the demo runs with; raises KitError with all that is missing, one a line."""
    problems = [*_machine(), *_extra()]
    chosen: list[cards.Card] = []
    try:
        chosen = _cards(wanted)
    except errors.KitError as error:
        problems.append(f"a GPU: {error}")
    known = None
    try:
        known = _engine(wanted)
    except errors.KitError as error:
        problems.append(f"SGLang: {error}")
    if wanted.model is not None and not (wanted.model / "config.json").is_file():
        problems.append(f"the model: {wanted.model} has no config.json")
    if problems:
        raise errors.KitError(message(problems))
    return Found(cards=chosen, environment=known)


def message(problems: Sequence[str]) -> str:
    """What is told to whoever wants the demo and cannot have it."""
    lines = [f"  - {problem}" for problem in problems]
    return "\n".join(["the demo with real GPUs lacks:", *lines, FALLBACK])


def _machine() -> list[str]:
    reason = extratools.no_real_nodes()
    return [*requirements.lacking(), *([reason] if reason else [])]


def _extra() -> list[str]:
    lacking = [name for name in EXTRA if not _is_there(name)]
    if not lacking:
        return []
    return [f"{' and '.join(lacking)}, for the device plugin; please run: {INSTALL_EXTRA}"]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def _cards(wanted: Wanted) -> list[cards.Card]:
    there = wanted.driver.find_cards()
    if len(there) < wanted.gpus:
        raise errors.KitError(
            f"{wanted.gpus} wanted, the driver shows {len(there)} with a device node in "
            f"{wanted.driver.root / 'dev'}"
        )
    return cards.choose(there, wanted.gpus)


def _engine(wanted: Wanted) -> environment.Environment | None:
    if wanted.image is None:
        return environment.ask(wanted.python, wanted.variables)
    if saver() is None:
        raise errors.KitError(
            f"to take the image {wanted.image} from this machine, one of {', '.join(ENGINES)} "
            "is needed; the kit's nodes reach no registry"
        )
    return None


def saver() -> str | None:
    """The program that writes an image of this machine to a stream, or None."""
    return next((found for name in ENGINES if (found := shutil.which(name))), None)
