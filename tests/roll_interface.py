"""ROLL's interface as a strategy for engines uses it, out of tests/data/roll-interface.json.

The table is of the last run of ``make roll``, which reads it in ROLL's source; ROLL itself is taken
where it can be imported.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("roll", "roll.distributed", "roll.distributed.strategy", "roll.models")
STRATEGY = "sglang_operator.client.roll"
BASE = "roll.distributed.strategy.strategy"
TABLE: dict[str, Any] = json.loads((Path(__file__).parent / "data/roll-interface.json").read_text())


def methods(module: str, name: str) -> dict[str, Any]:
    """A class of ROLL's: of each method its parameters, and whether it is async."""
    found: dict[str, Any] = TABLE["modules"][module][name]["methods"]
    return found


def _transcribed() -> type:
    """InferenceStrategy: its attributes, and methods that nobody has written yet."""

    def made(self: Any, worker: Any) -> None:
        for name in TABLE["attributes"]:
            setattr(self, name, None)
        self.worker = worker
        self.worker_config = worker.worker_config
        self.offload_nccl = worker.worker_config.offload_nccl

    def absent(self: Any, *_: Any, **__: Any) -> None:
        raise NotImplementedError

    named = dict.fromkeys(methods(BASE, "InferenceStrategy"), absent)
    return type("InferenceStrategy", (), {**named, "strategy_name": None, "__init__": made})


def make_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``import roll`` find ROLL or the transcription, and our strategy be imported anew."""
    if importlib.util.find_spec("roll") is None:
        for name in PACKAGES:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        base = types.ModuleType(BASE)
        monkeypatch.setattr(base, "InferenceStrategy", _transcribed(), raising=False)
        monkeypatch.setitem(sys.modules, base.__name__, base)
    monkeypatch.delitem(sys.modules, STRATEGY, raising=False)


def forget() -> None:
    """After the test: the strategy on the transcription is nobody else's."""
    sys.modules.pop(STRATEGY, None)
    parent, _, name = STRATEGY.rpartition(".")
    if hasattr(sys.modules.get(parent), name):
        delattr(sys.modules[parent], name)
