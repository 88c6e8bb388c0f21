"""What restarts engines and what does not.  The golden values guard upgrades of the operator."""

import json
from typing import Any

import pytest

from sglang_operator.api import spec
from sglang_operator.pool import revision
from tests.builders import a_pool, field_paths, guide_spec, refused, with_config

# A changed value here restarts every engine of every user at their next upgrade of the operator.
GOLDEN = {
    "guide": "bd2c5a8f4d",
    "scheduler": "92172162ed",
    "priority": "020daf49f0",
}


def at(path: str, value: object, **beside: Any) -> dict[str, Any]:
    """The guide's spec, and this beside, with this value there; the rest of its section is kept."""
    first, *rest = path.split(".")
    for name in reversed(rest):
        value = {name: value}
    kept = guide_spec(**beside).get(first)
    merged = {**kept, **value} if isinstance(kept, dict) and isinstance(value, dict) else value
    return guide_spec(**{**beside, first: merged})


KUEUE = {"gang": "Kueue", "queueName": "gpus"}
JOINS: dict[str, Any] = {"placement": {"mode": "Shared"}}
CLAIMS: dict[str, Any] = {"placement": {"mode": "Slot"}}


# Each field of the spec is in one of these three: its path, and another value than the guide's.
RESTARTS: dict[str, object] = {
    "model_args": {"model_name_or_path": "Qwen/Qwen3-8B"},
    "strategy_args.strategy_config": {"mem_fraction_static": 0.8, "load_format": "dummy"},
    "num_gpus_per_worker": 4,
    "system_envs": {"NCCL_DEBUG": "INFO"},
    "router_replay.mode": "R3",
    "seed": 7,
    "image": "lmsysorg/sglang:v0.5.6.post2",
    "engineVersion": "0.4.6.post5",  # one by which engines are started alike does not
    "extraArgs": ["--log-requests"],
    "generation": "ServerDefault",
    "placement.resourceName": "amd.com/gpu",
    "placement.shared.runtimeClassName": "nvidia",
    "placement.shared.sharedMemory.claimName": "memory",
    "placement.shared.sharedMemory.hostPath": "/dev/shm/sglang-operator.rl.two",
    "placement.slot.sharedMemory.claimName": "memory",
    "placement.slot.sharedMemory.hostPath": "/dev/shm/sglang-operator.rl.two",
    "weights.gate": "Off",  # between two with which pods have a gate it does not
    "startup.timeoutSeconds": 60,
    "network.port": 31000,
    "network.headlessService": True,
    "network.listenOnPodIP": True,
    "network.rdma": True,
    "security.runAsUser": 1000,
    "security.runAsGroup": 1000,
    "security.fsGroup": 1000,
    "security.runAsNonRoot": True,
    "security.apiKey": {"name": "keys", "key": "api"},
    "security.adminApiKey": {"name": "keys", "key": "admin"},
    "scheduling.schedulerName": "another",
    "scheduling.priorityClassName": "high",
    "scheduling.gang": "Kueue",
    "scheduling.requiredTopology": "cloud.example.com/rack",
    "scheduling.preferredTopology": "cloud.example.com/rack",
    "scheduling.spread": {"topologyKey": "cloud.example.com/rack"},
    "podTemplate": {"spec": {"nodeSelector": {"gpu": "h100"}}},
}
RUNS_ON: dict[str, object] = {
    "generating_args": {"temperature": 0.1},  # by request
    "num_gpus_per_node": 4,
    "device_mapping": "list(range(0,8))",
    "infer_batch_size": 4,
    "replicas": 5,
    "suspend": True,
    "weights.recovery": "FromCheckpoint",
    "rollout.maxUnavailable": 3,
    "rollout.maxSurge": 1,
    "rollout.window": "BetweenSteps",
    "rollout.windowDeadlineSeconds": 60,
    "rollout.partition": 1,
    "rollout.paused": True,
    "rollout.revisionHistoryLimit": 3,
    "rollout.order": "LowestRankFirst",
    "rollout.progressDeadlineSeconds": 3600,
    "restart.onNodeLost": "Wait",
    "restart.nodeLostSeconds": 60,
    "restart.backoffSeconds": 5,
    "restart.maxBackoffSeconds": 400,
    "restart.resetSeconds": 700,
    "restart.startupBudget": 6,
    "restart.autoTune": {"mem_fraction_static": {"min": 0.5, "max": 0.7}},
    "restart.hangSeconds": 600,
    "drain.gracePeriodSeconds": 5,
    # Whose slot is another one goes alone (plan/rules/seated).
    "placement.shared.slots": [
        {
            "nodeRank": rank,
            "node": "a",
            "gpus": [f"GPU-{rank:07}{n}-0000-0000-0000-{0:012}" for n in range(8)],
        }
        for rank in range(3)
    ],
    # A claim that pods have stays as it was made; who is to have another goes alone.
    "placement.slot.claims": [{"nodeRank": 0, "claimName": "gpus"}],
    "placement.slot.deviceClassName": "gpu.example.com",
    "placement.slot.pinned": False,
    "memoryCheck": "Off",
    # Whoever was let in runs on by the quota that it has.
    "scheduling.queueName": "others",
    "scheduling.workloadPriorityClassName": "high",
    # Who waits is moved, and who has a node has nothing to gain.
    "scheduling.minEngines": 2,
}
# Tried below: a mode changes what else may be said.
MODE = "placement.mode"
REFUSED: dict[str, object] = {
    "strategy_args.strategy_name": "vllm",
    "router": {},
}


# What else has to be said for a pool to have that field.
BESIDE: dict[str, dict[str, Any]] = {
    "security.adminApiKey": {"image": "lmsysorg/sglang:v0.5.9"},
    **{path: JOINS for path in (*RESTARTS, *RUNS_ON) if path.startswith("placement.shared.")},
    **{path: CLAIMS for path in (*RESTARTS, *RUNS_ON) if path.startswith("placement.slot.")},
    "scheduling.queueName": {"scheduling": KUEUE},
    "scheduling.workloadPriorityClassName": {"scheduling": KUEUE},
    "scheduling.minEngines": {"scheduling": {"gang": "PodGroup"}},
}
# What has to be said with that value, and cannot be without.
WITH: dict[str, dict[str, Any]] = {"scheduling.gang": {"scheduling": {"queueName": "gpus"}}}


def test_what_is_stored_of_a_revision_is_every_field_that_restarts_engines():
    """One that is missing there would not come back when a rollout is undone."""
    assert {*revision.REACHES_PODS} == {*RESTARTS, MODE}


@pytest.mark.parametrize("path", RESTARTS)
def test_with_what_is_stored_of_it_the_spec_has_the_revision_again(path):
    beside = BESIDE.get(path, {})
    old = guide_spec(**beside)
    new = at(path, RESTARTS[path], **{**beside, **WITH.get(path, {})})
    for raw, target in ((new, old), (old, new)):
        before = a_pool(target)
        part = revision.reaching_pods(before.spec, spans=before.nodes > 1)
        back = a_pool(revision.with_part(raw, json.loads(json.dumps(part))))
        assert back.revision == before.revision


def test_between_two_revisions_of_a_queue_the_pool_stays_in_the_queue_that_it_names_now():
    part = revision.reaching_pods(a_pool(scheduling=KUEUE, seed=7).spec, spans=False)
    now = {"gang": "Kueue", "queueName": "others", "workloadPriorityClassName": "high"}
    back = revision.with_part(guide_spec(scheduling=now), part)
    assert (back["seed"], back["scheduling"]) == (7, now)


@pytest.mark.parametrize("gang", ["None", None])
def test_without_a_gang_no_queue_is_left_of_one_or_it_would_be_refused(gang):
    written = {"gang": gang} if gang else {}
    part = revision.reaching_pods(a_pool(scheduling=written).spec, spans=False)
    back = revision.with_part(guide_spec(scheduling={**KUEUE, "schedulerName": "x"}), part)
    assert "scheduling" not in back
    again = revision.reaching_pods(a_pool(scheduling=KUEUE).spec, spans=False)
    assert revision.with_part(guide_spec(scheduling=written), again)["scheduling"] == KUEUE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            {"generation": "ServerDefault", "generating_args": {"temperature": 0.1}},
            {"generating_args": {"temperature": 0.2}},
            id="what the server generates by",
        ),
        pytest.param(
            {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,16))"},
            {
                "num_gpus_per_worker": 16,
                "num_gpus_per_node": 16,
                "device_mapping": "list(range(0,16))",
            },
            id="the nodes that an engine spans",
        ),
    ],
)
def test_what_reaches_pods_in_some_pools_alone_is_stored_there(old, new):
    before = a_pool(**old)
    part = revision.reaching_pods(before.spec, spans=before.nodes > 1)
    back = a_pool(revision.with_part(guide_spec(**new), part))
    assert a_pool(**new).revision != before.revision == back.revision


def test_a_field_of_engines_that_span_nodes_is_stored_of_these_alone(monkeypatch):
    path = "drain.gracePeriodSeconds"
    monkeypatch.setattr(revision, "OF_GROUPS", (*revision.OF_GROUPS, path))
    drain, now = {"gracePeriodSeconds": 5}, guide_spec(drain={"gracePeriodSeconds": 9})
    spanning: dict[str, Any] = {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,16))"}
    for pool, back in ((a_pool(drain=drain, **spanning), 5), (a_pool(drain=drain), 9)):
        part = revision.reaching_pods(pool.spec, spans=pool.nodes > 1)
        assert revision.at(revision.with_part(now, part), path) == back


def test_what_does_not_reach_pods_stays_as_it_is_when_a_revision_comes_back():
    part = revision.reaching_pods(a_pool().spec, spans=False)
    raw = guide_spec(
        seed=7, replicas=3, weights={"gate": "Off", "recovery": "Wait"}, worker_cls="x"
    )
    back = revision.with_part(raw, part)
    assert (back["replicas"], back["worker_cls"]) == (3, "x")
    assert back["weights"] == {"recovery": "Wait"}
    assert "seed" not in back
    assert raw["seed"] == 7, "the spec that was read is left alone"


def test_every_field_of_the_spec_is_known_to_restart_engines_or_not():
    """A new one that shapes pods and is missing in the revision reaches only those made anew."""
    told = [*RESTARTS, *RUNS_ON, *REFUSED, MODE]
    assert sorted(told) == sorted(field_paths(spec.PoolSpec))


@pytest.mark.parametrize("path", RESTARTS)
def test_engines_are_replaced_when_this_field_changes(path):
    beside = BESIDE.get(path, {})
    changed = at(path, RESTARTS[path], **{**beside, **WITH.get(path, {})})
    assert a_pool(changed).revision != a_pool(**beside).revision


@pytest.mark.parametrize("path", RUNS_ON)
def test_engines_run_on_when_this_field_changes(path):
    beside = BESIDE.get(path, {})
    changed = at(path, RUNS_ON[path], **beside)
    assert a_pool(changed).revision == a_pool(**beside).revision


@pytest.mark.parametrize(
    "path", [path for path in RUNS_ON if path.partition(".")[0] in revision.SECTIONS]
)
def test_a_field_that_is_in_no_revision_makes_none_by_standing_alone_in_its_section(path):
    """Nothing else of a section need be written, as in a pool of a mode or gang by itself."""
    alone = spec.parse(at(path, RUNS_ON[path]))
    made_of = [revision.inputs(each, "i", [], {}, False) for each in (alone, a_pool().spec)]
    assert made_of[0] == made_of[1]


@pytest.mark.parametrize("path", REFUSED)
def test_a_field_that_restarts_nothing_so_far_is_refused(path):
    assert refused(at(path, REFUSED[path])).errors[0].field == f"spec.{path}"


def test_the_guides_pool_keeps_its_revision_across_versions_of_the_operator():
    assert a_pool().revision == GOLDEN["guide"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"worker_cls": "roll.x"}, id="a field without effect"),
        pytest.param({"startup": {"timeoutSeconds": 1800}}, id="a default written out"),
    ],
)
def test_engines_run_on_when_this_changes(change):
    assert a_pool(**change).revision == a_pool().revision


def test_engines_are_replaced_when_they_would_load_their_weights():
    assert a_pool(with_config(load_format="auto")).revision != a_pool().revision


def test_a_pool_that_names_a_scheduler_keeps_the_revision_of_before_there_were_gangs():
    """Each field that came to the section since would have restarted its engines."""
    assert a_pool(scheduling={"schedulerName": "another"}).revision == GOLDEN["scheduler"]
    classed = {"priorityClassName": "high", "gang": "None"}
    assert a_pool(scheduling=classed).revision == GOLDEN["priority"]


def test_two_spellings_of_one_argument_make_the_same_engine():
    assert a_pool(with_config(**{"mem-fraction-static": 0.7})).revision == a_pool().revision


@pytest.mark.parametrize("mode", ["Shared", "Slot"])
def test_another_placement_makes_engines_anew(mode):
    assert a_pool(placement={"mode": mode}).revision != a_pool().revision
