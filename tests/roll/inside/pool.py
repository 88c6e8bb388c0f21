"""``python -m tests.roll.inside.pool``: a pool whose engines are processes, in the test world.

A process of its own, so that a trainer reaches it as it would a cluster: by the kubeconfig that its
first line names.  It is told what happens to it in JSON, a line each, and answers in the same way;
with the end of its input it ends.
"""

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from sglang_operator.api import names
from sglang_operator.client import slots
from sglang_operator.placement import entry
from sglang_operator.testing import ports
from tests.roll.inside import memory
from tests.unit.client import fake_pool

Json = dict[str, Any]

START_SECONDS = 120.0


class Pool(fake_pool.FakePool):
    """The world; what an engine holds and answers is its process's own affair."""

    def __init__(self, folder: Path, settings: argparse.Namespace) -> None:
        super().__init__(engines=settings.engines, version=settings.version)
        self._folder = folder
        self._settings = settings
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()
        self._lock: int | None = None
        if settings.shared:
            self.memory_saver = True
            self.gpus_per_node, self.awaits_slots = memory.GPUS_PER_NODE, True
            for engine in self.engines:
                engine.state = "Waiting"

    def close(self) -> None:
        """End all engines."""
        self._over.set()
        if self._lock is not None:
            Path(self._lock_path).unlink()
            os.close(self._lock)
        for process in self._processes.values():
            process.kill()
            process.wait()

    def start(self) -> None:
        """All engines' processes, at once; or once the trainer has said which GPUs it has."""
        if self._settings.shared:
            threading.Thread(target=self._join, daemon=True).start()
            return
        for engine in self.engines:
            engine.url = self._run(engine.rank)
        for engine in self.engines:
            self._up(engine)

    def _join(self) -> None:
        needed = {gpu // memory.GPUS_PER_NODE for e in self.engines for gpu in self._devices(e)}
        while not all(names.slot_key(node) in self.slots for node in needed):
            if self._over.wait(0.1):
                return
        # As an engine's container has it, in the folder that it has in common with the trainer.
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        for engine in self.engines:
            engine.url = self._run(engine.rank)
        for engine in self.engines:
            self._up(engine)

        def told() -> None:
            for engine in self.engines:
                engine.state, engine.instance = "Up", f"ffff{engine.rank:04x}"
            self.publish()

        self.call(told)

    @property
    def _lock_path(self) -> str:
        """Of no span that there is."""
        return f"{slots.FOLDER}/{entry.LOCK.format(span=f'tests-{os.getpid()}')}"

    async def _start_engine(self, engine: fake_pool.FakeEngine) -> None:
        if self._settings.shared:
            return
        engine.instance = engine.instance or f"ffff{engine.rank:04x}"

    def _run(self, rank: int) -> str:
        port = ports.free()
        arguments = ["--model-path", self._settings.model, "--port", str(port)]
        arguments += ["--tp-size", str(self._settings.gpus), "--load-format", "dummy"]
        arguments += ["--skip-tokenizer-init", "--mem-fraction-static", "0.7"]
        arguments += self._settings.arguments
        environment = {
            **{key: value for key, value in os.environ.items() if key != "NVIDIA_VISIBLE_DEVICES"},
            "ROLL_LEDGER": str(self.ledger),
            "FAKE_SGLANG_VERSION": self._settings.version,
            "FAKE_SGLANG_TOKEN_SECONDS": str(self._settings.token_seconds),
            "FAKE_SGLANG_GPUS": str(self._settings.gpus),
        }
        if self._settings.shared:
            arguments.append("--enable-memory-saver")
            environment |= self._places(rank)
        with (self._folder / f"engine-{rank}-{port}.log").open("wb") as log:
            self._processes[rank] = subprocess.Popen(
                [sys.executable, "-m", "tests.roll.inside.engine", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return f"http://127.0.0.1:{port}"

    def _places(self, rank: int) -> dict[str, str]:
        """Where an engine is: the GPUs that the trainer has there."""
        found = []
        for gpu in self._devices(self.engines[rank]):
            node_rank, index = divmod(gpu, memory.GPUS_PER_NODE)
            found.append(json.loads(self.slots[names.slot_key(node_rank)])["gpus"][index])
        return {"FAKE_SGLANG_DEVICES": ",".join(found)}

    def _devices(self, engine: fake_pool.FakeEngine) -> list[int]:
        gpus = self._settings.gpus
        first = self._settings.first_id + gpus * engine.rank
        return list(range(first, first + gpus))

    def _up(self, engine: fake_pool.FakeEngine) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._processes[engine.rank].poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{engine.url}/health", timeout=5).close()
                return
            time.sleep(0.1)
        logs = sorted(self._folder.glob(f"engine-{engine.rank}-*.log"))
        raise RuntimeError(f"engine {engine.rank} did not come up:\n{logs[-1].read_text()[-2000:]}")

    @property
    def ledger(self) -> Path:
        """Where every answer is written down."""
        return self._folder / "answers.jsonl"

    # --- what happens to it

    def kill(self, rank: int) -> Json:
        """An engine ends; nobody has told yet."""
        self._processes[rank].kill()
        return {}

    def lose(self, rank: int) -> Json:
        """Its end is told: no engine is there."""

        def told() -> None:
            self.engines[rank].state = "Recovering"
            self.engines[rank].instance = ""
            self.publish()

        self.kill(rank)
        self.call(told)
        return {}

    def replace(self, rank: int) -> Json:
        """Another engine comes in its place, with random weights behind a closed gate."""
        self._restarts += 1
        engine = fake_pool.FakeEngine(rank=rank, instance=f"{self._restarts:04x}{rank:04x}")
        engine.url = self._run(rank)
        self._up(engine)

        def told() -> None:
            self.engines[rank] = engine
            self.publish()

        self.call(told)
        return {}

    def grow_by_one(self) -> Json:
        """One more engine."""
        rank = len(self.engines)
        engine = fake_pool.FakeEngine(rank=rank, instance=f"ffff{rank:04x}")
        engine.url = self._run(rank)
        self._up(engine)

        def told() -> None:
            self.engines.append(engine)
            self.publish()

        self.call(told)
        return {}

    def shrink_by_one(self) -> Json:
        """The last engine goes, as it does where the object asks for fewer."""

        def told() -> None:
            self.engines.pop()
            self.publish()

        self.kill(len(self.engines) - 1)
        self.call(told)
        return {}

    def state_of_all(self) -> Json:
        """What the Lease and the gates say."""
        return {
            "phase": self.state.phase.value,
            "version": self.state.version,
            "gates": [engine.gate for engine in self.engines],
            "puts": len(self.puts),
            "looked": len(self.looked),
        }

    def _entry(self, engine: fake_pool.FakeEngine) -> Json:
        gpus = self._settings.gpus
        told = super()._entry(engine)
        offset = 1 + gpus * engine.rank
        return {**told, "devices": self._devices(engine), "gpus": gpus, "rankOffset": offset}

    def _config_map(self) -> Json:
        found = super()._config_map()
        document = json.loads(found["data"]["engines.json"])
        document["worldSize"] = 1 + self._settings.gpus * len(self.engines)
        found["data"]["engines.json"] = json.dumps(document)
        return found


def kubeconfig(server: str, folder: Path) -> Path:
    """Written into the folder."""
    config = {
        "current-context": "w",
        "contexts": [
            {
                "name": "w",
                "context": {"cluster": "w", "user": "w", "namespace": fake_pool.NAMESPACE},
            }
        ],
        "clusters": [{"name": "w", "cluster": {"server": server}}],
        "users": [{"name": "w", "user": {"token": "t"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


ORDERS = ("kill", "lose", "replace", "grow_by_one", "shrink_by_one", "state_of_all")


def main() -> None:
    """Serve until nobody orders any more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=1, help="of each engine")
    parser.add_argument("--version", default="0.5.7")
    parser.add_argument("--shared", action="store_true", help="they join the trainer on its GPUs")
    parser.add_argument("--first-id", type=int, default=0, help="of device_mapping")
    parser.add_argument("--model", required=True)
    parser.add_argument("--token-seconds", type=float, default=0.002)
    parser.add_argument("arguments", nargs="*", help="of each engine's command line")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="roll-pool-") as scratch:
        pool = Pool(Path(scratch), settings)
        try:
            pool.start()
            with pool:
                where = {"kubeconfig": str(kubeconfig(pool.server, Path(scratch)))}
                _say(where | {"ledger": str(pool.ledger), "folder": scratch})
                for line in sys.stdin:
                    order, *rest = json.loads(line)
                    assert order in ORDERS
                    _say(getattr(pool, order)(*rest))
        finally:
            pool.close()


def _say(answer: Json) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
