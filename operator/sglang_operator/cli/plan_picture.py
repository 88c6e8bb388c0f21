"""Who has which GPUs in a pipeline, as the map draws them: nodes × GPUs."""

from collections import defaultdict
from typing import TYPE_CHECKING

from sglang_operator.cli import texts
from sglang_operator.cli.pipeline.roles import Role
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.roll import device_mapping
from sglang_operator.view.drawing import Cell, EngineCell, Grid, GridRow, Legend, Map, letters

if TYPE_CHECKING:
    from sglang_operator.cli.plan_report import Whole

_MOST_ROWS = 64


def picture(whole: "Whole") -> Map:
    """Engines have a letter each, every other role one for all of its GPUs."""
    engines = {found.name: found.engines for found in whole.engines()}
    cells: list[EngineCell] = []
    legends: list[Legend] = []
    for role in whole.roles:
        if not role.devices:
            continue
        ours = engines.get(role.name)
        groups = [group for group in ours.devices if group] if ours is not None else []
        groups = groups or [tuple(sorted(role.devices))]
        first = len(cells)
        for rank, devices in enumerate(groups):
            cells.append(_cell(letters(len(cells)), len(legends), role, rank, devices))
        legends.append(_legend(role, [cell.letter for cell in cells[first:]]))
    return Map(
        pools=tuple(legends), engine_cells=tuple(cells), grids=(_grid(cells, whole.per_node),)
    )


def _cell(letter: str, index: int, role: Role, rank: int, devices: tuple[int, ...]) -> EngineCell:
    return EngineCell(
        letter=letter,
        pool=index,
        engine=device_mapping.describe(devices),
        rank=rank,
        gpus=len(devices),
        ranked=True,
        devices=devices,
        state=EngineState.IN_SERVICE,
        pod="",
        node="",
        why="",
    )


def _legend(role: Role, given: list[str]) -> Legend:
    span = given[0] if len(given) == 1 else f"{given[0]}–{given[-1]}"
    return Legend(
        name=role.name,
        namespace="",
        ready="",
        synced="",
        gpus=len(role.devices),
        letters=span,
        reason="",
        good=True,
        mode=role.strategy or "no strategy",
    )


def _grid(cells: list[EngineCell], per_node: int) -> Grid:
    owners: defaultdict[int, list[EngineCell]] = defaultdict(list)
    for cell in cells:
        for device in cell.devices:
            owners[device].append(cell)
    nodes = max(owners, default=0) // per_node + 1
    rows = [
        GridRow(
            name=f"node_rank {node}",
            cells=tuple(
                Cell(engine_cells=tuple(owners.get(device, ())), caption=str(device))
                for device in range(node * per_node, (node + 1) * per_node)
            ),
        )
        for node in range(min(nodes, _MOST_ROWS))
    ]
    hidden = texts.PLAN_HIDDEN.format(count=nodes - _MOST_ROWS) if nodes > _MOST_ROWS else ""
    return Grid(
        title=texts.PLAN_GRID,
        note=texts.PLAN_GRID_NOTE,
        rows=tuple(rows),
        hidden=hidden,
        numbered=True,
    )
