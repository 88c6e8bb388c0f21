"""A map of GPUs as data, whoever made it: cells with engines in them, in rows, with a legend.

Nothing here knows of a cluster: a plan is drawn too, and need not wait for what reads one.
"""

from dataclasses import dataclass

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.roll import device_mapping

# What kubelet says of a container that is only not there yet.
_ON_THE_WAY = ("", "ContainerCreating", "PodInitializing")

# A sign that can be read without colour, and words.
STATES: dict[EngineState, tuple[str, str]] = {
    EngineState.IN_SERVICE: ("", "in service"),
    EngineState.UP: ("○", "up behind a closed weights gate"),
    EngineState.STARTING: ("…", "starting"),
    EngineState.PENDING: ("?", "waits for a node"),
    EngineState.LOST: ("×", "its node is lost"),
    EngineState.BACKOFF: ("!", "waits after a failure"),
    EngineState.WAITING: ("↻", "being replaced"),
    EngineState.CREATING: ("+", "without a pod yet"),
}


# The same of a pod that stands for no engine any more, and still holds its GPUs.
LEAVING = ("↓", "on its way out")
# And of an engine whose memory a trainer has.
ASLEEP = ("z", "asleep")


@dataclass(frozen=True, kw_only=True)
class EngineCell:
    """One engine, as it is drawn."""

    letter: str
    pool: int  # index in ``Map.pools``
    engine: str
    rank: int
    gpus: int
    ranked: bool  # False: the spec is refused, and ``rank`` only a place in an order
    devices: tuple[int, ...]
    state: EngineState
    pod: str
    node: str
    why: str  # what keeps it, if anything does
    held: tuple[tuple[str, int], ...] = ()  # its GPUs on each node
    known: tuple[tuple[str, str], ...] = ()  # node and UUID of each, where these are known
    asleep: bool = False  # up, behind a gate that says of which memory
    leaving: bool = False  # a pod that is on its way out; its engine may be drawn elsewhere too

    @property
    def known_rank(self) -> int | None:
        """ROLL's dp_rank."""
        return self.rank if self.ranked else None

    @property
    def badge(self) -> str:
        return self._look[0]

    @property
    def words(self) -> str:
        return self._look[1]

    @property
    def _look(self) -> tuple[str, str]:
        if self.leaving:
            return LEAVING
        return ASLEEP if self.asleep else STATES[self.state]

    @property
    def ids(self) -> str:
        """Its GPU ids for people, empty without a mapping."""
        return device_mapping.describe(self.devices) if self.devices else ""


@dataclass(frozen=True, kw_only=True)
class Legend:
    """One pool."""

    name: str
    namespace: str
    ready: str  # engines up / wanted
    synced: str
    gpus: int
    letters: str  # "A-L"
    reason: str
    good: bool
    mode: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One GPU: who has it (several: it is named twice), and its global id where it is known."""

    engine_cells: tuple[EngineCell, ...] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class GridRow:
    name: str
    cells: tuple[Cell, ...]
    flag: str = ""  # what is wrong with the node
    tally: str = ""  # GPUs held / there


@dataclass(frozen=True, kw_only=True)
class Grid:
    title: str
    note: str
    rows: tuple[GridRow, ...]
    numbered: bool = False  # columns mean something: not where places are only counted
    hidden: str = ""  # rows that are left out

    @property
    def columns(self) -> int:
        return max((len(row.cells) for row in self.rows), default=0)


@dataclass(frozen=True, kw_only=True)
class Map:
    """Everything a renderer needs."""

    pools: tuple[Legend, ...]
    engine_cells: tuple[EngineCell, ...]
    grids: tuple[Grid, ...]
    notes: tuple[str, ...] = ()

    @property
    def states(self) -> list[EngineState]:
        """The states that occur, in the order of the table."""
        found = {cell.state for cell in self.engine_cells if not (cell.leaving or cell.asleep)}
        return [state for state in STATES if state in found]

    @property
    def leaving(self) -> bool:
        """Whether pods on their way out are drawn."""
        return any(engine_cell.leaving for engine_cell in self.engine_cells)

    @property
    def asleep(self) -> bool:
        """Whether engines are drawn that sleep."""
        return any(engine_cell.asleep for engine_cell in self.engine_cells)

    @property
    def stuck(self) -> list[list[EngineCell]]:
        """Engines with a node whose containers cannot be started, together with those alike."""
        groups: dict[tuple[int, str], list[EngineCell]] = {}
        for engine_cell in self.engine_cells:
            cannot = (
                engine_cell.state is EngineState.STARTING and engine_cell.why not in _ON_THE_WAY
            )
            if engine_cell.node and cannot:
                groups.setdefault((engine_cell.pool, engine_cell.why), []).append(engine_cell)
        return list(groups.values())

    @property
    def unplaced(self) -> list[EngineCell]:
        """Engines without a node."""
        return [engine_cell for engine_cell in self.engine_cells if not engine_cell.node]


def letters(number: int) -> str:
    """0 → A, 25 → Z, 26 → AA, as spreadsheets count."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("A") + digit) + text
    return text
