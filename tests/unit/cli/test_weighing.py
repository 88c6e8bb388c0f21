"""What ``kubectl sglang weights`` prints of words that others wrote."""

from types import SimpleNamespace
from typing import Any

from sglang_operator.api.weights import Phase, Transaction
from sglang_operator.cli import weights

FORGED = "\x1b[2Jx\nphase     Committed"


def test_a_status_has_no_escapes_and_no_forged_lines():
    engine = SimpleNamespace(
        rank=0, engine=FORGED, state="Up", gate="Open", version=FORGED, url="http://127.0.0.1"
    )
    registry: Any = SimpleNamespace(
        namespace="rl",
        pool="actor",
        epoch="e",
        weights=SimpleNamespace(gate="Committed"),
        engines=(engine,),
    )
    state = Transaction(phase=Phase.ABORTED, holder=FORGED, message=FORGED, version=FORGED)
    text = weights._text(registry, state, 0)
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("phase     Committed")]
