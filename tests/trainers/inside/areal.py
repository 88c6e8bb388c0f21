"""AReaL's own inference engine in SPMD mode: addresses, requests, weight updates."""

import asyncio
import os
import tempfile
import types
from functools import partial
from typing import Any

from tests.trainers.inside import actors, engines, flows, standins

# Trackers, agents, other engines: named at import, and used by no flow here.
ABSENT = """
    PIL aiofiles anthropic cachetools colorlog datasets etcd3 fastapi flask h5py hydra kubernetes
    litellm math_verify mathruler matplotlib mbridge mcp megatron msgspec numba openai peft pynvml
    pydantic_settings seaborn setproctitle sglang starlette swanlab tensorboard tensorboardX
    torchdata trackio trl uvicorn vllm wandb werkzeug zmq
"""
# Of a torch that is newer than the one here may be.
NEWER = (
    ("torch.distributed.checkpoint.staging", "DefaultStager", "StagingOptions"),
    ("torch.distributed.checkpoint.state_dict_saver", "AsyncCheckpointerType", "AsyncSaveResponse"),
)
UNSYNCED = "unsynced"


def run(job: dict[str, Any]) -> None:
    absent = standins.install(*ABSENT.split())
    lacking = {name for each in NEWER for name in standins.lacking(*each)}
    os.environ["AREAL_SPMD_MODE"] = "1"
    os.environ["AREAL_LLM_SERVER_ADDRS"] = job["form"]
    with tempfile.TemporaryDirectory(prefix="areal-names-") as folder:
        areal = _Areal(job, folder)
        rows = flows.run(
            [
                ("finds the engines by AREAL_LLM_SERVER_ADDRS", areal.finds),
                ("a rollout", areal.rolls_out),
                ("weights by its group", areal.updates),
                ("weights from a checkpoint", areal.updates_from_disk),
                ("a gate `Versioned` opens for it", areal.names_versions),
                ("started again while the engines live", areal.starts_again),
            ]
        )
        areal.close()
    flows.tell(rows, "areal", {*absent.names, *lacking, "the trainer's side of an update"})


class _Areal:
    def __init__(self, job: dict[str, Any], folder: str) -> None:
        self._job, self._folder = job, folder
        self._engine: Any = None
        self._updated = False
        self._addresses = [url.removeprefix("http://") for url in job["urls"]]

    def _made(self, **names: str) -> Any:
        from areal.api.cli_args import InferenceEngineConfig, NameResolveConfig
        from areal.engine.sglang_remote import RemoteSGLangEngine
        from areal.utils import name_resolve

        config = NameResolveConfig(type="nfs", nfs_record_root=self._folder)
        name_resolve.reconfigure(config)
        return RemoteSGLangEngine(
            InferenceEngineConfig(setup_timeout=20, request_timeout=30, request_retries=1, **names)
        )

    def finds(self) -> str:
        nameless = self._made()
        unnamed = partial(nameless.initialize, train_data_parallel_size=1)
        flows.refused(unnamed, "No configured inference servers")
        self._engine = self._made(experiment_name="e", trial_name="t")
        self._engine.initialize(train_data_parallel_size=1)
        found = self._engine._engine.addresses
        assert found == self._addresses, found
        return "by rank; it reads the variable only with experiment_name and trial_name set"

    def rolls_out(self) -> str:
        from areal.api import ModelRequest
        from areal.api.cli_args import GenerationHyperparameters

        wanted = GenerationHyperparameters(max_new_tokens=4, max_tokens=64, n_samples=1)
        request = ModelRequest(input_ids=list(actors.TOKENS), gconfig=wanted)
        answer = asyncio.run(self._engine.agenerate(request))
        assert len(answer.output_tokens) == len(answer.output_logprobs) == 4
        return "token ids alone: it needs no tokenizer in the engine"

    def updates(self) -> str:
        self._update("1")
        self._updated = True
        return "in one group over all engines"

    def _update(self, stamp: str) -> None:
        from areal.api import ParamSpec
        from areal.infra import remote_inf_engine as remote

        gpus = [self._job["gpus"]] * len(self._addresses)
        with engines.group(gpus) as (trainer, _):
            meta = self._meta(trainer)
            remote._init_weights_update_group_remote(self._backend, meta, self._addresses, 30)
            self._engine.pause_generation()
            specs = [ParamSpec(name=name, shape=(2,), dtype="bfloat16") for name in engines.NAMES]
            trainer.broadcast(engines.NAMES, stamp)
            send = remote._update_weights_from_distributed
            send(self._backend, meta, specs, self._addresses, 30)
            self._engine.continue_generation()

    @property
    def _backend(self) -> Any:
        return self._engine._engine.backend

    def _meta(self, trainer: Any) -> Any:
        from areal.api import WeightUpdateMeta

        tp, engines_ = self._job["gpus"], len(self._addresses)
        size = types.SimpleNamespace(tp_size=tp, pp_size=1, world_size=tp * engines_)
        return WeightUpdateMeta(
            type="xccl",
            gen_allocation=types.SimpleNamespace(parallel=size),
            nccl_master_address=trainer.host,
            nccl_master_port=trainer.port,
            nccl_group_name="update_weight_group",
        )

    def updates_from_disk(self) -> str:
        from areal.api import WeightUpdateMeta

        meta = WeightUpdateMeta(type="disk", path="/models/step-1")
        (request,) = self._backend.build_disk_weight_update_requests(meta).requests
        assert "load_format" not in request.payload, request.payload
        for url in self._job["urls"]:
            engines.post(url + request.endpoint, request.payload)
        return "it names no load_format, so not with load_format: dummy"

    def names_versions(self) -> str:
        assert self._updated, "it has updated no weights"
        named = {engines.version_of(url) for url in self._job["urls"]}
        assert named == {UNSYNCED}, named
        raise flows.CannotError(
            "after its updates engines name no version: use `weights.gate: Off`"
        )

    def starts_again(self) -> str:
        from areal.infra import remote_inf_engine as remote

        gpus = [self._job["gpus"]] * len(self._addresses)
        with engines.group(gpus) as (trainer, _):
            meta, join = self._meta(trainer), remote._init_weights_update_group_remote
            try:
                join(self._backend, meta, self._addresses, 5)
            except Exception as error:
                assert error is not None
            else:
                raise AssertionError("its group was not refused")
        flows.ask("reset")
        self._update("2")
        return "after `kubectl sglang weights reset`; before, engines refuse its group"

    def close(self) -> None:
        if self._engine is not None:
            self._engine.destroy()
