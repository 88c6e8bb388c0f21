"""miles' own placement, engine actor, rollout and weight calls."""

from typing import Any

from tests.trainers.inside import actors, engines, flows, standins


def run(job: dict[str, Any]) -> None:
    given = {"sglang.srt.server_args": {"ServerArgs": standins.server_args(job["fields"])}}
    absent = standins.install("sglang", "wandb", "megatron", "PIL", "polars", given=given)
    with engines.router() as router:
        # Where a node has as many GPUs as an engine, each engine's begin at 0, as in its pod.
        own = {"num_gpus_per_node": job["gpus"], "actor_num_gpus_per_node": job["gpus"]}
        args = actors.arguments(job, router, **own, actor_num_nodes=1, chat_template_path=None)
        args.lora_rank, args.lora_adapter_path = 0, None
        args.use_rollout_indexer_replay = args.use_miles_router = args.env_report = False
        miles = Miles(job, router, args)
        rows = flows.run(
            [
                ("its manager starts actors for external engines", miles.starts),
                ("its engine actor attaches, by --host and base_gpu_id", miles.attaches),
                ("a rollout through a router that was given the engines", miles.rolls_out),
                ("weights by its group, a version with each bucket", miles.updates),
                ("started again while the engines live", miles.starts_again),
                ("a pool that leaves skip_tokenizer_init out", miles.on_ids_alone),
            ]
        )
    stood_in = {*absent.names, "the tokenizer", "Megatron's side of an update"}
    flows.tell(rows, "miles", stood_in)


class Miles(actors.Actors):
    group = "miles-pp_0"
    sessions = True

    def starts(self) -> str:
        """As the manager does it: engines are placed on GPUs behind those of the actors."""
        from miles.ray import placement_group
        from miles.ray.rollout.server_engine import ServerEngine
        from miles.ray.rollout.server_group import ServerGroup

        gpus, offset = placement_group._get_placement_group_layout(self.args)
        ids = list(range(gpus))[offset:]
        group = ServerGroup(
            args=self.args,
            pg=(None, ids, ids),
            all_engines=[ServerEngine() for _ in self.gpus],
            num_gpus_per_engine=self.gpus[0],
            has_new_engines=False,
        )
        words = flows.refused(lambda: group.start_engines(None), "list index out of range")
        raise flows.CannotError(
            f"its placement has {gpus} GPUs, of which it leaves none to external engines: {words}"
        )

    def attaches(self) -> str:
        self.engines = self._attached(0)
        words = "name='base_gpu_id' expect_value=2 actual_value=0"
        flows.refused(lambda: self._attached(2), words)
        assert not engines.workers(self.router, 0), "it registers nobody"
        return "with base_gpu_id 0; it registers external engines with no router"

    def _attached(self, gpu: int) -> list[Any]:
        from miles.backends.sglang_utils.sglang_engine import SGLangEngine
        from miles.ray.rollout import addr_allocator

        ranks = [(rank, None) for rank in range(len(self.gpus))]
        where = addr_allocator.allocate_rollout_engine_addr_and_ports_external(self.args, ranks)
        attached = []
        for rank, gpus in enumerate(self.gpus):
            engine = SGLangEngine(self.args, rank, base_gpu_id=gpu, num_gpus_per_engine=gpus)
            engine.init(**where[rank], router_ip=self.router[0], router_port=self.router[1])
            attached.append(engine)
        return attached

    def rolls_out(self) -> str:
        from miles.rollout import sglang_rollout
        from miles.utils import http_utils

        for url in self.job["urls"]:
            engines.post(f"http://{self.router[0]}:{self.router[1]}/workers", {"url": url})
        assert len(engines.workers(self.router, len(self.gpus))) == len(self.gpus)
        return actors.roll(self.args, sglang_rollout, http_utils, _sample())

    def starts_again(self) -> str:
        self.engines = self._attached(0)
        self.refused_again()
        for engine in self.engines:  # as its updater does before it connects
            engine.destroy_weights_update_group(self.group)
        self.update("2")
        return "it leaves its group before it joins, without a reset"

    def on_ids_alone(self) -> str:
        from miles.rollout import sglang_rollout
        from miles.utils import http_utils

        return self.without_a_tokenizer(sglang_rollout, http_utils, _sample())


def _sample() -> Any:
    from miles.utils.types import Sample

    return Sample(index=0, prompt="hello")
