"""What is said about a pool: the worst first, and what to do."""

from typing import Any

import pytest

from sglang_operator.cli import status
from sglang_operator.cli.cluster.verdict import Level, Verdict, verdicts
from sglang_operator.view import ages
from sglang_operator.view.cluster_view import PoolView
from tests.builders import NOW
from tests.golden import pictures
from tests.unit.view.drawn_cluster import DrawnCluster, guide, trouble


def _pool(world: DrawnCluster) -> PoolView:
    return world.cluster_view().pools[0]


def _said(world: DrawnCluster, now: float = NOW) -> dict[str, Verdict]:
    return {verdict.reason: verdict for verdict in verdicts(_pool(world), now)}


def test_a_pool_that_is_well_has_only_notes():
    world = DrawnCluster()
    world.pool()
    assert {verdict.level for verdict in verdicts(_pool(world), NOW)} <= {Level.NOTE}


def test_closed_gates_are_a_note_that_says_who_opens_them():
    said = _said(guide())["WaitingForTrainer"]
    assert said.level is Level.NOTE
    assert said.what.startswith("12 of 12 engines are up, but clients do not reach them")
    assert "actor-infer-weights" in said.do


def test_a_pool_asleep_with_its_weights_is_to_be_woken():
    world = guide()
    world.pools[0]["status"]["conditions"].append(
        {"type": "WeightsSynced", "status": "False", "reason": "Asleep", "message": "wake them"}
    )
    said = _said(world)
    assert "commit" not in said["Asleep"].what + said["Asleep"].do
    assert "kubectl sglang weights wake actor-infer -n rl" in said["Asleep"].do


def test_a_refused_pool_is_told_in_the_operators_words():
    world = guide()
    world.pools[0]["spec"]["num_gpus_per_worker"] = 5
    first = verdicts(_pool(world), NOW)[0]
    assert first.level is Level.BROKEN
    assert "num_gpus_per_worker" in first.what
    assert first.do == "kubectl edit sgi actor-infer -n rl"


def test_engines_that_run_on_under_a_refused_spec_are_told():
    world = trouble()
    world.pools[0]["spec"]["num_gpus_per_worker"] = 5
    said = _said(world)["SpecNotInForce"]
    assert said.level is Level.NOTE
    assert said.what.startswith("engines that run on as they were: 13 (26 GPUs)")
    shown = pictures.plain(status.render(world.cluster_view(), NOW, detail=True))
    assert "engines  13 of 2 GPUs: 10 in service, 2 up behind" in shown
    assert "GPUs     26/26 on 4 nodes" in shown
    record = status.document(world.cluster_view(), NOW)["pools"][0]
    assert record["engines"] == {"InService": 10, "Up": 2, "Starting": 1}
    assert record["troubled"][0]["rank"] is None


@pytest.mark.parametrize(("age", "level"), [(1, Level.WORKING), (60, Level.BROKEN)])
def test_a_pool_that_no_operator_looked_at_is_told_once_it_is_old(age, level):
    world = guide()
    world.pools[0]["status"] = {"observedGeneration": -1}
    created = _pool(world).record.metadata.creation_timestamp
    assert created is not None
    said = _said(world, created.timestamp() + age)["NotSeenYet"]
    assert said.level is level
    assert said.do == ("kubectl sglang doctor" if age > 15 else "")


def test_failures_come_with_the_advice_that_was_found():
    said = _said(trouble())
    assert said["EnginesFailing"].level is Level.BROKEN
    assert "raise mem_fraction_static above 0.002 (now 0.001)" in said["EnginesFailing"].what
    assert "KVCacheTooSmall" not in said


def test_progress_is_not_a_fault():
    world = DrawnCluster()
    world.pool(ready=False, reason="Creating", message="3/12 engines are up")
    assert _said(world)["Creating"].level is Level.WORKING


def test_a_paused_rollout_says_how_it_goes_on():
    world = DrawnCluster()
    world.pool(rollout={"paused": True})
    for pod in world.pods[:3]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "older"
    said = _said(world)["RolloutPaused"]
    assert said.what.startswith("3 of 12 engines run an older revision")
    assert said.do == "kubectl sglang rollout resume actor-infer -n rl"


def test_a_pool_on_its_way_out_says_only_that():
    world = guide()
    world.pools[0]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    world.pools[0]["metadata"]["finalizers"] = ["backup.example.com/hold"]
    said = _said(world)
    assert [*said] == ["Deleting"]
    assert "waits for the finalizers backup.example.com/hold" in said["Deleting"].what


def test_the_document_names_engines_that_do_not_answer():
    record = status.document(trouble().cluster_view(), NOW)["pools"][0]
    assert record["engines"] == {"InService": 10, "Up": 2, "Starting": 1, "Backoff": 1}
    assert [engine["engine"] for engine in record["troubled"]] == ["g10-11", "g14-15"]


def test_engines_of_which_there_is_the_same_to_say_share_a_line():
    world = guide()
    waiting = {"reason": "ErrImagePull", "message": "no such host"}
    for pod in world.pods[:10]:
        world.starting("actor-infer", pod["metadata"]["labels"]["sglang-operator.dev/engine"])
        container = {"name": "engine", "state": {"waiting": waiting}}
        pod["status"]["containerStatuses"] = [container]
    shown = pictures.plain(status.render(world.cluster_view(), NOW, detail=True), width=160)
    assert shown.count("no such host") == 1
    assert "0-9   g0-1 and 9 more  0-19  Starting" in shown


def test_engines_that_never_started_are_not_said_to_have_ended():
    world = guide()
    entry: dict[str, Any] = {
        "reason": "RegistryUnreachable",
        "message": "no such host",
        "engines": ["g0-1"],
    }
    entry |= {"lastTime": "2027-01-15T08:00:00Z", "advice": ""}
    world.pools[0]["status"]["lastFailures"] = [entry]
    assert _said(world)["RegistryUnreachable"].what.startswith("engines g0-1, last 0s ago: ")
    entry["exitCode"] = 1
    assert _said(world)["RegistryUnreachable"].what.startswith("engines g0-1 ended, last 0s ago: ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (599, "9m59s"),
        (600, "10m"),
        (7200, "120m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 100, "3h1m"),
        (8 * 3600 - 1, "7h59m"),
        (90000, "25h"),
        (2 * 86400, "2d"),
        (2 * 86400 + 7200, "2d2h"),
        (9 * 86400, "9d"),
        (729 * 86400, "729d"),
        (731 * 86400, "2y1d"),
        (3000 * 86400, "8y"),
    ],
)
def test_ages_are_written_as_kubectl_does(seconds, text):
    """The examples are those of k8s.io/apimachinery/pkg/util/duration."""
    assert ages.age(seconds) == text


def _waits(reason: str, message: str) -> Any:
    waiting = {"reason": reason, "message": message}
    return {"name": "engine", "ready": False, "state": {"waiting": waiting}}


def _unscheduled(pod: Any) -> None:
    pod["spec"]["nodeName"] = ""
    said = "0/6 nodes are available: 6 Insufficient nvidia.com/gpu."
    pod["status"] = {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": said,
            }
        ],
    }


def _ended(pod: Any, last: bool = False) -> None:
    ended = {"exitCode": 1, "reason": "Error", "finishedAt": "2027-01-15T07:58:20Z"}
    ended["message"] = "ValueError: There is no module or parameter named 'strange'"
    state = {"lastState": {"terminated": ended}, "state": {"running": {}}}
    if not last:
        pod["status"]["phase"] = "Failed"
        state = {"state": {"terminated": ended}}
    pod["metadata"]["annotations"]["sglang-operator.dev/failures-in-a-row"] = "9"
    pod["metadata"]["creationTimestamp"] = "2027-01-15T07:50:00Z"
    pod["status"]["containerStatuses"] = [{"name": "engine", **state}]


TROUBLES: dict[str, tuple[Any, str]] = {
    "image": (
        lambda n: _waits("ErrImagePull", "failed to pull: lmsysorg/sglang:v0.5.7: not found"),
        "there is no image lmsysorg/sglang:v0.5.7",
    ),
    "image, in two words": (
        lambda n: _waits(
            *(
                ("ErrImagePull", "failed to pull: dial tcp 10.0.0.1: i/o timeout")
                if n % 2
                else ("ImagePullBackOff", "Back-off pulling image: dial tcp 10.0.0.1: i/o timeout")
            )
        ),
        "does not answer the node",
    ),
    "secret": (
        lambda n: _waits("CreateContainerConfigError", 'secret "hub" not found'),
        "hub",
    ),
    "no GPUs": (_unscheduled, "6 Insufficient nvidia.com/gpu"),
    "crash": (_ended, "no module or parameter named"),
    "crash in place": (lambda pod: _ended(pod, last=True), "no module or parameter named"),
}


@pytest.mark.parametrize("number", [1, 3, 12])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_cause_is_told_once_and_when(trouble, number):
    """By the status that the operator's own code writes."""
    change, words = TROUBLES[trouble]
    world = guide()
    for index, pod in enumerate(world.pods[:number]):
        world.starting("actor-infer", pod["metadata"]["labels"]["sglang-operator.dev/engine"])
        if trouble in ("no GPUs", "crash", "crash in place"):
            change(pod)
        else:
            pod["status"]["containerStatuses"] = [change(index)]
    for _ in range(2):
        world.observe()
    shown = " ".join(
        pictures.plain(status.render(world.cluster_view(), NOW, detail=True), width=400).split()
    )
    assert shown.count(words) == 1, shown
    if trouble != "no GPUs":
        age = "100s" if trouble.startswith("crash") else "0s"
        assert f"last {age} ago" in shown, shown


def test_a_cause_that_the_condition_tells_is_not_told_again():
    world = DrawnCluster()
    cause = "there is no Secret hub in the pool's namespace"
    world.pool(ready=False, reason="SecretMissing", message=f"1 engine cannot start: {cause}; x")
    times = {"firstTime": "2026-11-28T10:00:00Z", "lastTime": "2026-11-28T10:00:00Z"}
    entries = [
        {"reason": "SecretMissing", "message": cause, "engines": ["g0-1"], "pod": "p", **times},
        {"reason": "NodeLost", "message": "another", "engines": ["g2-3"], "pod": "q", **times}
        | {"advice": "look at it"},
    ]
    world.pools[0]["status"]["lastFailures"] = entries
    told = verdicts(_pool(world), NOW)
    assert [verdict.reason for verdict in told if cause in verdict.what] == ["SecretMissing"]
    (other,) = (verdict for verdict in told if verdict.reason == "NodeLost")
    assert other.do == "look at it"
