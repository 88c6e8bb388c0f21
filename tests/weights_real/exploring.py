"""Many runs on several pools side by side, and what came of them."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.weights_real.clients import Told
from tests.weights_real.jobs import RollPoolRuns
from tests.weights_real.plane import SharedPlane
from tests.weights_real.pool_runs import PoolRuns, Result, Variant
from tests.weights_real.turn_runs import TurnRuns


async def explore(
    plane: ControlPlane,
    made: list[InstalledOperator],
    variant: Variant,
    seeds: Sequence[int],
    *,
    name: str,
    pools: int,
) -> list[Result]:
    """Run all seeds, on several pools side by side."""
    left = iter(seeds)
    results: list[Result] = []

    async def one_pool(shared: SharedPlane, number: int) -> None:
        namespace = await asyncio.to_thread(plane.namespace, f"{name}-{number}")
        async with _kind(variant)(shared, namespace, variant) as pool:
            for seed in left:
                result = await pool.run(seed)
                results.append(result)
                _tell(result)

    async with SharedPlane(plane, made) as shared:
        async with asyncio.TaskGroup() as group:
            for number in range(pools):
                group.create_task(one_pool(shared, number))
        slow = f"the machine was up to {shared.pace.slowest:.1f} times slower than at rest"
        print(f"operators killed: {shared.kills}; {slow}", flush=True)
    return results


def _kind(variant: Variant) -> type[PoolRuns]:
    if variant.turns is not None:
        return TurnRuns
    return PoolRuns if variant.roll is None else RollPoolRuns


def _tell(result: Result) -> None:
    answers = sum(n for (_, kind), n in result.told.answers.items() if kind.startswith("whole"))
    print(
        f"seed {result.seed}: {result.seconds:.1f} s, {len(result.steps)} steps, "
        f"{answers} answers, {len(result.found)} found",
        flush=True,
    )
    if result.found:
        print("   steps: " + "\n          ".join(result.steps))
        for problem, count in Counter(result.found).items():
            print(f"   {count} × {problem}", flush=True)


def recovered(results: Sequence[Result]) -> int:
    """Engines that caught up from a checkpoint: without any, nothing was found out about that."""
    return sum(result.outcomes["engine recovered"] for result in results)


def table(name: str, results: Sequence[Result]) -> str:
    """What there was, in a few lines."""
    told, outcomes, faults = Told(), Counter[str](), Counter[str]()
    for result in results:
        told.add(result.told)
        outcomes += result.outcomes
        faults += result.faults
    found = sum(bool(result.found) for result in results)
    lines = [
        f"## {name}",
        f"runs {len(results)}, steps {sum(len(r.steps) for r in results)}, "
        f"runs with something found {found}, wrong answers {len(told.wrong)}",
        f"moments with engine and trainer on one memory {sum(len(r.both) for r in results)}",
        _counted("faults", faults),
        _counted("trainers and engines", outcomes),
        _counted("requests", told.requests),
        *(f"  {route}: {kind} {n}" for (route, kind), n in sorted(told.answers.items())),
    ]
    return "\n".join(lines)


def _counted(name: str, counter: Counter[str]) -> str:
    return f"{name}: " + ", ".join(f"{key} {n}" for key, n in sorted(counter.items()))
