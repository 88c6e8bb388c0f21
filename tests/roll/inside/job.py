"""``python -m tests.roll.inside.job NAME SCRATCH``: one job, from ROLL's start script to its end.

A process of its own, as a user starts one: ROLL keeps much in globals of its driver.  It writes
into the scratch folder how it ended, and in which words.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_operator.testing import ports
from tests.roll import flows
from tests.roll.flows import Flow
from tests.roll.inside import standins

ENDED = "ended.json"
_STORE_BYTES = 100_000_000
_CPUS = 8
_LOCAL: dict[str, Any] = {
    "address": "local",
    "num_cpus": _CPUS,
    "object_store_memory": _STORE_BYTES,
    "include_dashboard": False,
}
_START_SECONDS = 120.0  # of Ray's nodes


def main(name: str, scratch: Path) -> dict[str, Any]:
    """Run it, and say what came of it."""
    standins.install()
    os.chdir(scratch)
    return _run(flows.named(name), Path(os.environ["ROLL_SOURCE"]), scratch)


def _run(flow: Flow, source: Path, scratch: Path) -> dict[str, Any]:
    import ray

    from tests.roll.inside import configs

    _hook(flow)
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        config = configs.make(flow, source, scratch)
        if flow.nodes == 1:
            where = {**_LOCAL, "num_gpus": int(os.environ["ROLL_GPUS"])}
        else:
            where = {"address": _start(flow.nodes, nodes)}
        ray.init(
            **where,
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
        for node in nodes:
            node.terminate()
    return {"ended": "right"}


def _start(count: int, started: list["subprocess.Popen[bytes]"]) -> str:
    """Nodes as the page has them started, each with its rank; where the first one is."""
    import ray

    address = f"{standins.NODE}:{ports.free()}"
    for rank in range(count):
        first = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
        command = ["start", "--block", *(first if not rank else [f"--address={address}"])]
        command += [f"--num-gpus={os.environ['ROLL_GPUS']}", f"--num-cpus={_CPUS}"]
        # What two nodes on one machine want beside that.
        command += [f"--node-ip-address={standins.NODE}", f"--object-store-memory={_STORE_BYTES}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        ray_itself = [sys.executable, "-m", "ray.scripts.scripts"]
        environment = {**os.environ, "NODE_RANK": str(rank)}
        started.append(subprocess.Popen([*ray_itself, *command], env=environment))
        _until(lambda: len(_nodes(ray, address)) >= len(started))
    return address


def _nodes(ray: Any, address: str) -> list[Any]:
    try:
        ray.init(address=address, _node_ip_address=standins.NODE, log_to_driver=False)
    except (ConnectionError, RuntimeError, TimeoutError):
        return []
    try:
        return [node for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("Ray's nodes did not come up")
        time.sleep(1)


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
    if flow.rollout and os.environ["ROLL_JOB"] != "0":
        from roll.pipeline.agentic.agentic_rollout_pipeline import AgenticRolloutPipeline

        return AgenticRolloutPipeline
    if flow.pictures:
        from roll.pipeline.rlvr.rlvr_vlm_pipeline import RLVRVLMPipeline

        return RLVRVLMPipeline
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


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    (folder / ENDED).write_text(json.dumps(main(sys.argv[1], folder)))
    os._exit(0)  # threads of ROLL's pipeline may wait for what will not come any more
