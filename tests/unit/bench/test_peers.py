"""Others beside this operator: what is held against a target, and what is stated."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench import contenders
from tests.bench.creating import Run
from tests.bench.peers.__main__ import CONTESTS, figures, main
from tests.bench.peers.contenders import PairsOfLeaderWorkerSet


def a_run(creates: float) -> Run:
    return Run(creates_per_s=creates, all_up_s=1.0, own_cpu_ms=2.0, apiserver_cpu_ms=3.0, writes=0)


@pytest.mark.parametrize("contest", CONTESTS, ids=lambda contest: contest.name)
def test_creates_and_cpu_are_told_of_each_and_the_best_peer_is_the_one_to_beat(contest):
    peers = {who.peer.name: [a_run(float(n))] for n, who in enumerate(contest.peers, 1)}
    found = figures(contest, {"ours": [a_run(6.0)], **peers})
    (first,) = [each for each in found if "ours : best peer" in each.name]
    assert first.values == [6.0 / len(peers)]
    assert first.least == contest.least
    told = {each.name for each in found}
    for who in ("ours", *peers):
        assert f"{contest.name}: own_cpu_ms, {who}" in told
        assert f"{contest.name}: creates_per_s, {who}" in told


def test_groups_are_as_many_pods_whoever_makes_them(tmp_path):
    plane: Any = SimpleNamespace(data=tmp_path)
    _, theirs = PairsOfLeaderWorkerSet(plane).object("default", 10)
    ours = contenders.a_spec(5, 2)
    template = theirs["spec"]["leaderWorkerTemplate"]
    assert theirs["spec"]["replicas"] * template["size"] == 10
    assert ours["replicas"] * ours["num_gpus_per_worker"] == 10
    marks = template["workerTemplate"]["metadata"]["annotations"]
    assert marks == ours["podTemplate"]["metadata"]["annotations"]


def test_half_a_group_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--size", "7", "--only", "groups of 2"])
    assert "--size 7" in capsys.readouterr().err
