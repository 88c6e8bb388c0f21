"""``python -m tests.trainers``: what slime, miles and AReaL do, from checkouts, on fake engines.

The engines are started with the command lines of a pool without GPU ids (manifests/samples/
replicas.yaml), and told to the trainer in the registry's form.  It prints which commit of a trainer
it was, which of its modules were real, what was stood in for, and how each flow ended; the exit
code is 1 if one came out otherwise than the documentation says.  ``--write`` keeps what it saw.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from tests.trainers import report, running
from tests.trainers.running import TRAINERS

ROOT = Path(__file__).parents[2]


def main() -> int:
    """0 if every flow of every checkout that was given came out as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.trainers")
    own = os.environ.get("TRAINERS_PYTHON") or sys.executable
    parser.add_argument("--python", default=own, help="of the trainers' environment")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="what trainers say")
    parser.add_argument("--write", action="store_true", help="keep what was seen")
    for name in TRAINERS:
        variable = f"{name.upper()}_SOURCE"
        default = os.environ.get(variable) or None
        parser.add_argument(f"--{name}", type=Path, default=default, help=f"or ${variable}")
    options = parser.parse_args()
    chosen = [name for name in TRAINERS if getattr(options, name) is not None]
    if not chosen:
        print(running.HOW)
        return 1
    good = True
    for name in chosen:
        with contextlib.ExitStack() as stack:
            try:
                source = stack.enter_context(running.checkout(getattr(options, name), name))
            except ValueError as error:
                print(error)
                return 1
            log = stack.enter_context(options.log.open("a+"))
            run = running.run(name, source, options.python, log)
        print("\n".join(report.lines(run)), flush=True)
        good &= not report.unexpected(run)
        if options.write:
            report.keep(ROOT, run)
            report.write(ROOT)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
