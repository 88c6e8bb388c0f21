"""The drawings: as they were last looked at, readable without colour, safe to paste anywhere."""

import dataclasses
import io
import itertools
import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.view import colours, page, svg, text
from sglang_operator.view.drawing import STATES
from tests.golden import pictures
from tests.unit.view import drawn_cluster

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = pictures.pictures()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_as_it_was_looked_at(path):
    """``make golden`` writes them anew."""
    assert path.read_text() == PICTURES[path]


def test_every_state_has_a_sign_of_its_own_and_words():
    assert {*STATES} == {*EngineState}
    signs = [sign for sign, _ in STATES.values()]
    assert len({*signs}) == len(signs)
    assert all(words for _, words in STATES.values())


def test_an_svg_has_a_letter_in_every_cell_and_says_the_rest_on_hover():
    root = ElementTree.fromstring(svg.render(drawn_cluster.guide().map()))
    letters = [node.text for node in root.iter(f"{SVG}text") if node.get("font-weight") == "700"]
    assert letters.count("A") == 2
    assert letters.count("L") == 2
    tips = [node.text for node in root.iter(f"{SVG}title")]
    assert "actor-infer g0-1, rank 0, GPUs 0-1, up behind a closed weights gate" in tips


def test_an_svg_brings_nothing_with_it():
    drawn = svg.render(drawn_cluster.trouble().map(), title="t")
    for word in ("<script", "href", "<image", "<foreignObject", "@import", "onload"):
        assert word not in drawn


def test_text_of_the_cluster_is_escaped():
    bad = '<script>alert(1)</script>&"\x1b[31m\x00'
    picture = drawn_cluster.trouble().map()
    engine_cells = tuple(dataclasses.replace(t, why=bad, node="") for t in picture.engine_cells)
    picture = dataclasses.replace(picture, engine_cells=engine_cells, notes=(bad,))
    for drawn in (
        svg.render(picture, title=bad),
        page.render(picture, title=bad, when=bad),
    ):
        assert "<script" not in drawn
        assert "\x00" not in drawn
    ElementTree.fromstring(svg.render(picture, title=bad))
    assert "\x1b" not in pictures.plain(text.render(picture))


def test_engines_that_cannot_start_are_told_with_the_reason_on_one_line():
    seen = drawn_cluster.guide()
    for engine, reason in (("g0-1", "ErrImagePull"), ("g2-3", "ErrImagePull"), ("g4-5", "")):
        seen.starting("actor-infer", engine)
        waiting = {"reason": reason or "ContainerCreating"}
        waiting |= {"message": "no such host"} if reason else {}
        status = {"name": "engine", "state": {"waiting": waiting}}
        seen.find("actor-infer", engine)["status"]["containerStatuses"] = [status]
    lines = pictures.plain(text.render(seen.map())).splitlines()
    told = [line.strip() for line in lines if "cannot start" in line]
    assert told == ["A…  actor-infer g0-1 and 1 more: cannot start: no such host"]


def test_a_page_lists_every_engine():
    drawn = page.render(drawn_cluster.guide().map(), title="t", when="now")
    assert drawn.count("<tr>") == 13
    assert "actor-infer-g22-23-0" in drawn


@pytest.mark.parametrize("hue", colours.HUES)
def test_letters_can_be_read_on_their_colour(hue):
    """Contrast of at least 4.5 : 1, as WCAG asks for text."""

    def luminance(colour: str) -> float:
        red, green, blue = (colours._linear(part / 255) for part in colours._parts(colour))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for fill in (hue, colours.lighter(hue, 0.45), colours.lighter(hue, 0.75)):
        values = sorted((luminance(fill), luminance(colours.ink(fill))))
        assert (values[1] + 0.05) / (values[0] + 0.05) >= 4.5


def test_neighbouring_engines_differ_in_colour():
    picture = drawn_cluster.guide().map()
    fills = [colours.fill(engine_cell, picture) for engine_cell in picture.engine_cells]
    assert all(a != b for a, b in itertools.pairwise(fills))


def test_pools_differ_in_colour_where_there_are_several():
    picture = drawn_cluster.trouble().map()
    hues = {
        engine_cell.pool: colours.fill(engine_cell, picture)
        for engine_cell in picture.engine_cells
        if engine_cell.rank == 0
    }
    assert len({*hues.values()}) == 2


def test_a_terminal_gets_colour():
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(text.render(drawn_cluster.guide().map()))
    assert isinstance(console.file, io.StringIO)
    assert "48;2;86;180;233" in console.file.getvalue()
