"""``python -m tests.proof [VERSION...]``: the whole proof, with its counts (some minutes).

Every argument with every value that SGLang's annotations and choices allow, every argument with
a value of every form, ROLL's examples, and random configurations.
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable

from generators.schema.sglang import SGLang, opened
from sglang_operator.api import errors
from sglang_operator.engine.schemas import index
from tests.proof import cases, together
from tests.proof.judge import ACCEPTED, Disproved, judge
from tests.proof.oracle import Case

_SHOWN_FAILURES = 5


def main(argv: list[str]) -> int:
    """Print a line for each version and kind; 1 if a single case comes out otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("version", nargs="*", default=index.VERSIONS)
    parser.add_argument(
        "--count", type=int, default=2000, help="random configurations of each that are accepted"
    )
    parser.add_argument("--together", type=int, default=2000, help="random command lines of each")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    total: Counter[str] = Counter()
    for version in given.version:
        sglang = opened(version)
        kinds = {
            "one argument": cases.singles(sglang),
            "any form": cases.anything(sglang),
            "other versions": cases.foreign(sglang, map(opened, index.VERSIONS)),
            "ROLL's examples": cases.examples(sglang),
            "random": cases.chance(sglang, given.seed),
        }
        for kind, found in kinds.items():
            total += _run(sglang, kind, found, given.count if kind == "random" else None)
        total += _together(sglang, given.seed, given.together)
    _report(total)
    return 1 if total["disproved"] else 0


def _run(sglang: SGLang, kind: str, found: Iterable[Case], most: int | None) -> Counter[str]:
    """Judge the cases, or the first of them until so many are accepted."""
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    for case in found:
        if most is not None and counts[ACCEPTED] >= most:
            break
        counts["cases"] += 1
        try:
            verdict = judge(sglang, case)
        except Disproved as error:
            counts["disproved"] += 1
            if counts["disproved"] <= _SHOWN_FAILURES:
                print(f"  {error}")
            continue
        counts[ACCEPTED if verdict == ACCEPTED else "refused"] += 1
        if verdict != ACCEPTED:
            counts.update(verdict.split())
    seconds = time.monotonic() - begun
    print(
        f"{sglang.version:13} {kind:16} {counts['cases']:6} cases: {counts[ACCEPTED]:6} accepted, "
        f"{counts['refused']:6} refused, {counts['disproved']:3} disproved  ({seconds:.1f} s)"
    )
    return counts


def _together(sglang: SGLang, seed: int, count: int) -> Counter[str]:
    """Judge so many random command lines by the version's own check of arguments together."""
    counts: Counter[str] = Counter(cases=count)
    for case in itertools.islice(together.chance(sglang, seed), count):
        try:
            counts[together.judge(sglang, case)] += 1
        except Disproved as error:
            counts["disproved"] += 1
            print(f"  {error}")
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    print(f"{sglang.version:13} together         {told}")
    return counts


def _report(total: Counter[str]) -> None:
    print(f"all: {total['cases']} cases, {total['disproved']} disproved; refused by")
    for name, row in errors.rows():
        if total[name]:
            print(f"  {name:24} {total[name]:6}  {row.authority}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
