"""ROLL's interface at 8eb27cc2, transcribed as far as a strategy for engines uses it.

From roll/distributed/strategy/strategy.py; ROLL itself is taken where it can be imported.
"""

import importlib.util
import sys
import types

import pytest

PACKAGES = ("roll", "roll.distributed", "roll.distributed.strategy", "roll.models")
STRATEGY = "sglang_operator.client.roll"


class Transcribed:
    """InferenceStrategy."""

    strategy_name = None

    def __init__(self, worker):
        self.worker = worker
        self.model = None
        self.tokenizer = None
        self.running = False
        self.worker_config = worker.worker_config
        self.model_update_comm_plan = {}
        self.offload_nccl = worker.worker_config.offload_nccl


def make_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``import roll`` find ROLL or the transcription, and our strategy be imported anew."""
    if importlib.util.find_spec("roll") is None:
        for name in PACKAGES:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        base = types.ModuleType("roll.distributed.strategy.strategy")
        monkeypatch.setattr(base, "InferenceStrategy", Transcribed, raising=False)
        monkeypatch.setitem(sys.modules, base.__name__, base)
    monkeypatch.delitem(sys.modules, STRATEGY, raising=False)


def forget() -> None:
    """After the test: the strategy on the transcription is nobody else's."""
    sys.modules.pop(STRATEGY, None)
    parent, _, name = STRATEGY.rpartition(".")
    if hasattr(sys.modules.get(parent), name):
        delattr(sys.modules[parent], name)
