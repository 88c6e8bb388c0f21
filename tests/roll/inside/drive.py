"""``python -m tests.roll.inside.drive NAME``: one flow, from ROLL's start script to its end.

Prints one line of JSON: how it ended, in which words, and which modules were real.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.roll import flows
from tests.roll.flows import Flow
from tests.roll.inside import configs, job, memory
from tests.roll.inside.stories import Story

_END_SECONDS = 60.0


class Pool:
    """A pool in a process of its own; see ``inside.pool`` and ``tests.roll.plane``."""

    def __init__(self, flow: Flow, scratch: Path) -> None:
        python, module = sys.executable, "tests.roll.inside.pool"
        first = str(min(flow.ids["actor_infer"]))
        more = [*(["--shared", "--first-id", first] if flow.shared else []), *flow.pool]
        if flow.plane:
            python, module = os.environ["ROLL_OWN_PYTHON"], "tests.roll.plane"
            more = ["--packages", sysconfig.get_path("purelib"), *_libraries()]
            more += ["--pipeline", str(_pipeline(flow, scratch))]
            more += ["--shared"] if flow.shared else []
        command = [python, "-m", module, "--model", str(scratch / "model")]
        command += ["--engines", str(flow.engines), "--gpus", str(flow.gpus), *more]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._one = threading.Lock()
        self._where = self._answer()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def kubeconfig(self) -> str:
        return str(self._where["kubeconfig"])

    @property
    def variables(self) -> dict[str, str]:
        """Of ROLL's processes, beside that."""
        return dict(self._where.get("variables", {}))

    @property
    def way_in(self) -> list[str]:
        """What a command line begins with, for a program in the network of its engines."""
        if not (network := self._where.get("network")):
            return []
        enter = ["nsenter", f"--net={network}", "--"]
        if shm := self._where.get("shm"):  # as a pod: processes, and the folder at /dev/shm
            enter += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
            enter += ["sh", "-c", 'mount --bind "$0" /dev/shm && exec "$@"', str(shm)]
        return enter

    def answers(self) -> list[dict[str, Any]]:
        """All that its engines generated."""
        if self.way_in:
            self.tell("collect")
        ledger = Path(self._where["ledger"])
        return (
            [json.loads(line) for line in ledger.read_text().splitlines()]
            if ledger.exists()
            else []
        )

    def memory(self) -> list[str]:
        """What its engines said of their memory, where they have no ledger."""
        return _lines(Path(self._where["folder"]) / "memory.jsonl")

    def tell(self, *order: Any) -> dict[str, Any]:
        """Have something happen to it."""
        assert self._process.stdin is not None
        with self._one:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the pool has ended")
        found: dict[str, Any] = json.loads(line)
        return found


def _pipeline(flow: Flow, scratch: Path) -> Path:
    """ROLL's file, for whoever makes a pool of it."""
    path = scratch / "pipeline.yaml"
    found = configs.small(flow, Path(os.environ["ROLL_SOURCE"]), scratch)
    path.write_text(yaml.safe_dump(found, allow_unicode=True))
    return path


def _libraries() -> list[str]:
    """Where this machine has the C++ that torch is linked against."""
    told = subprocess.run(
        ["ldd", str(Path(_torch(), "lib/libtorch_cpu.so"))], capture_output=True, text=True
    ).stdout
    (found,) = {line.split()[2] for line in told.splitlines() if "libstdc++.so" in line}
    return ["--libraries", str(Path(found).parent)]


def _torch() -> Path:
    """The package, without an import of it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


class Jobs:
    """ROLL's jobs, one after the other; see ``inside.job``."""

    def __init__(self, flow: Flow, scratch: Path, way_in: Sequence[str] = ()) -> None:
        self._flow = flow
        self._scratch = scratch
        self._way_in = way_in
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0

    def run(self) -> dict[str, Any]:
        """One of them, from its start to its end."""
        ended = self._scratch / job.ENDED
        ended.unlink(missing_ok=True)
        command = [*self._way_in, sys.executable, "-m", "tests.roll.inside.job"]
        environment = {**os.environ, "ROLL_JOB": str(self._begun)}
        self._process = subprocess.Popen(
            [*command, self._flow.name, str(self._scratch)], env=environment
        )
        self._begun += 1
        try:
            code = self._process.wait()
        finally:
            self.kill()
        if not ended.exists():
            return {"ended": "killed" if code == -signal.SIGKILL else "lost", "error": f"{code=}"}
        found: dict[str, Any] = json.loads(ended.read_text())
        return found

    def kill(self) -> None:
        """End it, with Ray's processes: they follow their driver."""
        assert self._process is not None
        self._process.kill()


def main(name: str) -> dict[str, Any]:
    """Run it, and say what came of it."""
    flow = flows.named(name)
    with tempfile.TemporaryDirectory(prefix="roll-flow-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        os.environ["ROLL_MODULES"] = str(scratch / "modules")
        os.environ["ROLL_GPUS"] = str(memory.GPUS_PER_NODE)
        os.environ[memory.LEDGER] = str(scratch / "memory.jsonl")
        configs.write_model(flow, scratch)
        with Pool(flow, scratch) as pool:
            os.environ |= {"KUBECONFIG": pool.kubeconfig, **_of_a_pod(flow), **pool.variables}
            jobs = Jobs(flow, scratch, pool.way_in)
            with Story(flow.story, pool, jobs) as story:
                for _ in range(1 + flow.again):
                    found = jobs.run()
                    if found["ended"] not in ("right", "killed"):
                        break
            found |= {"answers": _judged(flow, pool), "pool": pool.tell("state_of_all")}
            lines = _lines(scratch / "memory.jsonl") + pool.memory()
            found |= {"told": story.told, "story_error": story.error}
        if flow.shared:
            found["memory"] = memory.counted(lines)
        found["modules"] = _modules(scratch / "modules")
    return found


def _of_a_pod(flow: Flow) -> dict[str, str]:
    """What the trainer's pod has where engines join it, SGLang's classes for weights included."""
    if not flow.shared:
        return {}
    path = (os.environ["PYTHONPATH"], str(Path(__file__).parent / "trainer_image"))
    return {**memory.pod(0), "PYTHONPATH": os.pathsep.join(path)}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _judged(flow: Flow, pool: Pool) -> dict[str, int]:
    """How many answers came from the weights of the version that they name, and how many not.

    A version is of the model update whose weights the first answer came from that names it.  An
    answer to a prompt whose picture the engine never got is none of the right ones either.
    """
    update: dict[str, str] = {}
    counted: Counter[str] = Counter()
    for answer in pool.answers():
        if not answer["tokens"]:
            counted["aborted"] += 1
            continue
        whole = answer["state"] == "whole" and answer["version"].startswith("step-")
        whole &= bool(answer["pictures"]) == flow.pictures
        first = update.setdefault(answer["version"], answer["stamp"])
        counted["right" if whole and first == answer["stamp"] else "wrong"] += 1
    if len(set(update.values())) < len(update):  # an update that changed nothing
        counted["wrong"] += 1
    return dict(counted)


def _modules(path: Path) -> dict[str, str]:
    """Origin by name; a stand-in in any process is one."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, origin = line.split("\t")
        if found.get(name) != "stand-in":
            found[name] = origin
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with all that it started
    print("RESULT " + json.dumps(main(sys.argv[1])), flush=True)
