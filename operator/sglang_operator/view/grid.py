"""The map of GPUs as a grid, before anybody draws it: which engine is in which cell, in what state.

Two pictures.  *Nodes*: where the engines are.  Kubernetes tells how many GPUs of a node a pod has,
not which ones, so the cells of a node are filled from the left and the picture says so.  *Ids*:
what the ``device_mapping`` of each pool names, as ROLL counts GPUs: node_rank and gpu_rank.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, groupby

from sglang_operator.api.spec import PoolSpec
from sglang_operator.api.texts import SYNCED_BESIDE
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import ObservedPod
from sglang_operator.pool.resolve import Pool
from sglang_operator.roll import device_mapping
from sglang_operator.view import texts
from sglang_operator.view.cluster_view import DEFAULT_RESOURCE, ClusterView, NodeView, PoolView
from sglang_operator.view.drawing import Cell, EngineCell, Grid, GridRow, Legend, Map, letters
from sglang_operator.weights.lease_state import Phase

MAX_EMPTY_ROWS = 16


def gpu_map(cluster_view: ClusterView, *, nodes: bool = True, ids: bool | None = None) -> Map:
    """The map of these pools.

    ``ids`` adds the picture of the mappings; None: where it says more than the nodes do, which is
    when pools share ids.
    """
    engine_cells = list(_engine_cells(cluster_view.pools))
    shared = [
        *_overlaps(cluster_view.pools),
        *_neighbours(cluster_view.pools, engine_cells),
    ]
    grids = []
    if nodes:
        grids.append(_nodes_grid(cluster_view, engine_cells))
    if ids or (ids is None and shared):
        grids += _ids_grids(cluster_view.pools, engine_cells)
    return Map(
        pools=tuple(
            _legend(index, pool, engine_cells) for index, pool in enumerate(cluster_view.pools)
        ),
        engine_cells=tuple(engine_cells),
        grids=tuple(grids),
        notes=(*shared, *cluster_view.notes),
    )


# --- engines


def _engine_cells(pools: Sequence[PoolView]) -> Iterator[EngineCell]:
    number = 0
    for index, pool in enumerate(pools):
        own: dict[str, str] = {}
        for engine in pool.plan.engines:
            own[engine.name] = letters(number)
            yield _engine_cell(letters(number), index, pool, engine)
            number += 1
        for pod in sorted(pool.leaving, key=lambda pod: (pod.devices, pod.name)):
            letter = own.get(pod.engine)
            if letter is None:
                letter, number = letters(number), number + 1
            yield _leaving(letter, index, pool, pod)


def _engine_cell(letter: str, index: int, pool: PoolView, engine: EngineStatus) -> EngineCell:
    return EngineCell(
        letter=letter,
        pool=index,
        engine=engine.name,
        rank=engine.rank,
        gpus=engine.gpus(pool.resource, pool.gpus),
        ranked=isinstance(pool.resolved, Pool),
        devices=engine.devices,
        state=engine.state,
        pod=engine.pod_name,
        node=engine.node,
        held=tuple(engine.held(pool.resource, pool.gpus).items()),
        known=tuple(known for member in engine.members for known in _known(member)),
        why=engine.why,
        asleep=_sleeps(engine),
    )


def _known(pod: ObservedPod) -> Iterator[tuple[str, str]]:
    """Its GPUs, where it was given them by name."""
    return ((pod.node, gpu) for gpu in pod.gpus_seen if pod.node)


def _sleeps(engine: EngineStatus) -> bool:
    """By its pod, which remembers it: whoever draws the map reads no Leases."""
    gate = engine.gate
    return engine.up and gate is not None and gate.reason == Phase.SLEEPING.value


def _leaving(letter: str, index: int, pool: PoolView, pod: ObservedPod) -> EngineCell:
    rank = next((e.rank for e in pool.plan.engines if e.name == pod.engine), None)
    gpus = pod.gpus(pool.resource, pool.gpus // pod.nodes)
    return EngineCell(
        letter=letter,
        pool=index,
        engine=pod.engine,
        rank=rank or 0,
        gpus=gpus,
        ranked=rank is not None and isinstance(pool.resolved, Pool),
        devices=() if rank is not None else pod.devices,  # else its engine stands there already
        state=EngineState.WAITING,
        pod=pod.name,
        node=pod.node,
        held=((pod.node, gpus),),
        known=tuple(_known(pod)),
        why="",
        leaving=True,
    )


def _legend(index: int, pool: PoolView, engine_cells: Iterable[EngineCell]) -> Legend:
    own = [
        engine_cell
        for engine_cell in engine_cells
        if engine_cell.pool == index and not engine_cell.leaving
    ]
    reason = pool.condition("Ready").get("reason", "") if pool.observed else ""
    mode = pool.resolved.spec.placement.mode.value if isinstance(pool.resolved, Pool) else ""
    up = pool.count(EngineState.UP, EngineState.IN_SERVICE)
    serving = sum(engine.reachable for engine in pool.plan.engines)
    asleep = sum(_sleeps(engine) for engine in pool.plan.engines)
    synced = f"{serving}/{pool.desired}"
    return Legend(
        name=pool.name,
        namespace=pool.namespace,
        ready=f"{up}/{pool.desired}",
        synced=SYNCED_BESIDE.format(synced=synced, asleep=asleep) if asleep and serving else synced,
        gpus=sum(engine_cell.gpus for engine_cell in own),
        letters=_span([engine_cell.letter for engine_cell in own]),
        reason=reason or texts.NOT_SEEN_YET,
        good=pool.ready,
        mode=mode,
    )


def _span(found: Sequence[str]) -> str:
    if len(found) < 2:
        return "".join(found)
    return f"{found[0]}–{found[-1]}"


# --- where the engines are


def _nodes_grid(cluster_view: ClusterView, engine_cells: Sequence[EngineCell]) -> Grid:
    held: defaultdict[str, list[Cell]] = defaultdict(list)
    for engine_cell in engine_cells:
        for node, gpus in () if engine_cell.known else engine_cell.held:
            held[node] += [Cell(engine_cells=(engine_cell,))] * gpus
    for (node, _), found in sorted(_by_gpu(engine_cells).items()):
        held[node].append(Cell(engine_cells=tuple(found)))
    resources = {
        pool.resolved.resource for pool in cluster_view.pools if isinstance(pool.resolved, Pool)
    } or {DEFAULT_RESOURCE}
    if cluster_view.nodes is None:
        rows = [_node_row(name, None, found, 0) for name, found in sorted(held.items())]
    else:
        known = {node.metadata.name: node for node in cluster_view.nodes}
        capacity = {
            name: max(node.gpus(resource) for resource in resources) for name, node in known.items()
        }
        wanted = [name for name in known if capacity[name] or name in held]
        wanted += sorted(held.keys() - known.keys())
        rows = [
            _node_row(name, known.get(name), held[name], capacity.get(name, 0)) for name in wanted
        ]
    rows, hidden = _without_most_empty(rows)
    note = _nodes_note(cluster_view)
    return Grid(title=texts.MAP_NODES, note=note, rows=tuple(rows), hidden=hidden)


def _by_gpu(engine_cells: Iterable[EngineCell]) -> Mapping[tuple[str, str], list[EngineCell]]:
    """Who is on each GPU, by node and UUID."""
    found: defaultdict[tuple[str, str], list[EngineCell]] = defaultdict(list)
    for engine_cell in engine_cells:
        for gpu in engine_cell.known:
            found[gpu].append(engine_cell)
    return found


def _nodes_note(cluster_view: ClusterView) -> str:
    """What is not known of the GPUs of nodes; of a pool that is refused it is how it was placed."""
    readable = cluster_view.nodes is not None
    resolved = (pool.resolved for pool in cluster_view.pools)
    if cluster_view.pools and all(isinstance(it, Pool) and it.placement.by_id for it in resolved):
        return texts.MAP_DRAWN if readable else texts.MAP_DRAWN_NO_NODES
    return texts.MAP_COUNTED if readable else texts.MAP_COUNTED_NO_NODES


def _node_row(name: str, node: NodeView | None, found: Sequence[Cell], gpus: int) -> GridRow:
    held = len(found)
    cells = [*found, *[Cell()] * (gpus - held)]
    return GridRow(name=name, cells=tuple(cells), flag=_flag(node), tally=f"{held}/{gpus or '?'}")


def _flag(node: NodeView | None) -> str:
    if node is None:
        return ""
    ready = next((c for c in node.status.conditions if c.type == "Ready"), None)
    if ready is not None and ready.status != "True":
        return "NotReady"
    return "cordoned" if node.spec.unschedulable else ""


def _without_most_empty(rows: Sequence[GridRow]) -> tuple[list[GridRow], str]:
    """All rows with engines, and some of the others."""
    empty = [row for row in rows if not any(cell.engine_cells for cell in row.cells)]
    left_out = empty[MAX_EMPTY_ROWS:]
    if not left_out:
        return list(rows), ""
    gone = {row.name for row in left_out}
    gpus = sum(len(row.cells) for row in left_out)
    hidden = texts.MAP_HIDDEN.format(nodes=len(left_out), gpus=gpus)
    return [row for row in rows if row.name not in gone], hidden


# --- what the mappings name


def _ids_grids(pools: Sequence[PoolView], engine_cells: Sequence[EngineCell]) -> Iterator[Grid]:
    """One for each namespace: ids of different trainers have nothing to do with each other."""
    mapped = [
        (engine_cell, pools[engine_cell.pool])
        for engine_cell in engine_cells
        if engine_cell.devices
    ]
    by_namespace = groupby(mapped, key=lambda found: found[1].namespace)
    several = len({pool.namespace for _, pool in mapped}) > 1
    for namespace, group in by_namespace:
        found = list(group)
        where = f" in {namespace}" if several else ""
        yield _ids_grid(texts.MAP_IDS + where, found)


def _ids_grid(title: str, found: Sequence[tuple[EngineCell, PoolView]]) -> Grid:
    owners: defaultdict[int, list[EngineCell]] = defaultdict(list)
    per_node = 1
    for engine_cell, pool in found:
        per_node = max(per_node, _per_node(pool))
        for device in engine_cell.devices:
            owners[device].append(engine_cell)
    rows = []
    for rank in range(max(owners) // per_node + 1):
        ids = range(rank * per_node, (rank + 1) * per_node)
        cells = tuple(Cell(engine_cells=tuple(owners.get(i, ())), caption=str(i)) for i in ids)
        rows.append(GridRow(name=f"node_rank {rank}", cells=cells))
    kept, hidden = _without_most_empty(rows)
    return Grid(
        title=title, note=texts.MAP_IDS_NOTE, rows=tuple(kept), hidden=hidden, numbered=True
    )


def _per_node(pool: PoolView) -> int:
    """GPUs that the pool counts on a node; of one that is refused, the usual number."""
    if isinstance(pool.resolved, Pool):
        return pool.resolved.spec.num_gpus_per_node
    return PoolSpec().num_gpus_per_node


def _overlaps(pools: Sequence[PoolView]) -> Iterator[str]:
    """In words: the ids that two pools of a namespace both name."""
    mapped = [
        (pool, pool.resolved, {i for engine in pool.resolved.running for i in engine.devices})
        for pool in pools
        if isinstance(pool.resolved, Pool)
    ]
    for number, (first, one, ids) in enumerate(mapped):
        for second, other, others in mapped[number + 1 :]:
            both = sorted(ids & others)
            if both and first.namespace == second.namespace:
                counted = [it for it in (one, other) if not it.placement.by_id]
                text = texts.MAP_OVERLAP if counted else texts.MAP_SHARED
                yield text.format(
                    first=first.name,
                    second=second.name,
                    ids=device_mapping.describe(both),
                    mode=(counted or [one])[0].spec.placement.mode.value,
                )


def _neighbours(pools: Sequence[PoolView], engine_cells: Sequence[EngineCell]) -> Iterator[str]:
    """In words: the GPUs on which engines of two pools are."""
    counts: Counter[tuple[int, int]] = Counter()
    for found in _by_gpu(engine_cells).values():
        counts.update(combinations(sorted({each.pool for each in found}), 2))
    for (one, two), count in sorted(counts.items()):
        yield texts.MAP_NEIGHBOURS.format(
            first=f"{pools[one].namespace}/{pools[one].name}",
            second=f"{pools[two].namespace}/{pools[two].name}",
            count=count,
        )


# --- for programs


def document(picture: Map) -> dict[str, object]:
    """The map as plain values: pools, engines, and each grid as rows of letters."""
    return {
        "pools": [
            {
                "name": pool.name,
                "namespace": pool.namespace,
                "ready": pool.ready,
                "synced": pool.synced,
                "gpus": pool.gpus,
                "reason": pool.reason,
                "placement": pool.mode,
            }
            for pool in picture.pools
        ],
        "engines": [
            {
                "letter": engine_cell.letter,
                "pool": picture.pools[engine_cell.pool].name,
                "namespace": picture.pools[engine_cell.pool].namespace,
                "engine": engine_cell.engine,
                "rank": engine_cell.known_rank,
                "devices": list(engine_cell.devices),
                "gpus": engine_cell.gpus,
                "state": "Leaving" if engine_cell.leaving else engine_cell.state.value,
                "pod": engine_cell.pod or None,
                "node": engine_cell.node or None,
                "why": engine_cell.why or None,
                **({"asleep": True} if engine_cell.asleep else {}),
            }
            for engine_cell in picture.engine_cells
        ],
        "grids": [
            {
                "title": grid.title,
                "note": grid.note,
                "rows": [
                    {
                        "name": row.name,
                        "flag": row.flag or None,
                        "cells": [
                            "/".join(t.letter for t in cell.engine_cells) for cell in row.cells
                        ],
                    }
                    for row in grid.rows
                ],
            }
            for grid in picture.grids
        ],
        "notes": list(picture.notes),
    }
