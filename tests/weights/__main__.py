"""``make weights-model``: many runs of the model of a pool's weights, and what they found."""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

from tests.weights import model, part_sleep, taking_turns, two_pools

T = TypeVar("T")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first run")
    parser.add_argument("--roll", action="store_true", help="all trainers are jobs of ROLL")
    parser.add_argument("--parts", action="store_true", help="parts of the pool sleep too")
    parser.add_argument("--mixed", action="store_true", help="beside others of an earlier release")
    parser.add_argument("--turns", action="store_true", help="trainer and engines on one GPU")
    parser.add_argument("--pools", action="store_true", help="two pools on the same GPUs")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.runs)
    if options.turns:
        return _turns(seeds)
    if options.pools:
        return _pools(seeds)
    kinds = {kind: getattr(options, kind) for kind in ("roll", "parts", "mixed")}
    begun, answers, steps, loaded, wrong, slept = time.monotonic(), 0, 0, 0, 0, 0
    jobs: Counter[str] = Counter()
    for seed in seeds:
        world = model.run(random.Random(seed).randrange, **kinds)
        jobs += world.jobs
        answers += world.answers
        steps += world.steps
        loaded += world.loaded
        slept += world.slept_apart
        if world.violations or not world.synced():
            wrong += 1
            told = world.violations[:3] or ["not every engine is synced in the end"]
            print(f"seed {seed}: {'; '.join(told)}")
    seconds = time.monotonic() - begun
    done = f"{options.runs} runs, {steps} steps, {answers} answers, {loaded} loads of checkpoints"
    print(f"{done}, {wrong} wrong, {seconds:.0f} s")
    print(f"parts that slept while others served: {slept}")
    print("jobs of ROLL: " + ", ".join(f"{count} {what}" for what, count in sorted(jobs.items())))
    blind = 0
    controls: Sequence[tuple[str, str]] = model.ROLL_CONTROLS if options.roll else model.CONTROLS
    if options.parts or options.mixed:
        controls = part_sleep.CONTROLS
    for defect, gate in controls:
        runs = min(options.runs, 2000)
        control = {"defect": defect, "gate": gate, **kinds, "mixed": False}
        found = sum(
            bool(model.run(random.Random(seed).randrange, **control).violations)
            for seed in range(runs)
        )
        blind += not found
        print(f"control: {defect}, gate {gate}: found in {found} of {runs} runs")
    return 1 if wrong or blind else 0


def _blind(seeds: range, controls: Sequence[str], finds: Callable[..., bool]) -> int:
    """How many of these defects nobody found; each is told."""
    blind, runs = 0, min(len(seeds), 500)
    for defect in controls:
        found = sum(_each(partial(finds, defect=defect), range(runs)))
        blind += not found
        print(f"control: {defect}: found in {found} of {runs} runs")
    return blind


def _each(run: Callable[[int], T], seeds: range) -> Iterator[T]:
    """What comes of each of these seeds, in their order, on all processors."""
    with ProcessPoolExecutor() as workers:
        yield from workers.map(run, seeds, chunksize=20)


class _Turned(NamedTuple):
    """What came of a run of ``taking_turns``."""

    seed: int
    both: list[str]
    steps: int
    turns: int
    waited: int
    regrouped: int


def _turned(seed: int) -> _Turned:
    world = taking_turns.run(seed)
    trainer = world.trainer
    counted = (world.steps, trainer.turns, trainer.kept_waiting, world.regrouped)
    return _Turned(seed, world.both, *counted)


def _is_turn_found(seed: int, defect: str) -> bool:
    return bool(taking_turns.run(seed, defect=defect).both)


def _is_pair_found(seed: int, defect: str) -> bool:
    return bool(two_pools.run(seed, defect=defect).awake)


def _turns(seeds: range) -> int:
    """Moments at which a trainer and an engine held memory of one GPU: none but in controls."""
    begun, wrong, counted = time.monotonic(), 0, Counter[str]()
    for done in _each(_turned, seeds):
        counted.update(steps=done.steps, turns=done.turns)
        counted.update(waited=done.waited, regrouped=done.regrouped)
        if done.both:
            wrong += 1
            print(f"seed {done.seed}: {'; '.join(done.both[:3])}")
    seconds = time.monotonic() - begun
    told = f"{counted['turns']} turns, in {counted['waited']} of them engines waited"
    print(f"{len(seeds)} runs, {counted['steps']} steps, {told}")
    print(f"{counted['regrouped']} times the GPUs were grouped anew")
    print(f"{wrong} runs in which both held memory of one GPU, {seconds:.0f} s")
    blind = _blind(seeds, taking_turns.CONTROLS, _is_turn_found)
    return 1 if wrong or blind else 0


def _pools(seeds: range) -> int:
    """Moments at which engines of two pools held memory of one GPU: none but in controls."""
    begun, wrong, steps, turns, woken, refused = time.monotonic(), 0, 0, 0, 0, 0
    for seed in seeds:
        pair = two_pools.run(seed)
        steps, refused = steps + pair.steps, refused + pair.refused
        turns += sum(world.trainer.turns for world in pair.worlds)
        woken += sum(world.woken for world in pair.worlds)
        if found := pair.awake + pair.both:
            wrong += 1
            print(f"seed {seed}: {'; '.join(found[:3])}")
    seconds = time.monotonic() - begun
    told = f"{turns} turns, {woken} times woken, {refused} times refused"
    print(f"{len(seeds)} runs of two pools, {steps} steps, {told}")
    print(f"{wrong} runs in which two held memory of one GPU, {seconds:.0f} s")
    blind = _blind(seeds, two_pools.CONTROLS, _is_pair_found)
    return 1 if wrong or blind else 0


if __name__ == "__main__":
    sys.exit(main())
