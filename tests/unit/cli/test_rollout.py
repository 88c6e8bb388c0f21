"""``rollout``: what it tells and writes, over a cluster of the test's own."""

import json

from sglang_operator.cli import rollout
from sglang_operator.cli.cluster import look
from tests.unit.cli.fake_kubectl import FakeCluster, cluster
from tests.unit.view.drawn_cluster import guide


def _pool(fake: FakeCluster, name: str = "actor-infer"):
    return look.look(fake, [name], nodes=False).pools[0]


def test_a_rollout_tells_how_far_it_is():
    world = guide()
    for pod in world.pods[:3]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "older"
    pool = _pool(cluster(world))
    assert next(iter(rollout.status(pool))).startswith("9/12 engines run revision")
    assert not rollout.complete(pool)
    assert rollout.complete(_pool(cluster(guide())))


def test_a_rollout_whose_first_engine_does_not_start_says_so_and_why():
    world = guide()
    for pod in world.pods[1:]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "older"
    world.starting("actor-infer", "g0-1")
    assert list(rollout.status(_pool(cluster(world))))[1].startswith("the others follow")
    waiting = {"reason": "ErrImagePull", "message": "dial tcp: lookup registry: no such host"}
    container = {"name": "engine", "state": {"waiting": waiting}}
    world.find("actor-infer", "g0-1")["status"]["containerStatuses"] = [container]
    told = list(rollout.status(_pool(cluster(world))))[1]
    assert told.startswith("g0-1 on the new revision does not start, and the others wait for it: ")
    assert "RegistryUnreachable: " in told
    assert "the others follow" not in told


def test_pausing_and_restarting_write_only_what_they_mean():
    fake = cluster(guide())
    pool = _pool(fake)
    rollout.pause(fake, pool, paused=True)
    assert json.loads(fake.ran[-1][-1]) == {"spec": {"rollout": {"paused": True}}}
    rollout.restart(fake, pool, 0.0)
    template = json.loads(fake.ran[-1][-1])["spec"]["podTemplate"]
    assert template == {
        "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "1970-01-01T00:00:00Z"}}
    }
    assert fake.ran[-1][:3] == ("patch", "sgi", "actor-infer")


def test_a_rollout_that_takes_too_long_says_what_the_operator_told():
    world = guide()
    said = {
        "type": "Stalled",
        "status": "True",
        "reason": "ProgressDeadlineExceeded",
        "message": "no engine of revision x came up for 600 s",
    }
    world.pools[0]["status"]["conditions"].append(said)
    assert said["message"] in list(rollout.status(_pool(cluster(world))))


def test_a_rollout_that_waits_for_a_step_says_so_and_until_when():
    """What the operator knows of the trainer no look at pods tells."""
    world = guide()
    for pod in world.pods[:3]:
        pod["metadata"]["labels"]["sglang-operator.dev/revision"] = "older"
    status = world.pools[0]["status"]
    until = "2027-01-15T08:10:00Z"
    window = {"revision": "x", "since": "2027-01-15T08:00:00Z", "until": until}
    status["rollout"] = {"window": window}
    lines = list(rollout.status(_pool(cluster(world))))
    assert lines[1].startswith("the rollout waits for the next sync"), "a step has just ended"
    assert f"until {until} engines that serve go only as a trainer's step ends" in lines[2]
    said = f"the rollout waits for the end of the trainer's step: from {until} on it goes on"
    waits = {"type": "Reconciling", "status": "True", "reason": "RolloutWaiting", "message": said}
    kept = [each for each in status["conditions"] if each["type"] != "Reconciling"]
    status["conditions"] = [*kept, waits]
    assert list(rollout.status(_pool(cluster(world))))[1:] == [said]
    world.pools[0]["metadata"]["generation"] += 1
    lines = list(rollout.status(_pool(cluster(world))))
    assert lines[1].startswith("the rollout waits for the next sync"), "it was of another spec"
    assert len(lines) == 2
