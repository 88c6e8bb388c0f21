"""The map for a terminal: letters and signs that need no colour, and colour where there is one."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sglang_operator.api.bounds import printable
from sglang_operator.view import colours, texts
from sglang_operator.view.drawing import (
    ASLEEP,
    LEAVING,
    STATES,
    Cell,
    EngineCell,
    Grid,
    GridRow,
    Legend,
    Map,
)

MAX_UNPLACED = 8


def render(picture: Map, *, title: str = "") -> RenderableType:
    """Grids, the pools' legend, engines without a node, and what else there is to know."""
    parts: list[RenderableType] = [grids(picture, title=title), _legend(picture)]
    parts += [
        Padding(line, (0, 1), expand=False) for line in (*_stuck(picture), *_unplaced(picture))
    ]
    parts += [
        Padding(Text(f"note: {printable(note)}"), (0, 1), expand=False) for note in picture.notes
    ]
    return Group(*parts)


def grids(picture: Map, *, title: str = "") -> RenderableType:
    """The grids alone."""
    parts: list[RenderableType] = []
    for grid in picture.grids:
        parts.append(_panel(grid, picture, title))
        parts.append(Padding(Text(grid.note, style="dim"), (0, 1), expand=False))
    return Group(*parts)


def _panel(grid: Grid, picture: Map, title: str) -> Panel:
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("")
    for column in range(grid.columns):
        heading = str(column) if grid.numbered else ""
        table.add_column(Text(heading, style="dim"), justify="center", no_wrap=True)
    table.add_column("", justify="right")
    table.show_header = grid.numbered
    width = _width(grid)
    for row in grid.rows:
        cells = [_cell(cell, picture, width) for cell in row.cells]
        missing = [Text("")] * (grid.columns - len(cells))
        table.add_row(_name(row), *cells, *missing, Text(row.tally, style="dim"))
    body: RenderableType = table
    if not grid.rows:
        body = Text(texts.MAP_EMPTY, style="dim")
    elif grid.hidden:
        body = Group(table, Text(grid.hidden, style="dim"))
    name = f"{title}: {grid.title}" if title else grid.title
    return Panel(body, title=name, title_align="left", expand=False, padding=(0, 1))


def _name(row: GridRow) -> Text:
    return Text(row.name).append(f" {row.flag}" if row.flag else "", style="bold red")


def _width(grid: Grid) -> int:
    """Characters that the longest label takes, one more at each side where there is room."""
    labels = (
        "/".join(_label(t, cell) for t in cell.engine_cells)
        for row in grid.rows
        for cell in row.cells
    )
    longest = max(map(len, labels), default=1)
    return longest + 2 if longest < 4 else longest


def _cell(cell: Cell, picture: Map, width: int) -> Text:
    if not cell.engine_cells:
        return Text("·".center(width), style="dim")
    text = Text()
    for number, engine_cell in enumerate(cell.engine_cells):
        style = _style(engine_cell, picture)
        text.append("/" if number else "", style=style)
        text.append(_label(engine_cell, cell), style=style)
    left = (width - len(text)) // 2
    first, last = _style(cell.engine_cells[0], picture), _style(cell.engine_cells[-1], picture)
    return Text(" " * left, style=first) + text.append(" " * (width - len(text) - left), style=last)


def _label(engine_cell: EngineCell, cell: Cell) -> str:
    """Its letter and sign; in a shared cell there is room for the letter only."""
    return engine_cell.letter + (engine_cell.badge if len(cell.engine_cells) == 1 else "")


def _style(engine_cell: EngineCell, picture: Map) -> Style:
    fill = colours.fill(engine_cell, picture)
    return Style(color=colours.ink(fill), bgcolor=fill, bold=True)


def _legend(picture: Map) -> RenderableType:
    table = Table(box=None, padding=(0, 1))
    for column in ("engines", "pool", "READY", "SYNCED", "GPUs", ""):
        table.add_column(Text(column, style="dim"), no_wrap=column != "")
    for index, pool in enumerate(picture.pools):
        table.add_row(*_pool(index, pool, picture))
    signs = [
        f"{STATES[state][0]} {STATES[state][1]}" for state in picture.states if STATES[state][0]
    ]
    if picture.asleep:
        signs.append(" ".join(ASLEEP))
    if picture.leaving:
        signs.append(" ".join(LEAVING))
    signs.append(texts.MAP_FREE)
    return Group(table, Padding(Text(" · ".join(signs), style="dim"), (0, 1), expand=False))


def _pool(index: int, pool: Legend, picture: Map) -> Iterator[Text]:
    fill = colours.pool(index, picture)
    style = Style(color=colours.ink(fill), bgcolor=fill, bold=True) if fill else Style(bold=True)
    yield Text(f" {pool.letters or '-'} ", style=style)
    several = len({legend.namespace for legend in picture.pools}) > 1
    yield Text(f"{pool.namespace}/{pool.name}" if several else pool.name)
    yield Text(pool.ready)
    yield Text(pool.synced)
    yield Text(str(pool.gpus))
    yield Text(pool.reason, style="green" if pool.good else "yellow")


def _stuck(picture: Map) -> Iterator[Text]:
    """Engines that have a node and cannot start there, and why: a line for each reason."""
    for group in picture.stuck[:MAX_UNPLACED]:
        first = group[0]
        line = Text().append(f" {first.letter}{first.badge} ", style=_style(first, picture))
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        line.append(f" {picture.pools[first.pool].name} {first.engine}{more}: {texts.MAP_STUCK}")
        yield line.append(f": {printable(first.why)}")


def _unplaced(picture: Map) -> Iterator[Text]:
    """Engines that are nowhere, and why."""
    found = picture.unplaced
    for engine_cell in found[:MAX_UNPLACED]:
        name = picture.pools[engine_cell.pool].name
        line = Text().append(
            f" {engine_cell.letter}{engine_cell.badge} ", style=_style(engine_cell, picture)
        )
        line.append(f" {name} {engine_cell.engine}, {engine_cell.gpus} GPUs: {engine_cell.words}")
        yield line.append(f": {printable(engine_cell.why)}" if engine_cell.why else "")
    if len(found) > MAX_UNPLACED:
        yield Text(texts.MAP_MORE_UNPLACED.format(count=len(found) - MAX_UNPLACED))
