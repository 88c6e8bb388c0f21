"""ROLL's workers, where a world is their cluster."""

import importlib
import json

import pytest

from tests import roll_interface


@pytest.fixture
def roll(monkeypatch):
    """The module under test, on ROLL's own base class where there is one."""
    roll_interface.make_importable(monkeypatch)
    module = importlib.import_module(roll_interface.STRATEGY)
    monkeypatch.setattr(module.OperatorPoolStrategy, "_tokenizer", lambda self: None)
    yield module
    roll_interface.forget()


@pytest.fixture
def reach(monkeypatch, tmp_path):
    """Lets strategies find a world by its kubeconfig, as they would on a node of ROLL's."""

    def point(world):
        config = {
            "current-context": "w",
            "contexts": [{"name": "w", "context": {"cluster": "w", "user": "w"}}],
            "clusters": [{"name": "w", "cluster": {"server": world.server}}],
            "users": [{"name": "w", "user": {"token": "t"}}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        return world

    return point
