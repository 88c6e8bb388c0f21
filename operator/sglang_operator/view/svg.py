"""The map as one SVG: no scripts, no fonts, no links, so that it can stand in a README."""

from collections.abc import Iterator
from html import escape
from itertools import groupby

from sglang_operator.api.bounds import printable
from sglang_operator.observed.engine_state import EngineState
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

SIZE, GAP = 46, 6  # of a cell, between cells
MARGIN = 28
LINE = 20
NAME_CHAR = 7.6  # an estimate of a character's width at 13 px
TEXT_CHAR = 6.6  # at 12 px
MIN_WIDTH = 640
MAX_UNPLACED = 8
FONT = "ui-sans-serif, -apple-system, 'Segoe UI', Roboto, Helvetica, 'DejaVu Sans', sans-serif"
MUTED, FRAME, EMPTY, ALARM = "#57606a", "#d0d7de", "#f6f8fa", "#cf222e"

# States whose engines are drawn solid, hatched (there, but serving nobody) or only outlined.
_SOLID = (EngineState.IN_SERVICE,)
_HATCHED = (EngineState.UP,)
_ALARMING = (EngineState.LOST, EngineState.BACKOFF)


def render(picture: Map, *, title: str = "") -> str:
    """The whole document."""
    drawing = _Drawing(picture)
    return drawing.document(title)


class _Drawing:
    """Draws from top to bottom; ``y`` is where the next thing goes."""

    def __init__(self, picture: Map) -> None:
        self.picture = picture
        self.parts: list[str] = []
        self.y = float(MARGIN)
        names = [row.name + row.flag for grid in picture.grids for row in grid.rows]
        self.left = MARGIN + max((len(name) for name in names), default=0) * NAME_CHAR + 18
        columns = max((grid.columns for grid in picture.grids), default=0)
        self.width = max(MIN_WIDTH, self.left + columns * (SIZE + GAP) + 36 + MARGIN)

    def document(self, title: str) -> str:
        if title:
            self._text(MARGIN, self.y + 14, title, size=20, weight=700)
            self.y += 34
        for grid in self.picture.grids:
            self._grid(grid)
        self._legend()
        self._signs()
        for line in self._lines():
            self._paragraph(line)
        height = self.y + MARGIN - 10
        size = f'width="{self.width:.0f}" height="{height:.0f}"'
        box = f'viewBox="0 0 {self.width:.0f} {height:.0f}"'
        label = escape(printable(title or texts.MAP_NODES))
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img" '
            f'aria-label="{label}" font-family="{FONT}">\n'
            f"<title>{label}</title>\n{_defs()}\n"
            f'<rect x="0.5" y="0.5" width="{self.width - 1:.0f}" height="{height - 1:.0f}" '
            f'rx="12" fill="{colours.PAPER}" stroke="{FRAME}"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"

    # --- grids

    def _grid(self, grid: Grid) -> None:
        self._text(MARGIN, self.y + 12, grid.title, size=14, weight=600)
        self.y += 22
        self._paragraph(grid.note)
        self.y += 8
        if grid.numbered:
            for column in range(grid.columns):
                x = self._x(column) + SIZE / 2
                self._text(x, self.y + 8, str(column), size=11, colour=MUTED, anchor="middle")
            self.y += 16
        for row in grid.rows:
            self._row(row)
        if grid.hidden:
            self._paragraph(grid.hidden)
        if not grid.rows:
            self._paragraph(texts.MAP_EMPTY)
        self.y += 16

    def _x(self, column: int) -> float:
        return self.left + column * (SIZE + GAP)

    def _row(self, row: GridRow) -> None:
        middle = self.y + SIZE / 2
        self._text(MARGIN, middle + (0 if row.flag else 5), row.name, size=13)
        if row.flag:
            self._text(MARGIN, middle + 15, row.flag, size=11, colour=ALARM, weight=600)
        start = 0
        for engine_cells, cells in groupby(row.cells, key=lambda cell: cell.engine_cells):
            run = list(cells)
            if not engine_cells:
                for offset, cell in enumerate(run):
                    self._free(start + offset, cell)
            elif len(engine_cells) == 1:
                self._engine(start, run, engine_cells[0])
            else:
                for offset, cell in enumerate(run):
                    self._split(start + offset, cell)
            start += len(run)
        if row.tally:
            self._text(self._x(start) + 6, middle + 4, row.tally, size=12, colour=MUTED)
        self.y += SIZE + GAP

    def _free(self, column: int, cell: Cell) -> None:
        x = self._x(column)
        self.parts.append(
            f'<rect x="{x:.1f}" y="{self.y:.1f}" width="{SIZE}" height="{SIZE}" rx="7" '
            f'fill="{EMPTY}" stroke="{FRAME}" stroke-dasharray="2 3"/>'
        )
        self._caption(x, cell)

    def _engine(self, start: int, run: list[Cell], engine_cell: EngineCell) -> None:
        """One engine's neighbouring cells as one shape, a letter in each."""
        x, width = self._x(start), len(run) * (SIZE + GAP) - GAP
        fill = colours.fill(engine_cell, self.picture)
        box = f'x="{x:.1f}" y="{self.y:.1f}" width="{width}" height="{SIZE}" rx="7"'
        self.parts.append(f"<g><title>{escape(printable(self._tip(engine_cell)))}</title>")
        if engine_cell.state in (*_SOLID, *_HATCHED):
            self.parts.append(
                f'<rect {box} fill="{fill}" stroke="{colours.INK}" stroke-opacity=".35"/>'
            )
        else:
            edge = ALARM if engine_cell.state in _ALARMING else fill
            pale = colours.lighter(fill, 0.75)
            self.parts.append(
                f'<rect {box} fill="{pale}" stroke="{edge}" stroke-width="2.5" '
                'stroke-dasharray="6 4"/>'
            )
        if engine_cell.state in _HATCHED:
            self.parts.append(f'<rect {box} fill="url(#hatch)"/>')
        ink = self._ink(engine_cell)
        for offset, cell in enumerate(run):
            left = self._x(start + offset)
            size = 19 if len(engine_cell.letter) < 3 else 14
            self._text(
                left + SIZE / 2,
                self.y + SIZE / 2 + size * 0.36,
                engine_cell.letter,
                size=size,
                weight=700,
                colour=ink,
                anchor="middle",
            )
            self._caption(left, cell, ink)
        if engine_cell.badge:
            self._badge(x + width - 5, self.y + 5, engine_cell)
        self.parts.append("</g>")

    def _split(self, column: int, cell: Cell) -> None:
        """A cell that several engines name: two halves along the diagonal, more as stripes."""
        x, count = self._x(column), len(cell.engine_cells)
        clip = f"c{len(self.parts)}"
        tip = " | ".join(self._tip(engine_cell) for engine_cell in cell.engine_cells)
        self.parts.append(
            f'<g><title>{escape(printable(tip))}</title><clipPath id="{clip}"><rect x="{x:.1f}" '
            f'y="{self.y:.1f}" width="{SIZE}" height="{SIZE}" rx="7"/></clipPath>'
        )
        for number, engine_cell in enumerate(cell.engine_cells):
            fill = colours.fill(engine_cell, self.picture)
            points, (cx, cy) = _part(x, self.y, number, count)
            self.parts.append(
                f'<polygon points="{points}" fill="{fill}" clip-path="url(#{clip})"/>'
            )
            self._text(
                cx, cy + 5, engine_cell.letter, size=13, weight=700,
                colour=colours.ink(fill), anchor="middle",
            )  # fmt: skip
        self.parts.append(
            f'<rect x="{x:.1f}" y="{self.y:.1f}" width="{SIZE}" height="{SIZE}" rx="7" '
            f'fill="none" stroke="{colours.INK}" stroke-width="2"/></g>'
        )

    def _caption(self, x: float, cell: Cell, colour: str = MUTED) -> None:
        if cell.caption:
            self._text(x + 5, self.y + 12, cell.caption, size=9, colour=colour)

    def _badge(self, x: float, y: float, engine_cell: EngineCell) -> None:
        colour = ALARM if engine_cell.state in _ALARMING else colours.INK
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="{colours.PAPER}" stroke="{colour}" '
            'stroke-width="1.6"/>'
        )
        self._text(x, y + 4, engine_cell.badge, size=11, weight=700, colour=colour, anchor="middle")

    def _ink(self, engine_cell: EngineCell) -> str:
        fill = colours.fill(engine_cell, self.picture)
        return colours.ink(fill) if engine_cell.state in (*_SOLID, *_HATCHED) else colours.INK

    def _tip(self, engine_cell: EngineCell) -> str:
        name = self.picture.pools[engine_cell.pool].name
        ids = f", GPUs {engine_cell.ids}" if engine_cell.ids else ""
        why = f": {engine_cell.why}" if engine_cell.why else ""
        rank = f", rank {engine_cell.rank}" if engine_cell.ranked else ""
        return f"{name} {engine_cell.engine}{rank}{ids}, {engine_cell.words}{why}"

    # --- below the grids

    def _legend(self) -> None:
        several = len({pool.namespace for pool in self.picture.pools}) > 1
        for index, pool in enumerate(self.picture.pools):
            self._pool(index, pool, several)
        self.y += 4

    def _pool(self, index: int, pool: Legend, several: bool) -> None:
        fill = colours.pool(index, self.picture)
        letters = pool.letters or "–"
        width = len(letters) * 8 + 14
        self.parts.append(
            f'<rect x="{MARGIN}" y="{self.y:.1f}" width="{width}" height="20" rx="5" '
            f'fill="{fill or EMPTY}" stroke="{FRAME}"/>'
        )
        ink = colours.ink(fill) if fill else colours.INK
        self._text(
            MARGIN + width / 2, self.y + 14.5, letters, size=12, weight=700, colour=ink,
            anchor="middle",
        )  # fmt: skip
        name = f"{pool.namespace}/{pool.name}" if several else pool.name
        x = MARGIN + max(width, 50) + 12
        self._text(x, self.y + 14.5, name, size=13, weight=600)
        told = f"READY {pool.ready} · SYNCED {pool.synced} · {pool.gpus} GPUs · {pool.reason}"
        after = x + len(name) * NAME_CHAR + 22
        self._text(after, self.y + 14.5, told, size=12, colour=MUTED if pool.good else ALARM)
        self.y += 26

    def _signs(self) -> None:
        """What the looks of a cell mean, for those that occur."""
        x = float(MARGIN)
        looks = [(state, STATES[state]) for state in self.picture.states]
        looks += [(EngineState.UP, ASLEEP)] if self.picture.asleep else []
        looks += [(EngineState.WAITING, LEAVING)] if self.picture.leaving else []
        for state, look in looks:
            self._sign(x, state, look)
            x += 30 + len(look[1]) * TEXT_CHAR + 18
            if x > self.width - 160:
                x = float(MARGIN)
                self.y += 26
        self.parts.append(
            f'<rect x="{x:.1f}" y="{self.y:.1f}" width="20" height="20" rx="4" '
            f'fill="{EMPTY}" stroke="{FRAME}" stroke-dasharray="2 3"/>'
        )
        self._text(x + 28, self.y + 14.5, texts.MAP_FREE.lstrip("· "), size=12, colour=MUTED)
        self.y += 32

    def _sign(self, x: float, state: EngineState, look: tuple[str, str]) -> None:
        box = f'x="{x:.1f}" y="{self.y:.1f}" width="20" height="20" rx="4"'
        badge, words = look
        if state in (*_SOLID, *_HATCHED):
            self.parts.append(f'<rect {box} fill="#afb8c1" stroke="{MUTED}"/>')
        else:
            edge = ALARM if state in _ALARMING else MUTED
            self.parts.append(
                f'<rect {box} fill="{EMPTY}" stroke="{edge}" stroke-width="2" '
                'stroke-dasharray="4 3"/>'
            )
        if state in _HATCHED:
            self.parts.append(f'<rect {box} fill="url(#hatch)"/>')
        if badge:
            self._text(x + 10, self.y + 14.5, badge, size=13, weight=700, anchor="middle")
        self._text(x + 28, self.y + 14.5, words, size=12, colour=MUTED)

    def _lines(self) -> Iterator[str]:
        unplaced = self.picture.unplaced
        for engine_cell in unplaced[:MAX_UNPLACED]:
            name = self.picture.pools[engine_cell.pool].name
            why = f": {engine_cell.why}" if engine_cell.why else ""
            sign = f"{engine_cell.letter}{engine_cell.badge}"
            yield f"{sign}  {name} {engine_cell.engine} {engine_cell.words}{why}"
        if len(unplaced) > MAX_UNPLACED:
            yield texts.MAP_MORE_UNPLACED.format(count=len(unplaced) - MAX_UNPLACED)
        yield from self.picture.notes

    # --- text

    def _paragraph(self, text: str) -> None:
        """Muted text over as many lines as it takes."""
        room = int((self.width - 2 * MARGIN) / TEXT_CHAR)
        for line in _wrapped(printable(text), room):
            self._text(MARGIN, self.y + 12, line, size=12, colour=MUTED)
            self.y += LINE - 2

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int,
        colour: str = colours.INK,
        weight: int = 400,
        anchor: str = "start",
    ) -> None:
        bold = f' font-weight="{weight}"' if weight != 400 else ""
        place = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{bold}{place}>'
            f"{escape(printable(text))}</text>"
        )


def _defs() -> str:
    return (
        '<defs><pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="3" height="8" fill="#ffffff" '
        'fill-opacity=".45"/></pattern></defs>'
    )


def _part(x: float, y: float, number: int, count: int) -> tuple[str, tuple[float, float]]:
    """The corners of one part of a split cell, and where its letter goes."""
    if count == 2:
        corner = (x, y) if number == 0 else (x + SIZE, y + SIZE)
        points = [corner, (x + SIZE, y), (x, y + SIZE)]
        shift = SIZE * (0.29 if number == 0 else 0.71)
        middle = (x + shift, y + shift)
    else:
        left, right = x + SIZE * number / count, x + SIZE * (number + 1) / count
        points = [(left, y), (right, y), (right, y + SIZE), (left, y + SIZE)]
        middle = ((left + right) / 2, y + SIZE / 2)
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in points), middle


def _wrapped(text: str, room: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > room:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield line
