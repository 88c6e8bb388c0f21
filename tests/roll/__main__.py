"""``python -m tests.roll``: ROLL's own pipelines, from its own examples, on a pool.

It prints which commit of ROLL it was, which of its modules were real and which were stood in for,
and of each flow how it ended; the exit code is 1 if one came out otherwise than it should: right,
refused at the start in words, or, where its pool was taken away, with an error that says so.  One
flow is run on a real control plane, with containers for engines, where there can be any.
``--write`` keeps what was seen: the table of the documentation, and ROLL's interface for the tests
that have no checkout.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sglang_operator.testing.realnode import requirements
from tests.roll import interface, report
from tests.roll.flows import FLOWS, Flow, left_out
from tests.roll.source import HOW, Source, checkout
from tests.trainers import report as of_all

ROOT = Path(__file__).parents[2]
SECONDS = 900.0  # for one flow, unless --seconds says otherwise: on a busy machine it takes more
END_SECONDS = 60.0  # that it then may take to end what it started
# Ray and torch, kept small and on the loopback.
QUIET = {
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",  # Ray: 15, so that all else on a machine goes first
    "TOKENIZERS_PARALLELISM": "false",
}


def main() -> int:
    """0 if every flow came out as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.roll")
    parser.add_argument("--source", type=Path, default=os.environ.get("ROLL_SOURCE") or None)
    parser.add_argument("--python", required=True, help="of the environment of ROLL")
    parser.add_argument("--only", default="", help="flows whose names contain this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one flow")
    parser.add_argument("--write", action="store_true", help="keep what was seen")
    parser.add_argument("--logs", type=Path, help="a folder to keep what the flows printed")
    options = parser.parse_args()
    if options.source is None:
        print(HOW)
        return 1
    try:
        with checkout(options.source) as source:
            return _all(options, source)
    except ValueError as error:
        print(error)
        return 1


def _all(options: argparse.Namespace, source: Source) -> int:
    print(f"ROLL {source.commit}", flush=True)
    chosen = [flow for flow in FLOWS if options.only in flow.name]
    reason = requirements.missing()
    for flow in [flow for flow in chosen if flow.plane and reason]:
        print(f"   not run  {flow.name}: {reason}", flush=True)
        chosen.remove(flow)
    outcomes = []
    for flow in chosen:
        begun = time.monotonic()
        outcomes.append(outcome := report.judge(flow, _run(options, flow, source)))
        print(f"{time.monotonic() - begun:6.0f} s  {flow.name}: {outcome.result}", flush=True)
        if options.write:  # at once: a run takes long, and may be ended
            report.write(ROOT, source.commit, outcomes, interface.read(source.path))
            of_all.write(ROOT)
    print("\n".join(report.lines(source.commit, outcomes)))
    if unread := left_out(source.path / "examples"):
        print(f"\n  FAIL no flow is made of these examples for SGLang: {', '.join(unread)}")
    return 0 if all(outcome.good for outcome in outcomes) and not unread else 1


def _run(options: argparse.Namespace, flow: Flow, source: Source) -> dict[str, Any]:
    """What the driver printed; an error of its own if it printed nothing."""
    with tempfile.TemporaryDirectory(prefix="roll-run-") as scratch:
        folder = options.logs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        command = [options.python, "-m", "tests.roll.inside.drive", flow.name]
        with (folder / f"{flow.name}.log").open("w+") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(source),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            cut = ""
            try:
                process.wait(options.seconds)
            except subprocess.TimeoutExpired:
                cut = f"ended after {options.seconds:.0f} s (--seconds); the last that it said: "
            finally:
                _end(process)
            log.seek(0)
            said = log.read()
    for line in said.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return found
    return {"ended": "lost", "error": cut + said[-2000:], "modules": {}, "answers": {}}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it started, which is in its session; other flows come after it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(source: Source) -> dict[str, str]:
    ours = [ROOT / "operator", ROOT / "operator/testkit", ROOT]
    path = [ROOT / "tests/roll/inside/site", *ours, source.path]
    also = os.environ.get("ROLL_PATH", "")  # packages that the environment lacks
    return {
        **os.environ,
        **QUIET,
        "PYTHONPATH": os.pathsep.join([*map(str, path), *([also] if also else [])]),
        "ROLL_SOURCE": str(source.path),
        "ROLL_OWN_PYTHON": sys.executable,  # the project's, for what needs a control plane
    }


if __name__ == "__main__":
    sys.exit(main())
