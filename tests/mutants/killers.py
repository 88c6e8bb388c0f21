"""Which points of the suite are to catch a mutant: a fault of the table, and text of the point.

One that catches is enough; they are tried in this order.  ``MODEL`` is the planner's own walks;
the points of ``UNIT`` are files of tests without a cluster.
"""

from __future__ import annotations

from typing import NamedTuple


class Killer(NamedTuple):
    fault: str
    point: str


MODEL = Killer("model", "")
UNIT = "unit tests"
RULES = Killer(UNIT, "tests/unit/plan/test_groups.py")
CRAMPED = Killer(UNIT, "tests/unit/plan/test_cramped.py")
CHILDREN = Killer(UNIT, "tests/unit/children/test_groups.py")
OF_GROUPS = Killer(UNIT, "tests/unit/observed/test_groups.py")
SURGE = Killer(UNIT, "tests/unit/plan/test_surge.py")
HEIRS = Killer(UNIT, "tests/unit/plan/test_heirs.py")
TABLES = Killer(UNIT, "tests/unit/plan/test_rollout_tables.py")
GATE_ORDER = Killer(UNIT, "tests/unit/cluster/test_gate_order.py")
GATED_SURGE = Killer("F1 kill: change an argument behind a gate, new first", "before write 9")
PASSES = Killer(UNIT, "tests/unit/controller/test_reconcile.py")

KILLERS: dict[str, tuple[Killer, ...]] = {
    "duplicate-create": (
        Killer("F8 lost replies", "create pods reset after commit, create 12"),
        Killer("F3 two writers", "two writers, create 12"),
    ),
    "ghost-after-410": (Killer("F15 ghosts", "pods: 410 behind deletes × 1"),),
    "ownership-by-label": (Killer("F10 foreign objects", "with our labels"),),
    "ownership-by-name": (Killer("F19 deleted pools", "the garbage collector away"),),
    "stale-leader-writes-status": (Killer("F4 stopped holder", "holder stopped"),),
    "no-fence": (Killer("F4 stopped holder", "holder stopped"),),
    "no-delete-preconditions": (Killer("F17 old lists", "there and back"),),
    "delete-on-stale-list": (Killer("F17 old lists", "old pool, present pods"),),
    "attempt-reused": (MODEL, Killer("F18 dying pods", "stuck while terminating")),
    "gates-never-written": (PASSES,),
    "acknowledged-early": (PASSES,),
    "gate-not-tried-again": (PASSES,),
    "failures-never-recorded": (PASSES,),
    "recorded-though-not-told": (PASSES,),
    "failure-not-recorded": (Killer("F8 late replies", "failure while the status is refused"),),
    "budget-ignored": (MODEL, Killer("F1 kill: change an argument", "before write 1")),
    "closed-gates-stand-in": (MODEL,),
    "extra-by-probe": (MODEL,),
    "deleted-comes-back": (Killer("F8 late replies", "create after its pod is gone"),),
    "older-wins": (Killer("F8 late replies", "create after its pod is up"),),
    "creates-for-the-deleted": (Killer("F9 slow server", "deleted amid slow creates"),),
    "foreign-adopted": (Killer("F10 foreign objects", "with no labels"),),
    "hot-refusals": (Killer("F12 denials", "exceeded quota"),),
    "failures-forgotten": (
        Killer("F7 server errors", "503 on create pods alone"),
        Killer("F7 server errors", "503 on delete pods alone"),
    ),
    "lost-wakeups": (Killer("F9 slow server", "status answered 3 s late"),),
    "lease-taken-early": (Killer("F3 two writers", "a pair at rest"),),
    "half-an-engine-left": (MODEL, RULES),
    "gone-member-made-again": (MODEL, RULES),
    "leader-not-last": (RULES,),
    "waiting-charged": (CRAMPED,),
    "engines-block-each-other": (CRAMPED,),
    "half-an-engine-up": (OF_GROUPS,),
    "follower-in-the-service": (CHILDREN,),
    "evicted-by-pods": (CHILDREN,),
    "other-words-for-a-cause": (RULES,),
    "serves-unsynced": (HEIRS, GATED_SURGE),
    "old-goes-early": (SURGE,),
    "closes-before-it-opens": (GATE_ORDER,),
    "two-beside-one": (TABLES,),
    "more-beside-than-allowed": (TABLES,),
    "other-engines-amid-a-sync": (HEIRS,),
    "an-end-leaves-the-others": (RULES,),
    "budget-by-pods": (RULES, TABLES),
    "a-surging-groups-pods-stand-in": (CHILDREN,),
    "closes-at-once": (GATE_ORDER, GATED_SURGE),
    "status-of-another": (Killer("F8 late replies", "status for a pool that was made again"),),
}
