"""What the client asks of a trainer's environment: little, and nothing before it is used."""

import json
import subprocess
import sys

import pytest

from sglang_operator import client
from sglang_operator.client import registry
from sglang_operator.observed.engine_state import EngineState

# Of Python's own, those that take a trainer's start longest.
SLOW = {"asyncio", "concurrent.futures", "dataclasses", "email", "http", "inspect", "logging"}
SLOW |= {"multiprocessing", "socket", "ssl", "subprocess", "urllib.request", "xml"}


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_is_quick():
    """It brings next to nothing along: what takes time waits until something is used."""
    code = "import json, sys; before = {*sys.modules}; import sglang_operator.client; "
    code += "print(json.dumps([*{*sys.modules} - before]))"
    brought = set(json.loads(python(code)))
    assert not brought & SLOW
    assert {name for name in brought if name.startswith("sglang_operator.")} == {
        "sglang_operator.client",
        "sglang_operator.client.errors",
        "sglang_operator.client.texts",
    }
    assert {name.partition(".")[0] for name in brought} <= {
        "sglang_operator",
        *sys.stdlib_module_names,
    }


def test_a_pool_needs_aiohttp_and_yaml_alone():
    """Everything else that is not Python's own is refused; aiohttp brings its own needs."""
    code = """
import sys
import aiohttp, yaml
known = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        assert top in known | {"sglang_operator"}, f"imports {name}"
sys.meta_path.insert(0, Refuse())
from sglang_operator.client import *
from sglang_operator.client import blocking
Pool("actor-infer", "rl", identity=1)
"""
    python(code)


def test_the_public_names():
    assert {name for name in client.__all__ if getattr(client, name)} == set(client.__all__)
    assert client.Pool.__module__ == "sglang_operator.client.blocking"
    with pytest.raises(AttributeError, match="has no attribute 'Pond'"):
        client.Pond  # noqa: B018


def test_the_states_are_those_of_the_operator():
    up = {EngineState.IN_SERVICE.value, EngineState.UP.value}
    assert up == registry.UP_STATES
    assert EngineState.IN_SERVICE.value == registry.IN_SERVICE


def test_every_error_is_a_pool_error():
    errors = [getattr(client, name) for name in client.__all__]
    kinds = [e for e in errors if isinstance(e, type) and issubclass(e, Exception)]
    assert len(kinds) == 9
    assert all(issubclass(kind, client.PoolError) for kind in kinds)
