"""slime's own discovery, engine actor, router registration, rollout and weight calls."""

from typing import Any

from tests.trainers.inside import actors, engines, flows, standins


def run(job: dict[str, Any]) -> None:
    given = {"sglang.srt.server_args": {"ServerArgs": standins.server_args(job["fields"])}}
    absent = standins.install("sglang", "wandb", "megatron", "PIL", "polars", given=given)
    with engines.router() as router:
        slime = Slime(job, router, actors.arguments(job, router, num_gpus_per_node=8))
        rows = flows.run(
            [
                ("finds the engines by the registry's form", slime.discovers),
                ("its engine actors attach, and register with its router", slime.attaches),
                ("a rollout through the router", slime.rolls_out),
                ("weights by its group, a version with each bucket", slime.updates),
                ("started again while the engines live", slime.starts_again),
                ("a pool that leaves skip_tokenizer_init out", slime.on_ids_alone),
            ]
        )
    stood_in = {*absent.names, "the tokenizer", "the accelerator", "Megatron's side of an update"}
    flows.tell(rows, "slime", stood_in)


class Slime(actors.Actors):
    group = "slime-pp_0"

    def discovers(self) -> str:
        from slime.backends.sglang_utils import external

        external.apply_external_engine_info_to_args(self.args)
        infos = external.external_engine_infos_from_args(self.args)
        assert [info.url for info in infos] == self.job["urls"], "in the order of the ranks"
        assert {info.worker_type for info in infos} == {"regular"}
        assert [info.num_gpus for info in infos] == self.gpus
        return f"{len(infos)} engines of {self.gpus[0]} GPUs, by rank"

    def attaches(self) -> str:
        self.engines = self._attached()
        found = engines.workers(self.router, len(self.engines))
        assert found == sorted(self.job["urls"]), found
        return "all are in the router"

    def _attached(self) -> list[Any]:
        from slime.backends.sglang_utils import external
        from slime.backends.sglang_utils.sglang_engine import SGLangEngine
        from slime.utils import accelerator

        accelerator.resolve_visible_device_id = int  # of the trainer's GPUs, which are none here
        attached = []
        for rank, info in enumerate(external.external_engine_infos_from_args(self.args)):
            engine = SGLangEngine(
                self.args,
                rank=rank,
                worker_type=info.worker_type,
                base_gpu_id=0,
                num_gpus_per_engine=info.num_gpus,
            )
            where = external.external_engine_init_kwargs(info)
            engine.init(**where, router_ip=self.router[0], router_port=self.router[1])
            attached.append(engine)
        return attached

    def rolls_out(self) -> str:
        from slime.rollout import sglang_rollout
        from slime.utils import http_utils

        return actors.roll(self.args, sglang_rollout, http_utils, _sample())

    def starts_again(self) -> str:
        self.engines = self._attached()
        self.refused_again()
        flows.ask("reset")
        self.update("2")
        return "after `kubectl sglang weights reset`; before, engines refuse its group"

    def on_ids_alone(self) -> str:
        from slime.rollout import sglang_rollout
        from slime.utils import http_utils

        return self.without_a_tokenizer(sglang_rollout, http_utils, _sample())


def _sample() -> Any:
    from slime.utils.types import Sample

    return Sample(index=0, prompt="hello")
