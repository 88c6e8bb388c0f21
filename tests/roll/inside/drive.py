"""``python -m tests.roll.inside.drive NAME``: one flow, from ROLL's start script to its end.

Prints one line of JSON: how it ended, in which words, and which modules were real.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.roll.flows import FLOWS, Flow
from tests.roll.inside import standins
from tests.roll.inside.stories import Story

_STORE_BYTES = 100_000_000
_CPUS = 8


class Pool:
    """A pool in a process of its own; see ``inside.pool``."""

    def __init__(self, flow: Flow, model: Path) -> None:
        command = [sys.executable, "-m", "tests.roll.inside.pool", "--model", str(model)]
        command += ["--engines", str(flow.engines), "--gpus", str(flow.gpus), *flow.pool]
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
        self._process.wait(30)

    @property
    def kubeconfig(self) -> str:
        return str(self._where["kubeconfig"])

    def answers(self) -> list[dict[str, Any]]:
        """All that its engines generated."""
        ledger = Path(self._where["ledger"])
        return (
            [json.loads(line) for line in ledger.read_text().splitlines()]
            if ledger.exists()
            else []
        )

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


def main(name: str) -> dict[str, Any]:
    """Run it, and say what came of it."""
    (flow,) = [flow for flow in FLOWS if flow.name == name]
    source = Path(os.environ["ROLL_SOURCE"])
    with tempfile.TemporaryDirectory(prefix="roll-flow-") as folder:
        scratch = Path(folder)
        os.environ["ROLL_MODULES"] = str(scratch / "modules")
        os.environ["ROLL_GPUS"] = "8"
        standins.install()
        from tests.roll.inside import configs

        configs.write_model(scratch)
        os.chdir(scratch)
        with Pool(flow, scratch / "model") as pool:
            os.environ["KUBECONFIG"] = pool.kubeconfig
            with Story(flow.story, pool) as story:
                found = _run(flow, source, scratch)
                for _ in range(flow.again if found["ended"] == "right" else 0):
                    found = _run(flow, source, scratch)
            found |= {"answers": _judged(pool), "pool": pool.tell("state_of_all")}
            found |= {"told": story.told, "story_error": story.error}
        found["modules"] = _modules(scratch / "modules")
    return found


def _run(flow: Flow, source: Path, scratch: Path) -> dict[str, Any]:
    import ray

    from tests.roll.inside import configs

    _hook(flow)
    try:
        config = configs.make(flow, source, scratch)
        ray.init(
            address="local",
            num_cpus=_CPUS,
            num_gpus=int(os.environ["ROLL_GPUS"]),
            object_store_memory=_STORE_BYTES,
            include_dashboard=False,
            namespace=_namespace(),
            runtime_env=_variables(),
            _node_ip_address=standins.NODE,
            log_to_driver=bool(os.environ.get("ROLL_LOUD")),
        )
        if flow.begins_only:
            _begin(config)
        else:
            _pipeline(flow)(config).run()
    except Exception as error:
        return {"ended": "raised", "error": _words(error), "trace": traceback.format_exc()[-6000:]}
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
    return {"ended": "right"}


def _begin(config: Any) -> None:
    """What every pipeline does to have its inference workers."""
    from roll.distributed.executor.cluster import Cluster
    from roll.distributed.scheduler.resource_manager import ResourceManager

    role = config.actor_infer
    cluster = Cluster(
        name=role.name,
        worker_cls=role.worker_cls,
        resource_manager=ResourceManager(
            num_nodes=config.num_nodes, num_gpus_per_node=config.num_gpus_per_node
        ),
        worker_config=role,
    )
    cluster.initialize(pipeline_config=config, blocking=True)


def _pipeline(flow: Flow) -> Any:
    if flow.agentic:
        from roll.pipeline.agentic.agentic_pipeline import AgenticPipeline

        return AgenticPipeline
    from roll.pipeline.rlvr.rlvr_pipeline import RLVRPipeline

    return RLVRPipeline


def _hook(flow: Flow) -> None:
    """What the page tells a job to start with (how-to/roll.md), where Ray looks for it."""
    if flow.hook:
        job = {"runtime_env": {"worker_process_setup_hook": flow.hook}}
        os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(job)


def _variables() -> dict[str, Any]:
    """As ROLL's ``init`` gives them to Ray."""
    from roll.platforms import current_platform

    return {"env_vars": current_platform.get_custom_env_vars()}


def _namespace() -> str:
    from roll.utils.constants import RAY_NAMESPACE

    return str(RAY_NAMESPACE)


def _words(error: BaseException) -> str:
    """What was raised first, without Ray's wrapping."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"


def _judged(pool: Pool) -> dict[str, int]:
    """How many answers came from the weights of the version that they name, and how many not.

    A version is of the model update whose weights the first answer came from that names it.
    """
    update: dict[str, str] = {}
    counted: Counter[str] = Counter()
    for answer in pool.answers():
        if not answer["tokens"]:
            counted["aborted"] += 1
            continue
        whole = answer["state"] == "whole" and answer["version"].startswith("step-")
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
    result = main(sys.argv[1])
    print("RESULT " + json.dumps(result), flush=True)
    os._exit(0)  # threads of ROLL's pipeline may wait for what will not come any more
