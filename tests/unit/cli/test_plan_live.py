"""``plan --live``: both columns, over a cluster of the test's own."""

import json

import pytest

from sglang_operator.cli import options, plan_live
from sglang_operator.cli.cluster.kubectl import ClusterError
from sglang_operator.memory import cards
from tests.unit.cli.fake_kubectl import cluster
from tests.unit.cli.runner import run, write
from tests.unit.memory.shapes import config
from tests.unit.view.drawn_cluster import guide

CARD = cards.CARDS["H100-80GB"]
TOKENS = 560_000
HELD = {
    "card": "H100-80GB",
    "planned": {"tokens": 1},
    "reported": {"tokens": TOKENS, "weightsGiB": 28.4, "cacheGiB": 25.9},
    "errorPercent": 1.0,
    "worstEngine": "g2-3",
}
SAID = {"memFractionStatic": 0.7, "maxTotalTokens": 561_000, "contextLength": 40960}


def a_world(model=None, **status):
    world = guide()
    world.pools[0]["status"].update({"memory": HELD, "reported": SAID, **status})
    if model:
        world.pools[0]["spec"]["model_args"]["model_name_or_path"] = model
    return world


def live(world, card=None, config=None):
    return plan_live.live(cluster(world), "actor-infer", card, config)


@pytest.fixture
def said(monkeypatch):
    """What the command says of a world."""

    def ran(world, *arguments):
        monkeypatch.setattr(options, "cluster", lambda given: cluster(world))
        monkeypatch.setattr("sglang_operator.cli.plan.cluster", lambda given: cluster(world))
        return run("plan", "--live", "actor-infer", *arguments)

    return ran


def test_both_columns_stand_side_by_side():
    found = live(a_world())
    assert found.known
    assert found.card == "H100-80GB"
    assert found.planned["tokens"] > TOKENS  # planned anew, not what the status has
    assert found.reported["tokens"] == TOKENS  # of the engine that is told, not the first
    assert found.off("memFractionStatic") == 0.0
    assert plan_live.line(found).startswith("actor-infer on H100-80GB: planned ")
    assert "g2-3 reported 560000: the plan is off by +" in plan_live.line(found)


def test_the_command_prints_them(said):
    result = said(a_world())
    assert result.exit_code == 0, result.output
    rows = {line.strip().split("  ")[0]: line.split() for line in result.stdout.splitlines()[2:]}
    assert rows["weights on each GPU"][-4:-2] == ["28.4", "GiB"]
    assert rows["mem_fraction_static"][1:] == ["0.7", "0.7", "+0.00", "%"]
    told = json.loads(said(a_world(), "-o", "json").stdout)
    assert told["reported"]["tokens"] == TOKENS
    assert told["errorPercent"] == pytest.approx(100 * (told["planned"]["tokens"] / TOKENS - 1), 1)
    assert (told["worstEngine"], told["card"], told["why"]) == ("g2-3", "H100-80GB", None)


def test_a_card_that_is_given_goes_before_the_one_that_is_told(said):
    assert live(a_world(), cards.CARDS["H200-141GB"]).card == "H200-141GB"
    assert said(a_world(), "--gpu", "H100,H200").exit_code == 2


def test_a_card_that_only_its_node_knew_is_planned_as_the_operator_did():
    held = {**HELD, "card": "NVIDIA-X1000", "planned": {"tokens": 570_000}}
    found = live(a_world(memory=held))
    assert (found.card, found.planned, found.known) == ("NVIDIA-X1000", {"tokens": 570_000}, True)


def test_what_is_not_known_is_said(said):
    result = said(a_world(memory={}))
    assert result.exit_code == 1
    assert "not known: the card of its nodes; give it with --gpu" in result.stdout
    result = said(a_world(memory={}, reported={}), "--gpu", "H100")
    assert result.exit_code == 1
    assert "no engine has said yet what it got" in result.stdout
    assert "not known: the sizes of mine/own" in said(a_world("mine/own")).stdout


def test_a_config_json_makes_a_model_known_that_the_operator_does_not_know(said, tmp_path):
    path = write(tmp_path, json.dumps(config()), "config.json")
    told = json.loads(said(a_world("mine/own"), "--config", path, "-o", "json").stdout)
    assert told["planned"]["tokens"] > 0
    assert said(a_world("mine/own"), "--config", tmp_path / "absent.json").exit_code == 2


def test_a_pool_that_is_refused_or_not_there_is_an_error_in_words(said):
    world = a_world()
    world.pools[0]["spec"]["num_gpus_per_worker"] = 5
    result = said(world)
    assert result.exit_code == 2
    assert "is refused" in result.output
    with pytest.raises(ClusterError):
        plan_live.live(cluster(guide()), "absent", None, None)


@pytest.mark.parametrize(
    "arguments", [(), ("--gpu", "H100"), ("x.yaml",), ("x.yaml", "--gpu", "H100", "--live", "p")]
)
def test_a_file_or_a_pool_is_needed_and_not_both(arguments):
    result = run("plan", *arguments)
    assert result.exit_code == 2
    assert "give FILE and --gpu, or --live and the name of a pool" in result.output
