"""What may be taken away for the sake of a change: what serves counts, and nothing else does."""

import dataclasses

import pytest

from sglang_operator.api import names
from sglang_operator.children import disruption_budget
from sglang_operator.observed.model import Gate, ObservedNode
from sglang_operator.plan.rollout_state import Waiting, Waits
from sglang_operator.status import rollout_waits
from tests.builders import (
    NOW,
    a_failed_start,
    a_lease,
    a_pod,
    a_pool,
    all_pods,
    created,
    guide_spec,
    planned,
    refused,
    removed,
)

OPEN = Gate(is_open=True, version="step-9")
OLD = "0" * 10


def serving(pool, **changes):
    """All engines, reached by clients."""
    return all_pods(pool, **{"ready": True, "gate": OPEN, **changes})


def loaded(**changes):
    """Four engines that load their weights themselves: no gate."""
    config = {"mem_fraction_static": 0.7}
    strategy = {"strategy_name": "sglang", "strategy_config": config}
    return a_pool(strategy_args=strategy, **{"device_mapping": "list(range(0,8))", **changes})


def four(**changes):
    """Four engines that a trainer gives weights to."""
    return a_pool(device_mapping="list(range(0,8))", **changes)


# --- what serves


def test_engines_that_serve_nobody_are_all_replaced_at_once():
    pool = a_pool()
    assert len(removed(planned(pool, all_pods(pool, revision=OLD)))) == 12


def test_engines_that_serve_nobody_are_regrouped_at_once():
    assert len(removed(planned(a_pool(num_gpus_per_worker=4), all_pods(a_pool())))) == 12


def test_a_replaced_engine_without_weights_counts_as_away():
    pool = four()
    pods = serving(pool, revision=OLD)
    pods[3] = a_pod(pool, pool.engines[3], 1, gate=None)
    plan = planned(pool, pods)
    assert not plan.removals
    assert plan.waiting == Waiting(what=Waits.FOR_WEIGHTS, engines=1)


def test_after_the_next_sync_the_rollout_goes_on():
    pool = four()
    pods = serving(pool, revision=OLD)
    pods[3] = a_pod(pool, pool.engines[3], 1, ready=True, gate=OPEN)
    plan = planned(pool, pods)
    assert removed(plan) == ["actor-infer-g4-5-0"]
    assert plan.waiting is None


def test_of_a_pool_that_serves_in_part_the_idle_engines_go_first_and_together():
    pool = four(rollout={"maxUnavailable": 3})
    pods = serving(pool, revision=OLD)
    pods[0] = a_pod(pool, pool.engines[0], revision=OLD)
    pods[1] = a_pod(pool, pool.engines[1], revision=OLD)
    # Two serve nobody and are replaced; one of those that serve may still be away.
    assert sorted(removed(planned(pool, pods))) == [
        "actor-infer-g0-1-0",
        "actor-infer-g2-3-0",
        "actor-infer-g6-7-0",
    ]


def test_without_a_gate_an_engine_serves_as_soon_as_it_is_ready():
    pool = loaded()
    pods = serving(pool, revision=OLD, gate=None)
    pods[3] = a_pod(pool, pool.engines[3], 1, ready=True)
    assert removed(planned(pool, pods)) == ["actor-infer-g4-5-0"]


def test_an_engine_on_a_dead_node_serves_nobody_whatever_its_gate_says():
    pool = four()
    pods = serving(pool, revision=OLD)
    pods[0] = a_pod(pool, pool.engines[0], ready=True, gate=OPEN, containers_ready=False)
    assert not planned(pool, pods).removals


def test_a_regrouping_waits_for_no_sync_that_cannot_begin_before_it_ends():
    old = four()
    new = four(num_gpus_per_worker=4)
    pods = [
        *serving(old)[2:],
        a_pod(new, new.engines[0]),
    ]
    plan = planned(new, pods)
    assert len(removed(plan)) == 2
    assert plan.waiting is None


@pytest.mark.parametrize("pods", [serving, all_pods])
def test_a_pause_that_keeps_other_engines_from_being_is_said(pods):
    old = four()
    paused = four(num_gpus_per_worker=4, rollout={"paused": True})
    plan = planned(paused, pods(old))
    assert not plan.removals
    assert plan.waiting == Waiting(what=Waits.FOR_RESUME)


def test_a_pause_that_keeps_an_older_revision_keeps_nobody_waiting():
    paused = four(rollout={"paused": True})
    assert planned(paused, serving(paused, revision=OLD)).waiting is None


def test_with_all_allowed_away_a_rollout_waits_for_no_sync():
    pool = four(rollout={"maxUnavailable": "100%"})
    pods = serving(pool, revision=OLD)
    pods[3] = a_pod(pool, pool.engines[3], 1)
    plan = planned(pool, pods)
    assert len(plan.removals) == 3
    assert plan.waiting is None


@pytest.mark.parametrize(
    ("what", "command"),
    [
        (Waits.FOR_SYNC, "kubectl sglang weights abort actor-infer -n rl --force"),
        (Waits.FOR_WAKE, "kubectl sglang weights wake actor-infer -n rl"),
        (Waits.FOR_WEIGHTS, '"maxUnavailable": "100%"'),
        (Waits.FOR_ROOM, '"maxUnavailable": 3'),
        (Waits.FOR_RESUME, "kubectl sglang rollout resume actor-infer -n rl"),
    ],
)
def test_whatever_a_rollout_waits_for_there_is_a_way_on(what, command):
    text = rollout_waits.message(four(), Waiting(what=what, needed=3 * (what is Waits.FOR_ROOM)))
    assert command in text


def test_a_waiting_rollout_says_how_to_go_on_without_a_trainer():
    pool = four()
    text = rollout_waits.message(pool, Waiting(what=Waits.FOR_WEIGHTS, engines=1))
    assert text == (
        f"the rollout waits for the next sync: 1 engine on revision {pool.revision} without "
        "weights, and at most 1 may be out of service; if no trainer syncs any more, this goes on "
        "without, until nobody serves: kubectl patch sgi actor-infer -n rl --type=merge -p "
        '\'{"spec": {"rollout": {"maxUnavailable": "100%"}}}\''
    )


# --- the trainer's turn


@pytest.mark.parametrize(
    ("phase", "what"), [("Syncing", Waits.FOR_SYNC), ("Sleeping", Waits.FOR_WAKE)]
)
def test_running_engines_are_left_alone_while_a_trainer_has_them(phase, what):
    pool = four(rollout={"maxUnavailable": "100%"})
    lease = a_lease(pool, phase=phase, holder="trainer")
    for pods in (serving(pool, revision=OLD), all_pods(pool, revision=OLD)):
        plan = planned(pool, pods, children=lease)
        assert not plan.removals
        assert plan.waiting == Waiting(what=what)


def test_running_engines_are_left_alone_while_it_is_not_known_whether_a_trainer_has_them():
    """A Lease that was too much to keep was read as one that says nothing."""
    pool = four(rollout={"maxUnavailable": "100%"})
    [(key, known)] = a_lease(pool, phase="Syncing", holder="trainer").items()
    bare = {key: dataclasses.replace(known, body={}, whole=False)}
    plan = planned(pool, all_pods(pool, revision=OLD), children=bare)
    assert not plan.removals
    assert plan.waiting == Waiting(what=Waits.FOR_SYNC)


def test_during_a_sync_an_engine_that_is_not_up_is_replaced_all_the_same():
    pool = four()
    pods = serving(pool, revision=OLD)
    pods[1] = a_pod(pool, pool.engines[1], revision=OLD, containers_ready=False)
    lease = a_lease(pool, phase="Syncing", holder="trainer")
    assert removed(planned(pool, pods, children=lease)) == ["actor-infer-g2-3-0"]


def test_during_a_sync_engines_that_the_user_does_not_want_go():
    pool = four(replicas=2)
    lease = a_lease(pool, phase="Syncing", holder="trainer")
    assert len(removed(planned(pool, serving(four()), children=lease))) == 2


@pytest.mark.parametrize("phase", ["Awake", "Aborted"])
def test_engines_that_wait_for_a_commit_serve_nobody_and_may_go(phase):
    pool = four()
    lease = a_lease(pool, phase=phase)
    assert len(planned(pool, all_pods(pool, revision=OLD), children=lease).removals) == 4


def test_another_pools_lease_holds_nothing():
    pool = four()
    ((key, child),) = a_lease(pool, phase="Syncing").items()
    theirs = {key: child.__class__(uid=child.uid, owner=names.Uid("other"), body=child.body)}
    assert planned(pool, all_pods(pool, revision=OLD), children=theirs).removals


# --- a revision that the API server would refuse


def test_no_engine_goes_for_a_revision_that_admission_refuses():
    pool = four()
    for pods in (serving(pool, revision=OLD), all_pods(pool, revision=OLD)):
        plan = planned(pool, pods, refused_revision=pool.revision)
        assert not plan.removals
        assert plan.waiting == Waiting(what=Waits.FOR_ADMISSION)
    assert planned(pool, all_pods(pool, revision=OLD), refused_revision="another").removals


# --- a revision of which nobody knows whether it would be taken


@pytest.mark.parametrize("changes", [{"seed": 7}, {"num_gpus_per_worker": 1}], ids=str)
def test_one_engine_goes_for_a_revision_that_may_not_be_taken_and_no_other(changes):
    """Where gates were closed all of them went, and none came back."""
    old, pool = four(), four(**changes)
    doubted = {"doubted_revision": pool.revision}
    pods = all_pods(old, revision=OLD)
    first = planned(pool, pods, **doubted)
    assert len(removed(first)) == 1
    left = [pod for pod in pods if pod.name not in removed(first)]
    assert not planned(pool, left, **doubted).removals
    engine = planned(pool, left, **doubted).creates[0].engine
    taken = [*left, a_pod(pool, engine, 1)]
    assert len(planned(pool, taken, **doubted).removals) == 3


def test_of_smaller_engines_no_more_go_than_one_larger_needs():
    old, pool = four(num_gpus_per_worker=1), four()
    pods = all_pods(old, revision=OLD)
    plan = planned(pool, pods, doubted_revision=pool.revision)
    assert len(removed(plan)) == 2
    assert len({device // 2 for r in plan.removals for device in r.pod.devices}) == 1


# --- how many


@pytest.mark.parametrize(
    ("value", "engines", "budget"),
    [
        pytest.param(1, 12, 1, id="a number"),
        pytest.param(5, 3, 5, id="more than there are"),
        pytest.param("25%", 12, 3, id="a share"),
        pytest.param("25%", 11, 2, id="rounded down"),
        pytest.param("1%", 12, 1, id="but at least one"),
        pytest.param("100%", 12, 12, id="all"),
        pytest.param("50%", 0, 1, id="of none"),
    ],
)
def test_max_unavailable_is_a_number_or_a_share_of_all_engines(value, engines, budget):
    pool = a_pool(replicas=engines, rollout={"maxUnavailable": value})
    assert pool.max_unavailable == budget
    body = disruption_budget.disruption_budget(pool)
    assert body["spec"]["minAvailable"] == max(0, engines - budget)
    if engines:
        plan = planned(pool, serving(pool, revision=OLD))
        assert len(plan.removals) == min(budget, engines)


@pytest.mark.parametrize(
    "value", [0, 4097, "0%", "101%", "two", "5", "1.5%", "-1%", "025%", "٣%", ""]
)
def test_what_is_neither_a_number_nor_a_share_is_refused(value):
    (problem,) = refused(rollout={"maxUnavailable": value}).errors
    assert problem.field == "spec.rollout.maxUnavailable"
    assert "expected a number of engines from 1 to 4096, or a percentage" in problem.message


# --- which go first


@pytest.mark.parametrize(
    ("order", "first", "then"),
    [
        ("HighestRankFirst", "actor-infer-g6-7-0", "actor-infer-g4-5-0"),
        ("LowestRankFirst", "actor-infer-g0-1-0", "actor-infer-g2-3-0"),
    ],
)
def test_engines_go_in_the_order_that_is_asked_for(order, first, then):
    pool = loaded(rollout={"order": order})
    pods = serving(pool, revision=OLD, gate=None)
    assert removed(planned(pool, pods)) == [first]
    assert removed(planned(pool, pods, doubted_revision=pool.revision)) == [first]
    rank = 0 if order == "LowestRankFirst" else 3
    pods[rank] = a_pod(pool, pool.engines[rank], 1, ready=True)
    assert removed(planned(pool, pods)) == [then]


# --- a pool without ids


def test_ranks_without_ids_count_by_engines_when_they_grow():
    raw = guide_spec(replicas=4)
    del raw["device_mapping"]
    old, new = a_pool(raw), a_pool({**raw, "num_gpus_per_worker": 4})
    assert removed(planned(new, serving(old))) == ["actor-infer-r3-0"]
    assert created(planned(new, serving(old)[:3])) == [("r3", 0)]


# --- a revision that fails at its start


def test_no_engine_that_runs_goes_for_a_revision_that_fails_at_its_start():
    pool = four(rollout={"maxUnavailable": "100%"})
    failed = a_failed_start(pool, pool.engines[3])
    for pods in (serving(pool, revision=OLD), all_pods(pool, revision=OLD)):
        plan = planned(pool, [*pods[:3], failed])
        assert not plan.removals
    trying = a_pod(pool, pool.engines[3], 1, containers_ready=False, startup_failures=1)
    assert not planned(pool, [*all_pods(pool, revision=OLD)[:3], trying]).removals


def test_once_it_came_up_somewhere_the_others_follow():
    pool = four()
    pods = [
        *all_pods(pool, revision=OLD)[:2],
        a_pod(pool, pool.engines[2]),
        a_failed_start(pool, pool.engines[3]),
    ]
    assert len(planned(pool, pods).removals) == 2


def test_what_does_not_answer_is_replaced_though_the_revision_fails():
    pool = four()
    pods = all_pods(pool, revision=OLD, containers_ready=False)[:3]
    plan = planned(pool, [*pods, a_failed_start(pool, pool.engines[3])])
    assert len(plan.removals) == 3


def test_another_revision_is_not_judged_by_the_one_that_failed():
    pool = four()
    failed = a_failed_start(pool, pool.engines[3], revision="1" * 10)
    assert len(planned(pool, [*all_pods(pool, revision=OLD)[:3], failed]).removals) == 3


# --- engines that miss a probe at this moment

BLIP = {"ready": False, "containers_ready": False, "answered": True}


def test_engines_that_all_miss_a_probe_go_within_the_budget():
    pool = a_pool(rollout={"maxUnavailable": 2})
    pods = all_pods(pool, revision=OLD, gate=OPEN, **BLIP)
    assert len(removed(planned(pool, pods))) == 2


def test_what_is_away_already_counts_beside_those_that_miss_a_probe():
    pool = loaded()
    pods = all_pods(pool, revision=OLD, **BLIP)
    pods[3] = a_pod(pool, pool.engines[3], 1, containers_ready=False)
    assert not planned(pool, pods).removals


def test_one_that_misses_a_probe_goes_before_those_that_serve():
    pool = loaded()
    pods = serving(pool, revision=OLD, gate=None)
    pods[1] = a_pod(pool, pool.engines[1], revision=OLD, **BLIP)
    assert removed(planned(pool, pods)) == ["actor-infer-g2-3-0"]


def test_one_that_never_answers_again_holds_up_no_rollout():
    pool = loaded()
    pods = serving(pool, gate=None)
    for rank in (0, 1, 2):
        pods[rank] = a_pod(pool, pool.engines[rank], revision=OLD, **BLIP)
    assert len(removed(planned(pool, pods))) == 1


def test_an_open_gate_counts_before_kubelet_says_ready():
    pool = four()
    pods = all_pods(pool, revision=OLD, gate=OPEN)
    assert len(removed(planned(pool, pods))) == 1


@pytest.mark.parametrize(
    "never",
    [
        pytest.param({"answered": False}, id="it has not answered in this container"),
        pytest.param({"engine_runs": False}, id="its container ended"),
    ],
)
def test_what_does_not_run_or_never_answered_goes_beyond_the_budget(never):
    pool = loaded()
    pods = all_pods(pool, revision=OLD, **{**BLIP, **never})
    assert len(removed(planned(pool, pods))) == 4


def test_an_operator_that_begins_in_the_middle_knows_by_the_startup_probe():
    pool = loaded()
    pods = all_pods(pool, revision=OLD, **{**BLIP, "answered": False, "started": True})
    assert len(removed(planned(pool, pods))) == 1


@pytest.mark.parametrize("gate", [None, Gate(is_open=False)])
@pytest.mark.parametrize("blip", [BLIP, {}], ids=["it misses a probe", "it is up"])
def test_an_engine_whose_gate_was_never_open_stands_in_for_none_that_misses_a_probe(gate, blip):
    pool = a_pool(device_mapping="list(range(0,6))", rollout={"maxUnavailable": 2})
    pods = all_pods(pool, revision=OLD, containers_ready=False, answered=False)
    pods[0] = a_pod(pool, pool.engines[0], revision=OLD, gate=gate, **blip)
    pods[2] = a_pod(pool, pool.engines[2], revision=OLD, gate=OPEN, **BLIP)
    assert sorted(removed(planned(pool, pods))) == ["actor-infer-g0-1-0", "actor-infer-g2-3-0"]


@pytest.mark.parametrize("blip", [BLIP, {"ready": False}], ids=["probe", "silent kubelet"])
def test_what_had_no_gate_before_the_pool_got_one_goes_within_the_budget(blip):
    pods = all_pods(four(weights={"gate": "Off"}), revision=OLD, **blip)
    assert len(removed(planned(four(), pods))) == 1


def test_what_waits_behind_its_gate_goes_at_once_for_a_pool_without_gates():
    pods = all_pods(four(), revision=OLD)
    assert len(removed(planned(four(weights={"gate": "Off"}), pods))) == 4


@pytest.mark.parametrize("lost", [BLIP, {"ready": False}], ids=["probe", "silent kubelet"])
def test_an_engine_that_waits_for_its_node_stands_in_for_none_that_misses_a_probe(lost):
    pool = four(restart={"onNodeLost": "Wait"})
    pods = serving(pool, revision=OLD)
    pods[0] = a_pod(pool, pool.engines[0], revision=OLD, gate=OPEN, node="lost", **lost)
    pods[3] = a_pod(pool, pool.engines[3], revision=OLD, gate=OPEN, **BLIP)
    nodes = {
        node.name: node
        for node in (
            ObservedNode(name="gpu-node-0"),
            ObservedNode(name="lost", ready=False, unready=NOW - 100),
        )
    }
    assert not planned(pool, pods, nodes=nodes).removals
    # It is left alone until its node returns, then it is the one that goes.
    nodes["lost"] = ObservedNode(name="lost")
    pods[3] = serving(pool, revision=OLD)[3]
    assert removed(planned(pool, pods, nodes=nodes)) == ["actor-infer-g0-1-0"]


@pytest.mark.parametrize("gate", [None, OPEN, Gate(is_open=False)])
@pytest.mark.parametrize("phase", ["Syncing", "Sleeping"])
def test_no_engine_that_misses_a_probe_goes_while_a_trainer_has_it(phase, gate):
    pool = four(rollout={"maxUnavailable": "100%"})
    pods = all_pods(pool, revision=OLD, gate=gate, **BLIP)
    lease = a_lease(pool, phase=phase, holder="trainer")
    assert not planned(pool, pods, children=lease).removals


def test_no_engine_that_misses_a_probe_goes_for_a_revision_that_fails():
    pool = loaded(rollout={"maxUnavailable": "100%"})
    pods = all_pods(pool, revision=OLD, **BLIP)[:3]
    assert not planned(pool, [*pods, a_failed_start(pool, pool.engines[3])]).removals


def test_a_probe_that_is_missed_lets_no_more_engines_make_way_for_other_groups():
    old = loaded()
    new = loaded(num_gpus_per_worker=4)
    plan = planned(new, all_pods(old, **BLIP))
    assert len(removed(plan)) == 2  # the first engine needs both


def test_engines_on_other_gpus_that_miss_a_probe_serve_on_after_it():
    old = loaded()
    moved = loaded(device_mapping="list(range(8,16))")
    assert len(removed(planned(moved, all_pods(old, **BLIP)))) == 1


@pytest.mark.parametrize("phase", ["Syncing", "Sleeping"])
def test_while_a_trainer_has_engines_they_go_for_none_on_other_gpus(phase):
    old = four()
    moved = a_pool(device_mapping="list(range(8,16))", rollout={"maxUnavailable": "100%"})
    lease = a_lease(moved, phase=phase, holder="trainer")
    for pods in (all_pods(old), all_pods(old, gate=OPEN, **BLIP), serving(old)):
        assert not planned(moved, pods, children=lease).removals
