"""``weights``: who somebody is on the Lease, and what is printed of words that others wrote.

Command by command: ../client/test_cli.py.
"""

import getpass
import os
from types import SimpleNamespace
from typing import Any

from sglang_operator.cli import weights
from sglang_operator.cli.options import plain_lines
from sglang_operator.weights.lease_state import Phase, Transaction

FORGED = "\x1b[2Jx\nphase     Committed"


def test_a_status_has_no_escapes_and_no_forged_lines():
    engine = SimpleNamespace(
        rank=0,
        engine=FORGED,
        state="Up",
        gate="Open",
        version=FORGED,
        url="http://127.0.0.1",
        pod=FORGED,
        instance="run",
    )
    registry: Any = SimpleNamespace(
        namespace="rl",
        pool="actor",
        epoch="e",
        weights=SimpleNamespace(gate="Committed"),
        engines=(engine,),
        present=(engine,),
    )
    state = Transaction(
        phase=Phase.ABORTED,
        holder=FORGED,
        message=FORGED,
        version=FORGED,
        unclear=frozenset({"run"}),
    )
    text = weights._text(registry, state, 0)
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("phase     Committed")]


def test_the_table_of_engines_is_whole_on_a_narrow_terminal(monkeypatch):
    """An address that is folded or cut can be neither copied nor read by a program."""
    monkeypatch.setenv("COLUMNS", "40")
    engine: Any = SimpleNamespace(
        rank=0,
        engine="g0-1",
        state="InService",
        gate=None,
        version="v" * 60,
        url="http://" + "a" * 60,
    )
    head, row = plain_lines(weights._table([engine]))
    assert head.split() == ["RANK", "ENGINE", "STATE", "GATE", "VERSION", "URL"]
    assert row.split() == ["0", "g0-1", "InService", "-", "v" * 60, "http://" + "a" * 60]
    assert row.index("g0-1") == head.index("ENGINE")


def test_a_containers_user_without_a_name_goes_by_its_number(monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert weights.holder().startswith(f"kubectl-sglang_{os.getuid()}@")


def test_a_user_with_a_name_goes_by_it(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "me")
    assert weights.holder().startswith("kubectl-sglang_me@")
