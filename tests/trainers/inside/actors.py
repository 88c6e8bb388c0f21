"""slime and miles: engine actors of one family, without Ray around them."""

import asyncio
from argparse import Namespace
from functools import partial
from types import ModuleType
from typing import Any

from tests.trainers.inside import engines, flows

TOKENS = (5, 6, 7)
TAKEN = "The specified group name has already been created"


class Tokenizer:
    """As much of one as a rollout asks for: no model is downloaded."""

    def encode(self, text: str, **_: object) -> list[int]:
        return list(TOKENS)


class Actors:
    """A trainer's engine actors, one for each engine of the pool, in the order of the ranks."""

    group = ""
    sessions = False  # whether it brackets an update, as SGLang from 0.5.21 wants it

    def __init__(self, job: dict[str, Any], router: tuple[str, int], args: Namespace) -> None:
        self.job, self.router, self.args = job, router, args
        self.engines: list[Any] = []
        self.gpus = [int(job["gpus"])] * len(job["urls"])

    def update(self, version: str) -> None:
        """A group, a pause, two buckets with a version, and on."""
        with engines.group(self.gpus) as (trainer, offsets):
            self.join(trainer, offsets)
            for engine in self.engines:
                engine.pause_generation()
                engine.flush_cache()
                if self.sessions:
                    engine.begin_weight_update()
            half = len(engines.NAMES) // 2
            for names in (engines.NAMES[:half], engines.NAMES[half:]):
                trainer.broadcast(names, version)
                engines.at_once([self._bucket(each, names, version) for each in self.engines])
            for engine in self.engines:
                if self.sessions:
                    engine.end_weight_update()
                engine.continue_generation()

    def _bucket(self, engine: Any, names: list[str], version: str) -> Any:
        dtypes, shapes = ["torch.bfloat16"] * len(names), [[2]] * len(names)

        def send() -> None:
            engine.update_weights_from_distributed(
                names, dtypes, shapes, self.group, weight_version=version
            )

        return send

    def join(self, trainer: Any, offsets: list[int]) -> None:
        """All engines at once, as the trainer does; it waits for them as rank 0."""
        where, how = (trainer.host, trainer.port), (trainer.world_size, self.group, "nccl")
        engines.at_once(
            [
                partial(engine.init_weights_update_group, *where, offset, *how)
                for engine, offset in zip(self.engines, offsets, strict=True)
            ]
        )

    def updates(self) -> str:
        self.update("1")
        named = {engines.version_of(url) for url in self.job["urls"]}
        assert named == {"1"}, named
        return "all engines name the version, from the first bucket on"

    def refused_again(self) -> None:
        """A trainer that was started again meets the group of its earlier life."""
        with engines.group(self.gpus) as (trainer, offsets):
            flows.refused(lambda: self.join(trainer, offsets), TAKEN)

    def without_a_tokenizer(self, rollout: ModuleType, http: ModuleType, sample: Any) -> str:
        host, port = self.job["skipping"].removeprefix("http://").split(":")
        args = Namespace(**{**vars(self.args), "sglang_router_ip": host})
        args.sglang_router_port = int(port)
        key = flows.refused(lambda: roll(args, rollout, http, sample), "text")
        raise flows.CannotError(f"the rollout ends with KeyError '{key}'")


def roll(args: Namespace, rollout: ModuleType, http: ModuleType, sample: Any) -> str:
    """The trainer's own rollout of one sample: its text."""
    rollout.load_tokenizer = lambda *_, **__: Tokenizer()  # type: ignore[attr-defined]
    rollout.load_processor = lambda *_, **__: None  # type: ignore[attr-defined]
    http._http_client = None  # type: ignore[attr-defined]  # it is of another loop
    http.init_http_client(args)
    parameters = {"max_new_tokens": 4, "temperature": 1.0}
    done = asyncio.run(rollout.generate(args, sample, parameters))
    assert done.response_length > 0
    assert len(done.tokens) == len(TOKENS) + done.response_length, done.tokens
    assert done.response, "no text"
    return f"{done.response_length} tokens and their text"


def arguments(job: dict[str, Any], router: tuple[str, int], **more: object) -> Namespace:
    """What both read of their command lines in these flows."""
    values: dict[str, object] = {
        "rollout_external_engine_addrs": job["form"].split(),
        "rollout_external": True,
        "sglang_router_ip": router[0],
        "sglang_router_port": router[1],
        "hf_checkpoint": job["model"],
        "seed": 42,
        "rollout_num_gpus": sum([job["gpus"]] * len(job["urls"])),
        "rollout_num_gpus_per_engine": job["gpus"],
        "sglang_server_concurrency": 8,
        "sglang_router_policy": None,
        "sglang_speculative_algorithm": None,
        "rollout_temperature": 1.0,
        "rollout_top_p": 1.0,
        "rollout_top_k": -1,
        "rollout_max_response_len": 8,
        "rollout_skip_special_tokens": True,
        "rollout_seed": 42,
        "n_samples_per_prompt": 1,
        **dict.fromkeys(("sglang_dp_size", "sglang_pp_size", "sglang_ep_size"), 1),
        **dict.fromkeys(("rollout_stop", "rollout_stop_token_ids", "router_policy"), None),
        **dict.fromkeys(("offload_rollout", "use_rollout_routing_replay", "fp16"), False),
        **dict.fromkeys(("ci_test", "use_distributed_post", "partial_rollout"), False),
        **dict.fromkeys(("debug_train_only", "debug_rollout_only", "colocate"), False),
        "eval_num_gpus": 0,
    }
    return Namespace(**{**values, **more})
