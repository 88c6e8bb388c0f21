"""Faults between an operator and a real API server, and an independent eye on what comes of them.

``Proxy`` stands between the two and breaks what a test tells it to break.  ``Monitor`` has
watches of its own and checks the promises of the operator on every event.  ``Ledger`` counts what
was created and deleted, and ``reference.expected`` says what a spec should lead to.  None of them
uses the operator's code.
"""

from sglang_operator.testing.faults.ledger import Ledger
from sglang_operator.testing.faults.monitor import Monitor, Violation
from sglang_operator.testing.faults.proxied import ProxiedOperator
from sglang_operator.testing.faults.proxy import Proxy
from sglang_operator.testing.faults.traffic import Agent, Match, Request, Write

__all__ = [
    "Agent",
    "Ledger",
    "Match",
    "Monitor",
    "ProxiedOperator",
    "Proxy",
    "Request",
    "Violation",
    "Write",
]
