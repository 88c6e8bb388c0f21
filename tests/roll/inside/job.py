"""``python -m tests.roll.inside.job NAME SCRATCH``: one job, from ROLL's start script to its end.

A process of its own, as a user starts one: ROLL keeps much in globals of its driver.  It writes
into the scratch folder how it ended, and in which words.
"""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.roll import flows
from tests.roll.flows import Flow
from tests.roll.inside import standins

ENDED = "ended.json"
_STORE_BYTES = 100_000_000
_CPUS = 8


def main(name: str, scratch: Path) -> dict[str, Any]:
    """Run it, and say what came of it."""
    standins.install()
    os.chdir(scratch)
    return _run(flows.named(name), Path(os.environ["ROLL_SOURCE"]), scratch)


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


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    (folder / ENDED).write_text(json.dumps(main(sys.argv[1], folder)))
    os._exit(0)  # threads of ROLL's pipeline may wait for what will not come any more
