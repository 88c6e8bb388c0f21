"""``weights status``: what is printed of words that others wrote."""

from types import SimpleNamespace
from typing import Any

from sglang_operator.cli import weights_status
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
        asleep=False,
        behind=False,
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
    text = weights_status.as_text(registry, state, 0)
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
        asleep=False,
        behind=False,
    )
    head, row = plain_lines(weights_status._table([engine]))
    assert head.split() == ["RANK", "ENGINE", "STATE", "GATE", "VERSION", "URL"]
    assert row.split() == ["0", "g0-1", "InService", "-", "v" * 60, "http://" + "a" * 60]
    assert row.index("g0-1") == head.index("ENGINE")
