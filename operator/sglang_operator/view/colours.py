"""Colours that colour-blind people tell apart, and always a letter beside them.

The hues are Okabe and Ito's ("Color Universal Design", 2008).  One pool: neighbouring engines have
different hues.  Several: a hue for each pool, and two tones that its engines take in turn.
"""

from sglang_operator.view.drawing import EngineCell, Map

HUES = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#999999")
INK, PAPER = "#0d1117", "#ffffff"
_LIGHTER = 0.45


def fill(engine_cell: EngineCell, picture: Map) -> str:
    """The colour of an engine's cells, as #rrggbb."""
    if len(picture.pools) == 1:
        return HUES[engine_cell.rank % len(HUES)]
    hue = HUES[engine_cell.pool % len(HUES)]
    return hue if engine_cell.rank % 2 == 0 else lighter(hue, _LIGHTER)


def pool(index: int, picture: Map) -> str | None:
    """The colour that stands for a pool; None where engines have colours of their own."""
    return None if len(picture.pools) == 1 else HUES[index % len(HUES)]


def lighter(colour: str, share: float) -> str:
    """The colour mixed with this share of white."""
    mixed = (round(part + (255 - part) * share) for part in _parts(colour))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def ink(colour: str) -> str:
    """Black or white, whichever can be read better on this colour (WCAG's relative luminance)."""
    red, green, blue = (_linear(part / 255) for part in _parts(colour))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return INK if luminance > 0.179 else PAPER


def _parts(colour: str) -> tuple[int, int, int]:
    value = int(colour[1:], 16)
    return value >> 16, value >> 8 & 255, value & 255


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
