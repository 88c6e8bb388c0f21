"""ROLL on a pool of the operator: an InferenceStrategy that attaches instead of starting engines.

Each of ROLL's inference workers stands for the engine of its rank, and sends it the calls that
ROLL's own strategy makes (roll/distributed/strategy/sglang_strategy.py at 8eb27cc2, HTTP mode).
Around them the transaction of explanation/weights.md is kept, without a change in ROLL's pipeline:

- the first bucket of a model update begins it.  Worker 0 takes the Lease and pauses every engine;
  the others wait until it stands in the Lease, and pause their own, before they write a byte.
  They look at the Lease all through the update, and send no bucket once worker 0 has not renewed
  it for most of its duration: by then another trainer may write.
- ``process_weights_after_loading``, which ROLL calls once every bucket has arrived, lets the
  engines go on and commits.
- ``offload_states`` is sleep and ``load_states`` is wake, for the whole pool.  Parts of it cannot
  sleep (ROLL's ``partial_gpu_mode``).

ROLL chooses a strategy by its name, so the name has to be taught to it, in each worker's process::

    from sglang_operator.client import roll
    roll.install()          # strategy_name: sglang now attaches to an operator's pool

``strategy_config`` takes ``pool`` and ``namespace`` beside what the engines were started with.
ROLL forms its process groups once: after a restart of an engine they have to be set up again
(``setup_model_update``), which is what StaleEpoch says.
"""

import asyncio
import logging
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roll.distributed.strategy.strategy import InferenceStrategy  # type: ignore[import-not-found]

from sglang_operator import supervision
from sglang_operator.api.weights import LEASE_SECONDS, Phase, Transaction
from sglang_operator.client import pausing, texts
from sglang_operator.client.calls import Json
from sglang_operator.client.errors import (
    EngineError,
    Expired,
    NotReady,
    PoolError,
    StaleEpoch,
    Unsupported,
)
from sglang_operator.client.lease import MARGIN
from sglang_operator.client.pool import SLEEP_TAGS, AsyncPool
from sglang_operator.client.registry import Engine, Registry
from sglang_operator.client.sync import AsyncSync
from sglang_operator.client.updates import leave_group

log = logging.getLogger(__name__)

DEFAULT_POOL = "actor-infer"
FOLLOW_SECONDS = 60.0  # that worker 0 may take to do its part
LOOK_SECONDS = 3.0  # between two looks at the Lease during an update
_NO_SESSION = "between begin_weight_update() and end_weight_update()"  # SGLang's words
_POLL_SECONDS = 0.05
_READY_SECONDS = 1800.0
_STRATEGY_MODULE = "roll.distributed.strategy.sglang_strategy"


def install() -> None:
    """Make ROLL's ``strategy_name: sglang`` this strategy, in this process.

    ROLL's own module is not imported then, and neither is sglang: its place is taken.
    """
    module = types.ModuleType(_STRATEGY_MODULE)
    module.SgLangStrategy = OperatorPoolStrategy  # type: ignore[attr-defined]
    sys.modules[_STRATEGY_MODULE] = module


class OperatorPoolStrategy(InferenceStrategy):  # type: ignore[misc]
    """One engine of a pool, as ROLL's workers drive it; see the module."""

    strategy_name = "sglang"

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        config = dict(self.worker_config.strategy_args.strategy_config or {})
        self._options = {"namespace": config.get("namespace")}
        self._name = str(config.get("pool") or DEFAULT_POOL)
        self._pool: AsyncPool | None = None
        self._attached: Engine | None = None
        self._sync: AsyncSync | None = None  # worker 0, during a model update
        self._following = ""  # the others: the transaction whose update they take part in
        self._looking: asyncio.Task[None] | None = None  # theirs: at the Lease, during an update
        self._step = 0
        self.is_model_in_gpu = True
        self.is_kv_cache_in_gpu = True

    @property
    def leads(self) -> bool:
        """Whether this worker keeps the transaction for all."""
        return int(self.worker.rank) == 0

    # --- what ROLL's workers call

    async def initialize(self, model_provider: Any = None) -> None:
        """Wait for the pool, and attach to the engine of this worker's rank.

        Raises NotReady if ROLL has not as many workers as the pool engines, Unsupported.
        """
        self._pool = AsyncPool(self._name, **self._options)
        try:
            registry = await self.pool.wait_ready(_READY_SECONDS)
            self._check(registry)
            state = await self.pool.transaction()
        except BaseException:
            await self.pool.close()
            raise
        self._attached = registry.engines[int(self.worker.rank)]
        self._step = _step_of(state.version)
        self._following = state.id
        self.tokenizer = self._tokenizer()

    def _check(self, registry: Registry) -> None:
        if _is_partial(self.worker.pipeline_config):
            raise Unsupported(texts.ROLL_PARTIAL)
        engines = len(registry.engines)
        if int(self.worker.world_size) != engines:
            raise NotReady(texts.ROLL_SIZE.format(workers=self.worker.world_size, engines=engines))

    def _tokenizer(self) -> Any:
        from roll.models.model_providers import (  # type: ignore[import-not-found]
            default_tokenizer_provider,
        )

        return default_tokenizer_provider(model_args=self.worker_config.model_args)

    def get_url(self) -> str | None:
        """Where the engine is."""
        return self.engine.url

    async def setup_collective_group(
        self,
        master_address: str,
        master_port: int,
        rank_offset: int,
        world_size: int,
        group_name: str,
        backend: str | None = None,
    ) -> None:
        """Let the engine join the trainer's process group."""
        engine = await self._attach_again()
        payload = {
            "master_address": master_address,
            "master_port": master_port,
            "rank_offset": rank_offset,
            "world_size": world_size,
            "group_name": group_name,
            "backend": backend or "nccl",
        }
        calls = self.pool.calls
        if self.pool.features(await self.pool.registry()).destroy_group:
            await leave_group(calls.post, engine, group_name)  # of a trainer that is gone
        await calls.post(engine, "/init_weights_update_group", payload, timeout=None)

    async def broadcast_parameter(
        self,
        names: Sequence[str],
        dtypes: Sequence[Any],
        shapes: Sequence[Sequence[int]],
        group_name: str,
        is_lora: bool = False,
    ) -> None:
        """One bucket that the trainer broadcasts meanwhile."""
        assert not is_lora, "ROLL's sglang strategy has no LoRA updates either"
        payload = {
            "names": list(names),
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in dtypes],
            "shapes": [list(shape) for shape in shapes],
            "group_name": group_name,
            "flush_cache": False,
        }
        await self._write("/update_weights_from_distributed", payload)

    async def update_parameter_in_bucket(
        self, serialized_named_tensors: Sequence[str], is_lora: bool = False
    ) -> None:
        """One bucket by CUDA IPC, from trainers on the engine's own GPUs."""
        assert not is_lora, "ROLL's sglang strategy has no LoRA updates either"
        payload = {
            "load_format": "flattened_bucket",
            "flush_cache": False,
            "serialized_named_tensors": list(serialized_named_tensors),
        }
        await self._write("/update_weights_from_tensor", payload)

    async def process_weights_after_loading(self, *_: Any, **__: Any) -> None:
        """Every bucket has arrived everywhere: the engines go on, and the commit opens gates."""
        sync, self._sync = self._sync, None
        await self._stop_looking()
        if sync is not None:
            await sync.finish()
            self._step += 1
        self.is_model_in_gpu = self.is_kv_cache_in_gpu = True

    async def load_states(self, *_: Any, **__: Any) -> None:
        """Wake the pool, if it sleeps."""
        if self.is_model_in_gpu and self.is_kv_cache_in_gpu:
            return
        if self.leads:
            if (await self.pool.transaction()).released:
                await self.pool.wake()
        else:
            await self._until(lambda state: not state.released)
        self.is_model_in_gpu = self.is_kv_cache_in_gpu = True

    async def offload_states(self, include: Any = None, non_blocking: bool = False) -> None:
        """Put the pool to sleep, where ROLL would: its trainer needs the same GPUs' memory."""
        colocated = bool(self.worker.pipeline_config.is_actor_infer_colocated)
        wanted = include is None or "model_params" in str(include)
        if not (colocated and wanted and self.is_model_in_gpu):
            return
        if (await self.pool.registry()).memory_saver is False:
            log.warning(texts.NO_MEMORY_SAVER)
            return
        if self.leads:
            await self.pool.sleep(SLEEP_TAGS)
        else:
            await self._until(lambda state: self.engine.instance in state.asleep)
        self.is_model_in_gpu = self.is_kv_cache_in_gpu = False

    async def generate_request(self, payload: Mapping[str, Any]) -> Json:
        """One request of ROLL's router, answered as its own strategy does."""
        body = {
            key: payload[key]
            for key in ("input_ids", "sampling_params", "rid", "return_logprob")
            if payload.get(key) is not None
        }
        return outputs(await self._generate(body))

    async def generate(self, batch: Any, generation_config: Mapping[str, Any]) -> Any:
        """A batch, left-padded prompts in, prompts and padded answers out (ROLL's DataProto)."""
        import torch
        from roll.utils import functionals  # type: ignore[import-not-found]

        input_ids = batch.batch["input_ids"]
        prompts = functionals.gather_unpadded_input_ids(
            input_ids=input_ids, attention_mask=batch.batch["attention_mask"]
        )
        parameters = sampling(generation_config)
        found = await self._generate({"input_ids": prompts, "sampling_params": parameters})
        answers = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(each["output_ids"], device=input_ids.device) for each in found],
            batch_first=True,
            padding_value=self.tokenizer.pad_token_id,
        )
        return functionals.concatenate_input_and_output(
            input_ids=input_ids, output_ids=answers, num_return_sequences=parameters["n"]
        )

    async def abort_requests(self, request_ids: Sequence[str] | None = None) -> None:
        """End these requests, or all."""
        bodies: list[Json] = (
            [{"abort_all": True}] if request_ids is None else [{"rid": rid} for rid in request_ids]
        )
        for body in bodies:
            await self.pool.calls.post(self.engine, "/abort_request", body)

    async def flush_cache(self) -> None:
        """Forget cached prefixes.  A sync does it by itself."""
        await self.pool.calls.post(self.engine, "/flush_cache", {})

    # --- the engine, and the transaction around it

    @property
    def pool(self) -> AsyncPool:
        assert self._pool is not None, "initialize first"
        return self._pool

    @property
    def engine(self) -> Engine:
        assert self._attached is not None, "initialize first"
        return self._attached

    async def _attach_again(self) -> Engine:
        registry = await self.pool.fresh()
        registry.require_up()
        self._attached = registry.engines[int(self.worker.rank)]
        return self._attached

    async def _write(self, path: str, payload: Json) -> None:
        """Write a bucket into the own engine, within the transaction."""
        if self.leads:
            sync = await self._leading()
            try:
                await sync.call_one(self.engine, path, payload, timeout=None)
            except BaseException as error:
                self._sync = None
                await sync.abort(f"{type(error).__name__}: {error}")
                raise
            return
        await self._follow()
        following = self._following
        deadline = time.monotonic() + FOLLOW_SECONDS
        while True:
            self._fence(following)
            try:
                await self._post(following, path, payload)
                return
            except EngineError as error:
                # Worker 0 opens the session of every engine, where the version has one.
                if _NO_SESSION not in error.said or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_POLL_SECONDS)

    async def _leading(self) -> AsyncSync:
        if self._sync is None:
            await self._same_engine()
            # ROLL runs each call of a worker as a task of its own: none is the body of the sync.
            self._sync = self.pool.sync(f"step-{self._step + 1}", interrupts=False)
            try:
                await self._sync.begin()
                await self._sync.begin_weight_update()
            except BaseException:
                self._sync = None
                raise
        return self._sync

    async def _follow(self) -> None:
        """Before a bucket: the transaction stands in the Lease, and the own engine is paused."""
        state = await self.pool.transaction()
        if state.phase is Phase.SYNCING and state.id == self._following:
            return
        await self._stop_looking()
        await self._same_engine()
        before = self._following

        def begun(state: Transaction) -> bool:
            return state.phase is Phase.SYNCING and state.id != before

        following = (await self._until(begun)).id
        # Worker 0 pauses every engine too, at about this time: to do it twice does no harm.
        features = self.pool.features(await self.pool.registry())
        own, may = [self.engine], lambda: self._over(following) is None
        await pausing.stop(self.pool.calls, own, pausing.ABORT, features, allowed=may)
        self._following = following
        self._looking = asyncio.create_task(self._look(), name="worker 0's Lease")

    async def _look(self) -> None:
        """Keep the age of worker 0's last renewal known."""
        while True:
            try:
                await self.pool.transaction()
            except PoolError:
                pass  # its age tells, before each bucket
            except Exception as error:
                supervision.failed("worker 0's Lease", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _stop_looking(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait({looking})

    async def _post(self, following: str, path: str, payload: Json) -> None:
        """POST to the own engine, unless the transaction is over by the time that it leaves."""

        def may() -> bool:
            return self._over(following) is None

        await self.pool.calls.post(self.engine, path, payload, timeout=None, allowed=may)

    def _fence(self, following: str) -> None:
        """Raises Expired once the transaction is over, or may be."""
        if over := self._over(following):
            raise over

    def _over(self, following: str) -> Expired | None:
        """Why this transaction of worker 0 may be over, by this process's own clock.

        A renewal is seen up to LOOK_SECONDS after it was made.  A process that stood still may
        find that the Lease is fresh, and another's.
        """
        seen = self.pool.lease.seen or Transaction()
        if seen.phase is not Phase.SYNCING or seen.id != following:
            return Expired(texts.ROLL_OVER.format(transaction=following, phase=seen.phase.value))
        age = self.pool.lease.age() + LOOK_SECONDS
        if age > LEASE_SECONDS * MARGIN:
            return Expired(texts.NOT_RENEWED.format(seconds=age, detail=texts.ROLL_LEADER))
        return None

    async def _same_engine(self) -> None:
        """The process group is of the engine that joined it, not of one that came after."""
        registry = await self.pool.fresh()
        now = {engine.engine: engine.instance for engine in registry.engines}
        if now.get(self.engine.engine) != self.engine.instance:
            raise StaleEpoch(texts.ROLL_STALE.format(rank=self.engine.rank))

    async def _until(self, check: Callable[[Transaction], bool]) -> Transaction:
        deadline = time.monotonic() + FOLLOW_SECONDS
        while not check(state := await self.pool.transaction()):
            if time.monotonic() > deadline:
                raise NotReady(texts.ROLL_FOLLOW.format(phase=state.phase.value))
            await asyncio.sleep(_POLL_SECONDS)
        return state

    async def _generate(self, body: Json) -> list[Json]:
        answer: Any = await self.pool.calls.post_any(self.engine, "/generate", body)
        return answer if isinstance(answer, list) else [answer]


# --- forms


def sampling(generation: Mapping[str, Any]) -> Json:
    """ROLL's generating_args as SGLang's sampling parameters (explanation/roll.md)."""
    renamed = {
        "stop_token_ids": generation["eos_token_id"],
        "n": generation["num_return_sequences"],
        "stop": generation.get("stop_strings"),
        "no_stop_trim": generation.get("include_stop_str_in_output", True),
    }
    same = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
    return {**{key: generation[key] for key in same}, **renamed}


def outputs(answers: Sequence[Mapping[str, Any]]) -> Json:
    """Answers of /generate in the form that ROLL's schedulers read."""
    tokens, reasons, logprobs = [], [], []
    for answer in answers:
        about = answer["meta_info"]
        reason = about["finish_reason"]
        reasons.append(reason["type"] if isinstance(reason, Mapping) else reason)
        own = list(answer.get("output_ids") or [])
        chosen = about.get("output_token_logprobs")
        if chosen is not None:
            length = min(len(own), len(chosen))
            own = own[:length]
            logprobs.append([item[0] for item in chosen[:length]])
        tokens.append(own)
    found: Json = {"output_token_ids": tokens, "finish_reasons": reasons}
    if len(logprobs) == len(tokens):
        found["output_logprobs"] = logprobs
    return found


def _is_partial(config: Any) -> bool:
    """Whether ROLL would load and offload parts of the pool (agentic_pipeline.py at 8eb27cc2).

    It does so where the trainer's GPUs lie within the engines'.
    """
    if not getattr(config, "partial_gpu_mode", False):
        return False
    train, infer = (
        set(getattr(getattr(config, role, None), "device_mapping", None) or ())
        for role in ("actor_train", "actor_infer")
    )
    return bool(train) and train < infer


def _step_of(version: str) -> int:
    """The number in a version of ours; 0 for another's."""
    number = version.removeprefix("step-")
    return int(number) if version.startswith("step-") and number.isdecimal() else 0
