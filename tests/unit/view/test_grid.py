"""The map before it is drawn: who is in which cell."""

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from sglang_operator.api.spec import PlacementMode
from sglang_operator.cli import status
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.placement import modes
from sglang_operator.placement.count import Count
from sglang_operator.view import drawing, grid, svg, text, texts
from sglang_operator.view.drawing import Map
from sglang_operator.view.grid import MAX_EMPTY_ROWS
from tests.builders import NOW
from tests.golden import pictures
from tests.unit.view.drawn_cluster import TIME, DrawnCluster, guide, trouble


def _letters(picture: Map, number: int = 0) -> dict[str, str]:
    """The letters of each row of a grid; · for a free GPU."""
    return {
        row.name: " ".join(
            "/".join(t.letter for t in cell.engine_cells) or "·" for cell in row.cells
        )
        for row in picture.grids[number].rows
    }


@pytest.mark.parametrize(
    ("number", "letters"),
    [(0, "A"), (25, "Z"), (26, "AA"), (51, "AZ"), (52, "BA"), (701, "ZZ"), (702, "AAA")],
)
def test_letters_go_on_as_in_spreadsheets(number, letters):
    assert drawing.letters(number) == letters


def test_engines_stand_on_their_nodes_from_the_left():
    picture = guide().map()
    assert _letters(picture) == {
        "gpu-node-0": "A A B B C C D D",
        "gpu-node-1": "E E F F G G H H",
        "gpu-node-2": "I I J J K K L L",
    }
    assert picture.grids[0].note == texts.MAP_COUNTED
    assert not picture.grids[0].numbered  # a place says nothing, so it has no number
    assert [row.tally for row in picture.grids[0].rows] == ["8/8"] * 3


def test_an_engine_that_spans_nodes_stands_on_each_of_them():
    world = DrawnCluster(nodes=4)
    world.pool(num_gpus_per_worker=16, device_mapping="list(range(0,32))")
    picture = world.map(ids=True)
    assert _letters(picture) == {
        "gpu-node-0": " ".join("A" * 8),
        "gpu-node-1": " ".join("A" * 8),
        "gpu-node-2": " ".join("B" * 8),
        "gpu-node-3": " ".join("B" * 8),
    }
    assert [row.tally for row in picture.grids[0].rows] == ["8/8"] * 4
    assert _letters(picture, 1)["node_rank 3"] == " ".join("B" * 8)
    (legend,) = picture.pools
    assert (legend.ready, legend.gpus) == ("2/2", 32)


def test_nodes_stand_in_the_order_of_their_numbers():
    world = DrawnCluster(nodes=12)
    world.pool()
    names = [*_letters(world.map())]
    assert names == [f"gpu-node-{number}" for number in range(12)]


def test_ids_stand_where_roll_counts_them():
    picture = guide().map(ids=True)
    assert _letters(picture, 1)["node_rank 1"] == "E E F F G G H H"
    assert picture.grids[1].numbered
    assert picture.grids[1].rows[1].cells[0].caption == "8"


def test_pools_that_name_the_same_ids_share_cells_and_it_is_said():
    picture = trouble().map()
    assert _letters(picture, 1)["node_rank 2"] == "I/O I/O J/O J/O K/P K/P L/P L/P"
    assert picture.notes[0].startswith("actor-infer and judge both name GPUs 16-27")


class Placed(Count):
    """A mode in which the ids of the mapping are GPUs that there are."""

    by_id = True


def test_engines_on_gpus_that_are_known_share_the_cells_of_those():
    world = DrawnCluster(nodes=2)
    shared: dict[str, Any] = {"placement": {"mode": "Shared"}, "num_gpus_per_worker": 2}
    given = {"one": [("g0-1", "ab"), ("g2-3", "cd")], "two": [("g8-9", "bc")]}
    for name, mapping in (("one", "list(range(0,4))"), ("two", "list(range(8,10))")):
        world.pool(name, **shared, device_mapping=mapping)
        for engine, gpus in given[name]:
            value = ",".join(f"GPU-{gpu}" for gpu in gpus)
            variable = {"name": "NVIDIA_VISIBLE_DEVICES", "value": value}
            pod = world.find(name, engine)
            pod["spec"]["containers"] = [{"name": "engine", "env": [variable]}]
    picture = world.map()
    assert _letters(picture)["gpu-node-0"] == "A A/C B/C B · · · ·"
    assert picture.grids[0].rows[0].tally == "4/8"
    assert picture.notes == (
        "engines of rl/one and rl/two are on the same 2 GPUs: at most one of the two may be awake",
    )


def test_of_a_mode_that_places_engines_by_id_it_is_said_that_pools_share_gpus(monkeypatch):
    """Whatever the mode, the words were those of Count."""
    monkeypatch.setattr(modes, "MODES", {**modes.MODES, PlacementMode.SLOT: Placed()})
    exact: dict[str, Any] = {"placement": {"mode": "Slot"}, "device_mapping": "list(range(0,4))"}
    world = DrawnCluster(nodes=2)
    for name in ("one", "two"):
        world.pool(name, **exact)
    picture = world.map()
    assert picture.notes[0] == "one and two both name GPUs 0-3, and share them"
    assert picture.grids[0].note == texts.MAP_DRAWN
    assert grid.gpu_map(world.cluster_view(nodes=False)).grids[0].note == texts.MAP_DRAWN_NO_NODES
    world.pool("counted", device_mapping="list(range(0,4))")
    picture = world.map()
    assert picture.grids[0].note == texts.MAP_COUNTED
    assert sorted("in Count mode each pool" in note for note in picture.notes) == [
        False,
        True,
        True,
    ]


def test_pools_of_different_namespaces_share_nothing():
    world = DrawnCluster(nodes=6)
    world.pool("one", namespace="a")
    world.pool("two", namespace="b")
    picture = world.map()
    assert len(picture.grids) == 1
    assert not picture.notes
    assert len(world.map(ids=True).grids) == 3  # nodes, and the ids of each


def test_engines_without_a_node_are_listed_with_the_reason():
    world = DrawnCluster(nodes=2)
    world.pool()
    unplaced = world.map().unplaced
    assert [engine_cell.letter for engine_cell in unplaced] == ["I", "J", "K", "L"]
    assert unplaced[0].state is EngineState.PENDING
    assert "Insufficient nvidia.com/gpu" in unplaced[0].why


def test_without_access_to_nodes_only_what_is_held_is_shown():
    world = guide()
    picture = grid.gpu_map(world.cluster_view(nodes=False))
    assert _letters(picture)["gpu-node-0"] == "A A B B C C D D"
    assert picture.grids[0].note == texts.MAP_COUNTED_NO_NODES
    assert picture.grids[0].rows[0].tally == "8/?"


def test_most_empty_nodes_are_left_out_and_counted():
    world = DrawnCluster(nodes=100)
    world.pool()
    drawn = world.map().grids[0]
    assert len(drawn.rows) == 3 + MAX_EMPTY_ROWS
    assert drawn.hidden == "and 81 more rows without engines, 648 GPUs"


def test_a_mapping_with_high_ids_has_no_endless_rows():
    world = DrawnCluster(nodes=3)
    world.pool(device_mapping="list(range(8000,8024))")
    drawn = world.map(ids=True).grids[1]
    assert len(drawn.rows) == 3 + MAX_EMPTY_ROWS


def test_a_refused_pool_without_pods_is_in_the_legend_only():
    world = guide()
    world.pods.clear()
    world.pools[0]["spec"]["num_gpus_per_worker"] = 5
    picture = world.map()
    assert not picture.engine_cells
    assert [pool.name for pool in picture.pools] == ["actor-infer"]


def test_engines_that_run_on_under_a_refused_spec_keep_their_gpus_on_the_map():
    world = guide()
    before = world.map(ids=True)
    world.pools[0]["spec"]["num_gpus_per_worker"] = 5
    picture = world.map(ids=True)
    assert [_letters(picture, number) for number in (0, 1)] == [
        _letters(before, number) for number in (0, 1)
    ]
    assert [engine_cell.state for engine_cell in picture.engine_cells] == [EngineState.UP] * 12
    legend = picture.pools[0]
    assert (legend.ready, legend.synced, legend.gpus) == ("12/12", "0/12", 24)
    assert {(engine_cell.known_rank, engine_cell.gpus) for engine_cell in picture.engine_cells} == {
        (None, 2)
    }


def test_without_a_mapping_the_last_accepted_spec_tells_the_gpus_of_a_refused_pools_engines():
    world = DrawnCluster()
    world.pool(
        device_mapping=None,
        replicas=4,
        status={"engines": {"desired": 5}, "resolved": {"numGpusPerWorker": 2}},
    )
    world.pools[0]["spec"]["replicas"] = -1
    picture = world.map()
    assert _letters(picture)["gpu-node-0"] == "A A B B C C D D"
    assert [engine_cell.engine for engine_cell in picture.engine_cells] == ["r0", "r1", "r2", "r3"]
    assert picture.pools[0].ready == "4/5"


def test_a_pool_without_a_mapping_has_no_ids():
    world = DrawnCluster()
    world.pool(device_mapping=None, replicas=4)
    picture = world.map(ids=True)
    assert len(picture.grids) == 1
    assert _letters(picture)["gpu-node-0"] == "A A B B C C D D"


def test_a_thousand_engines_are_drawn():
    world = DrawnCluster(nodes=250)
    world.pool(device_mapping="list(range(0,2000))")
    picture = world.map(ids=True)
    assert len(picture.engine_cells) == 1000
    assert picture.engine_cells[-1].letter == "ALL"


def test_the_document_is_plain():
    document = grid.document(trouble().map())
    assert {*document} == {"pools", "engines", "grids", "notes"}


# --- engines on their way out


def test_an_engine_that_is_being_replaced_is_still_on_its_node():
    world = guide()
    world.leave("actor-infer", "g2-3")
    picture = world.map()
    assert _letters(picture)["gpu-node-0"] == "A A C C D D B B"
    (old,) = [engine_cell for engine_cell in picture.engine_cells if engine_cell.leaving]
    assert (old.letter, old.engine, old.node) == ("B", "g2-3", "gpu-node-0")
    assert (old.badge, old.words) == ("↓", "on its way out")
    assert picture.pools[0].gpus == 24
    assert picture.grids[0].rows[0].tally == "8/8"


def test_a_replacement_and_the_pod_before_it_share_a_letter():
    world = DrawnCluster(nodes=4)
    world.pool()
    old = copy.deepcopy(world.find("actor-infer", "g2-3"))
    old["metadata"] |= {"name": "actor-infer-g2-3-1", "uid": "older", "deletionTimestamp": TIME}
    old["spec"]["nodeName"] = "gpu-node-3"
    world.pods.append(old)
    assert _letters(world.map())["gpu-node-3"] == "B B · · · · · ·"


def test_an_engine_that_nobody_wants_any_more_is_drawn_until_it_is_gone():
    world = DrawnCluster()
    world.pool()
    world.pools[0]["spec"]["device_mapping"] = "list(range(0,22))"
    world.leave("actor-infer", "g22-23")
    picture = world.map(ids=True)
    assert _letters(picture)["gpu-node-2"] == "I I J J K K L L"
    assert _letters(picture, 1)["node_rank 2"] == "I I J J K K L L"
    assert picture.pools[0].letters == "A–K"
    (engines,) = [v for k, v in grid.document(picture).items() if k == "engines"]
    assert isinstance(engines, list)
    assert (engines[-1]["state"], engines[-1]["pod"]) == ("Leaving", "actor-infer-g22-23-0")


def test_all_pictures_say_what_is_on_its_way_out():
    world = guide()
    world.leave("actor-infer", "g2-3")
    picture = world.map()
    assert "B↓" in pictures.plain(text.render(picture))
    assert "↓ on its way out" in pictures.plain(text.render(picture))
    assert "on its way out" in svg.render(picture)
    shown = pictures.plain(status.render(world.cluster_view(), NOW, detail=True))
    assert "1 on its way out" in shown


def test_engines_that_sleep_beside_those_that_serve_have_a_sign_and_are_counted():
    world = DrawnCluster()
    pool = world.pool(device_mapping="list(range(0,8))")
    first, second, *_ = pool.running
    for engine in (first, second):
        world.put_to_sleep("actor-infer", engine.name)
    picture = world.map()
    assert [(cell.badge, cell.words) for cell in picture.engine_cells[:3]] == [
        drawing.ASLEEP,
        drawing.ASLEEP,
        drawing.STATES[EngineState.IN_SERVICE],
    ]
    assert picture.pools[0].synced == "2/4, 2 asleep"
    assert picture.states == [EngineState.IN_SERVICE], "the legend has a sign of their own"
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(text.render(picture))
    assert "z asleep" in console.export_text()
    assert ">asleep</text>" in svg.render(picture)
    engines = grid.document(picture)["engines"]
    assert isinstance(engines, list)
    assert [each.get("asleep", False) for each in engines] == [True, True, False, False]
