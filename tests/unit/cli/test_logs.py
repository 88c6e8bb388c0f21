"""``logs``: all engines of a pool as one log, over a cluster of the test's own."""

import pytest

from sglang_operator.cli import logs
from sglang_operator.cli.cluster import look
from sglang_operator.cli.cluster.kubectl import ClusterError
from tests.unit.cli.fake_kubectl import FakeCluster, cluster
from tests.unit.view.drawn_cluster import guide, trouble

T = "2027-01-15T08:00:0"


def _pool(fake: FakeCluster, name: str = "actor-infer"):
    return look.look(fake, [name], nodes=False).pools[0]


def test_lines_of_all_engines_stand_in_the_order_of_their_times():
    fake = cluster(guide())
    fake.logs |= {  # type: ignore[attr-defined]
        "actor-infer-g0-1-0": f"{T}1Z one\n{T}4Z four\n  more of four\n".encode(),
        "actor-infer-g2-3-0": f"{T}2Z two\n{T}3Z three\x1b[31m\n".encode(),
    }
    pool = _pool(fake)
    wanted = logs.Wanted(engines=("g0-1", "g2-3"))
    lines = list(logs.merged(fake, pool, logs.select(pool, wanted), wanted))
    assert lines == [
        "g0-1 | one",
        "g2-3 | two",
        "g2-3 | three [31m",
        "g0-1 | four",
        "g0-1 |   more of four",
    ]


def test_an_engine_without_a_log_says_why_and_hides_no_other():
    fake = cluster(guide())
    pool = _pool(fake)
    wanted = logs.Wanted()
    lines = list(logs.merged(fake, pool, logs.select(pool, wanted), wanted))
    assert lines[0] == "g0-1   | (no log: no such host)"
    assert len(lines) == 12


def test_what_failed_comes_with_its_cause_and_its_last_lines():
    fake = cluster(trouble())
    fake.logs["actor-infer-g14-15-0"] = f"{T}1Z out of memory\n".encode()  # type: ignore[attr-defined]
    pool = _pool(fake)
    told = list(logs.last_failures(pool))
    assert told[0].startswith("✘ 2027-01-15T08:00:00Z KVCacheTooSmall on g14-15")
    assert told[-1] == "  → raise mem_fraction_static above 0.002 (now 0.001)"
    wanted = logs.Wanted()
    failed = list(logs.failed(fake, pool, logs.select(pool, wanted), wanted))
    assert failed == ["--- actor-infer-g14-15-0 ended", f"{T}1Z out of memory"]


def test_an_engine_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ClusterError, match="there is no pod of engine g9; there are g0-1, g10-11"):
        logs.select(_pool(cluster(guide())), logs.Wanted(engines=("g9",)))
