"""The map as a page of its own: the SVG, and every engine in a table below it."""

from collections.abc import Iterator
from html import escape

from sglang_operator.api.bounds import printable
from sglang_operator.view import colours, svg
from sglang_operator.view.drawing import EngineCell, Map

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin-top: 1.5rem; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid #8884; }
td { white-space: nowrap; } td:last-child { white-space: normal; width: 100%; }
th { font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.letter { display: inline-block; min-width: 1.8em; text-align: center; border-radius: 4px;
  font-weight: 700; }
footer { margin-top: 1rem; opacity: .7; font-size: 13px; }
"""
_COLUMNS = ("", "pool", "rank", "engine", "GPU ids", "state", "node", "pod", "")


def render(picture: Map, *, title: str, when: str) -> str:
    """The document; ``when`` is the time at which it was true."""
    rows = "\n".join(_row(engine_cell, picture) for engine_cell in picture.engine_cells)
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head><body>\n"
        f"{svg.render(picture, title=title)}"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>\n"
        f"<footer>as seen at {_safe(when)}</footer>\n"
        "</body></html>\n"
    )


def _row(engine_cell: EngineCell, picture: Map) -> str:
    cells = "".join(_cells(engine_cell, picture))
    return f"<tr>{cells}</tr>"


def _cells(engine_cell: EngineCell, picture: Map) -> Iterator[str]:
    fill = colours.fill(engine_cell, picture)
    yield (
        f'<td><span class="letter" style="background:{fill};color:{colours.ink(fill)}">'
        f"{engine_cell.letter}</span></td>"
    )
    yield f"<td>{_safe(picture.pools[engine_cell.pool].name)}</td>"
    yield f'<td class="n">{engine_cell.rank if engine_cell.ranked else "-"}</td>'
    for text in (
        engine_cell.engine,
        engine_cell.ids,
        f"{engine_cell.badge} {engine_cell.words}".strip(),
        engine_cell.node,
        engine_cell.pod,
        engine_cell.why,
    ):
        yield f"<td>{_safe(text)}</td>"


def _safe(text: str) -> str:
    return escape(printable(text))
