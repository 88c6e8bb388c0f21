"""What a change would do to what runs."""

import json
import stat

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from tests.unit.cli.runner import guide_body, guide_pool, run


def _live(tmp_path, body, **of_pods):
    """What kubectl would say of a pool that is up."""
    pool = guide_pool(body)
    shared = engine_pod.template(pool)
    pods = []
    for engine in pool.running:
        pod = engine_pod.pod(pool, shared, engine, 0, 0)
        metadata = {**pod["metadata"], "uid": f"uid-{engine.rank}", "resourceVersion": "7"}
        ready = [{"type": kind, "status": "True"} for kind in ("ContainersReady", "Ready")]
        status = {"phase": "Running", "conditions": ready, **of_pods}
        pods.append({**pod, "metadata": metadata, "status": status})
    path = tmp_path / "live.json"
    path.write_text(json.dumps({"kind": "List", "items": [body, *pods]}))
    return path


def _write(tmp_path, body):
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def _diff(tmp_path, old, new):
    live, file = _live(tmp_path, old), _write(tmp_path, new)
    result = run("diff", file, "--against", live, "-o", "json")
    assert result.exit_code in (0, 1), result.output
    (difference,) = json.loads(result.stdout)
    return result.exit_code, difference


def _actions(difference):
    return {change["engine"]: change["action"] for change in difference["changes"]}


def test_the_same_object_touches_nothing(tmp_path):
    code, difference = _diff(tmp_path, guide_body(), guide_body())
    assert code == 0
    assert set(_actions(difference).values()) == {"keeps"}


def test_an_argument_restarts_all_engines_and_is_named(tmp_path):
    new = guide_body()
    new["spec"]["strategy_args"]["strategy_config"]["mem_fraction_static"] = 0.8
    code, difference = _diff(tmp_path, guide_body(), new)
    assert code == 1
    assert set(_actions(difference).values()) == {"restarts"}
    assert {change["why"] for change in difference["changes"]} == {"with --mem-fraction-static=0.8"}
    assert len(difference["first_step"]) == 1  # maxUnavailable is 1


def test_a_longer_mapping_starts_engines_and_keeps_the_others(tmp_path):
    _, difference = _diff(tmp_path, guide_body(), guide_body(device_mapping="list(range(0,28))"))
    actions = _actions(difference)
    assert [engine for engine, action in actions.items() if action == "starts"] == [
        "g24-25",
        "g26-27",
    ]
    assert sum(action == "keeps" for action in actions.values()) == 12


def test_an_engine_whose_rank_changes_moves_and_keeps_its_pod(tmp_path):
    mapping = "list(range(22,24)) + list(range(0,22))"
    code, difference = _diff(tmp_path, guide_body(), guide_body(device_mapping=mapping))
    assert code == 0
    assert set(_actions(difference).values()) == {"moves"}
    assert difference["changes"][0]["why"] == "from rank 11; its pod stays"


def test_a_shifted_mapping_regroups_the_gpus(tmp_path):
    _, difference = _diff(
        tmp_path, guide_body(device_mapping="[0,1,2,3]"), guide_body(device_mapping="[0,2,1,3]")
    )
    assert _actions(difference) == {
        "g0x2": "starts",
        "g1x3": "starts",
        "g0-1": "goes",
        "g2-3": "goes",
    }
    assert difference["changes"][0]["why"] == "takes GPUs of g0-1, g2-3"
    assert difference["changes"][2]["why"] == "its GPUs are grouped otherwise"


def test_fewer_replicas_take_the_highest_ranks(tmp_path):
    _, difference = _diff(tmp_path, guide_body(), guide_body(replicas=10))
    gone = [change for change in difference["changes"] if change["action"] == "goes"]
    assert [(change["engine"], change["why"]) for change in gone] == [
        ("g20-21", "replicas is 10"),
        ("g22-23", "replicas is 10"),
    ]


def test_fields_that_reach_no_pod_are_told_as_such(tmp_path):
    code, difference = _diff(tmp_path, guide_body(), guide_body(rollout={"maxUnavailable": 3}))
    assert code == 0
    assert difference["also"] == ["spec.rollout"]


def test_a_pool_that_is_not_there_starts(tmp_path):
    live = tmp_path / "live.json"
    live.write_text("{}")
    result = run("diff", _write(tmp_path, guide_body()), "--against", live)
    assert result.exit_code == 1
    assert result.stdout.startswith("rl/actor-infer: 12 starts")


@pytest.mark.parametrize("text", ["", "{", "[1, {}]", '{"items": [{"kind": "Pod"}]}', "[" * 9999])
def test_a_live_file_may_hold_anything(tmp_path, text):
    live = tmp_path / "live.json"
    live.write_text(text)
    result = run("diff", _write(tmp_path, guide_body()), "--against", live)
    assert result.exit_code in (1, 2)
    assert not result.exception or isinstance(result.exception, SystemExit)


def test_the_live_pool_is_asked_of_kubectl(tmp_path, monkeypatch):
    """With the object's name, the pods' labels, and the flags as given."""
    body = guide_body()
    live = _live(tmp_path, body)
    tool = tmp_path / "kubectl"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat {live}\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("KUBECTL", raising=False)
    result = run("diff", _write(tmp_path, body), "--context", "lab")
    assert result.exit_code == 0, result.output
    objects, pods = (tmp_path / "calls").read_text().splitlines()
    plural = f"{names.PLURAL}.{names.GROUP}"
    assert (
        objects
        == f"get --output json {plural} actor-infer --ignore-not-found --namespace rl --context lab"
    )
    assert f"pods --selector {names.pods_text('actor-infer')} --namespace rl" in pods


def test_the_live_pool_is_asked_of_the_kubectl_that_the_user_named(tmp_path, monkeypatch):
    """$KUBECTL, as all other commands do it."""
    body = guide_body()
    named, other = tmp_path / "my-kubectl", tmp_path / "kubectl"
    named.write_text(f"#!/bin/sh\ncat {_live(tmp_path, body)}\n")
    other.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    for tool in (named, other):
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("KUBECTL", str(named))
    result = run("diff", _write(tmp_path, body))
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "asked").exists()


def test_a_named_kubectl_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECTL", "/nonexistent/kubectl")
    result = run("diff", _write(tmp_path, guide_body()))
    assert result.exit_code == 2
    assert "$KUBECTL" in result.stderr


def test_kubectl_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBECTL", raising=False)
    result = run("diff", _write(tmp_path, guide_body()))
    assert result.exit_code == 2
    assert "kubectl get --output json failed" in result.stderr


def _serving(tmp_path, nodes):
    """Engines of two GPUs, which serve, on these nodes; the file of the live pool."""
    body = guide_body(device_mapping=f"list(range(0,{2 * len(nodes)}))", num_gpus_per_node=4)
    live = _live(tmp_path, body)
    items = json.loads(live.read_text())
    pods = [item for item in items["items"] if item["kind"] == "Pod"]
    for pod, node in zip(pods, nodes, strict=True):
        pod["spec"]["nodeName"] = node
        kinds = ("PodScheduled", "ContainersReady", "Ready")
        pod["status"]["conditions"] = [{"type": kind, "status": "True"} for kind in kinds]
    live.write_text(json.dumps(items))
    return live


@pytest.mark.parametrize(
    ("nodes", "warned"),
    [
        pytest.param(["n0", "n1", "n0", "n1"], True, id="scattered"),
        pytest.param(["n0", "n0", "n1", "n1"], False, id="side by side"),
        pytest.param(["n0", "n0", "n1", "n2", "n1", "n2"], True, id="in part"),
    ],
)
def test_a_regrouping_that_will_find_no_room_is_told_before(tmp_path, nodes, warned):
    live = _serving(tmp_path, nodes)
    mapping = f"list(range(0,{2 * len(nodes)}))"
    new = {"device_mapping": mapping, "num_gpus_per_node": 4, "num_gpus_per_worker": 4}
    file = _write(tmp_path, guide_body(**new))
    result = run("diff", file, "--against", live)
    assert ("warning: on the nodes where its engines stand now" in result.output) is warned
    assert ('"maxUnavailable": 2' in result.output) is warned
    allowed = _write(tmp_path, guide_body(**new, rollout={"maxUnavailable": 2}))
    assert "stand now" not in run("diff", allowed, "--against", live).output


SERVING_ON = ["n0", "n0", "n1", "n1", "n2", "n2"]


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        pytest.param({"num_gpus_per_worker": 4}, True, id="larger engines"),
        pytest.param({"num_gpus_per_worker": 1}, True, id="smaller engines"),
        pytest.param({"device_mapping": "list(range(4,16))"}, True, id="other GPUs"),
        pytest.param({"replicas": 4}, False, id="fewer engines"),
        pytest.param({"seed": 7}, False, id="another image"),
        pytest.param({"seed": 7, "replicas": 5}, False, id="another image and fewer"),
        pytest.param(
            {"num_gpus_per_worker": 4, "rollout": {"maxUnavailable": "100%"}}, False, id="allowed"
        ),
        pytest.param({"num_gpus_per_worker": 4, "weights": {"gate": "Off"}}, False, id="no gate"),
    ],
)
def test_that_engines_make_way_without_waiting_for_a_sync_is_told_before(tmp_path, change, warned):
    live = _serving(tmp_path, SERVING_ON)
    new = {"device_mapping": "list(range(0,12))", "num_gpus_per_node": 4, **change}
    result = run("diff", _write(tmp_path, guide_body(**new)), "--against", live)
    assert ("warning: no trainer can sync before old engines" in result.output) is warned
