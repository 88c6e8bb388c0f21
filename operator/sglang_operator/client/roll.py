"""ROLL on a pool of the operator: an InferenceStrategy that attaches instead of starting engines.

Each of ROLL's inference workers stands for the engine of its rank, and sends it the calls that
ROLL's own strategy makes (roll/distributed/strategy/sglang_strategy.py at 8eb27cc2, HTTP mode).
Around them the transaction of explanation/weights.md is kept, without a change in ROLL's pipeline:

- the first bucket of a model update begins it.  Worker 0 takes the Lease, for the engines that
  joined ROLL's process groups (``shared``); the others wait until that stands in the Lease
  (``following``).  Each pauses its own engine before it writes a byte.
- ``process_weights_after_loading``, which ROLL calls once every bucket has arrived, lets the
  engines go on and commits, as soon as every worker has vouched for its engine.
- ``offload_states`` is sleep and ``load_states`` is wake, for the whole pool; ``offload_part`` and
  ``load_part`` are for the engines of some ranks, where ROLL shrinks and expands (``roll_memory``).
- a request whose engine ends is answered by another one of the same policy (``roll_requests``).
- what no engine can do for ROLL's config is refused before anything begins (``roll_config``).
- engines on the trainer's GPUs are where ROLL places their workers (``roll_places``).

ROLL chooses a strategy by its name: ``roll_worker`` and ``roll_stand_in`` teach it that name.
``strategy_config`` takes ``pool`` and ``namespace`` beside what the engines were started with.
ROLL forms its process groups once: after a restart of an engine they have to be set up again, which
StaleEpoch says and ``roll_updates`` does.  An engine that came has no worker, and stays closed.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from roll.distributed.strategy.strategy import InferenceStrategy  # type: ignore[import-not-found]

from sglang_operator.client import colocated, groups, job, roll_config, texts
from sglang_operator.client.calls import Json
from sglang_operator.client.entered import entered
from sglang_operator.client.errors import (
    NotReady,
    StaleEpoch,
    Unsupported,
    told,
)
from sglang_operator.client.following import Bucket, Follower
from sglang_operator.client.ledger import Asked
from sglang_operator.client.pausing import SyncOptions
from sglang_operator.client.pool import AsyncPool
from sglang_operator.client.registry import Engine, Registry, changes
from sglang_operator.client.roll_groups import HELD_SECONDS, READY_SECONDS, RollGroups
from sglang_operator.client.roll_memory import RollMemory
from sglang_operator.client.roll_payloads import body, unfinished, with_experts
from sglang_operator.client.roll_places import TENSORS, RollPlaces
from sglang_operator.client.roll_requests import Requests
from sglang_operator.client.roll_stand_in import (
    create_sampling_params_for_sglang,
    install,
    postprocess_generate,
)
from sglang_operator.client.shared import SharedSync
from sglang_operator.clocks import steady

__all__ = ["OperatorPoolStrategy", "install"]

_LATELY_SECONDS = 30.0  # from the look at the engines to the first bucket

log = logging.getLogger(__name__)


class OperatorPoolStrategy(InferenceStrategy):  # type: ignore[misc]
    """One engine of a pool, as ROLL's workers drive it; see the module."""

    strategy_name = "sglang"

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._experts: tuple[int, int] | None = None  # layers, and experts that each chooses
        self._pool: AsyncPool | None = None
        self._attached: Engine | None = None
        self._sync: SharedSync | None = None  # worker 0, during a model update
        self._beginning = asyncio.Lock()
        self._follower: Follower  # the others' part in it
        self._epoch = ""  # of the process groups; before there are any, of the start
        self._engines: tuple[Engine, ...] = ()  # all of that epoch
        self._groups: RollGroups  # that its engine is in
        self._places: RollPlaces  # whose GPUs its engine has
        self._told: set[str] = set()  # engines that no worker has
        self._requests: Requests
        self._wrote = frozenset[str | None]()  # the instances that the last update has written
        self._step = 0
        self._looked = float("-inf")  # when the registry was read before an update
        self._memory: RollMemory

    @property
    def leads(self) -> bool:
        """Whether this worker keeps the transaction for all."""
        return int(self.worker.rank) == 0

    # --- what ROLL's workers call

    @property
    def is_model_in_gpu(self) -> bool:
        """Whether the engine has its memory, after ``initialize``."""
        return self._memory.loaded

    async def initialize(self, model_provider: Any = None) -> None:
        """Wait for the pool, and attach to the engine of this worker's rank.

        Raises NotReady if ROLL has more workers than the pool engines, Unsupported.
        """
        refusal = roll_config.refusal(self.worker)
        if refusal and not colocated.hands_over(self.worker):  # else the pool has a say in it
            raise Unsupported(refusal)
        worker, holder = self.worker, await job.identity(self.worker)
        name, namespace = roll_config.pool_name(worker), roll_config.namespace(worker)
        api_key, admin_key = roll_config.keys()
        self._pool = AsyncPool(
            name, namespace, holder=holder, api_key=api_key, admin_api_key=admin_key
        )
        self._groups, self._places = RollGroups(self.pool), RollPlaces(worker, self.pool)
        try:
            await self._places.take()
            registry = await self.pool.wait_ready(READY_SECONDS)
            if refusal := roll_config.unsupported(worker, registry):
                raise Unsupported(refusal)
            self._places.require_folder()
            self._attach(registry)
            state = await self.pool.transaction()
        except BaseException:
            await self.pool.close()
            raise
        self._step = _step_of(state.version)
        self._follower = Follower(self.pool, state)
        self._memory = RollMemory(self.worker, self.pool, self._follower)
        self._requests = Requests(self.pool)
        self.tokenizer = self._tokenizer()
        if roll_config.replays(worker):
            self._experts = self._experts_of_the_model()
        if self.leads:
            await roll_config.compare(worker, self.pool, self.engine)
        _without_a_gpu()

    def _own(self, registry: Registry) -> tuple[Engine, ...]:
        """The engines of this job: one for each worker, in the order of ranks.

        Only a role without model updates may have fewer: its workers share them.  Raises NotReady,
        Unsupported.
        """
        workers, found = int(self.worker.world_size), registry.engines
        if len(found) < workers and self._is_policy:
            raise NotReady(texts.ROLL_SIZE.format(workers=workers, engines=len(found)))
        if self._is_policy:
            registry.require_all_or_gated(found[:workers])
        for engine in found[workers:]:
            if self.leads and self._is_policy and engine.engine not in self._told:
                self._told.add(engine.engine)
                log.warning(texts.ROLL_EXTRA.format(rank=engine.rank, engine=engine.engine))
        return found[:workers]

    @property
    def _is_policy(self) -> bool:
        return colocated.is_policy(self.worker, self.worker.pipeline_config)

    def _experts_of_the_model(self) -> tuple[int, int]:
        from transformers import AutoConfig  # type: ignore[import-not-found]

        path = self.worker_config.model_args.model_name_or_path
        config = AutoConfig.from_pretrained(path, trust_remote_code=True).get_text_config()
        return int(config.num_hidden_layers), int(config.num_experts_per_tok)

    def _tokenizer(self) -> Any:
        from roll.models.model_providers import (  # type: ignore[import-not-found]
            default_tokenizer_provider,
        )

        return default_tokenizer_provider(model_args=self.worker_config.model_args)

    def get_url(self) -> str | None:
        """Where the engine is."""
        return self.engine.url

    @entered
    async def setup_collective_group(
        self,
        master_address: str,
        master_port: int,
        rank_offset: int,
        world_size: int,
        group_name: str,
        backend: str | None = None,
    ) -> None:
        """Let the engine join the trainer's process group.

        Raises Held while another trainer is at it, or the operator: of that one's next bucket the
        engine would end, out of its group.
        """
        await self._groups.claim(group_name)
        engine = await self._attach_again()
        payload = {
            "master_address": master_address,
            "master_port": master_port,
            "rank_offset": rank_offset,
            "world_size": world_size,
            "group_name": group_name,
            "backend": backend or "nccl",
        }
        await self._groups.join(engine, payload)

    @entered
    async def broadcast_parameter(
        self,
        names: Sequence[str],
        dtypes: Sequence[Any],
        shapes: Sequence[Sequence[int]],
        group_name: str,
        is_lora: bool = False,
    ) -> None:
        """One bucket that the trainer broadcasts meanwhile.

        Raises StaleEpoch, before anything is taken from clients, if the engine is not in the group.
        """
        path, what, attempt = groups.BUCKET, list(names), self._follower.attempt

        async def bucket() -> Json:
            assert not is_lora, "ROLL's sglang strategy has no LoRA updates either"
            await self._groups.require_in(group_name, self.engine)
            return {
                "names": what,
                "dtypes": [str(dtype).removeprefix("torch.") for dtype in dtypes],
                "shapes": [list(shape) for shape in shapes],
                "group_name": group_name,
                "flush_cache": False,
            }

        self._groups.refuse_left(group_name)  # of an attempt that is over: in nobody's way
        with attempt.update(path, what, (self.engine,)):
            self._groups.require(group_name)
            await self._write(path, what, bucket, attempt)
        await self._follower.made_good(attempt)

    @entered
    async def update_parameter_in_bucket(
        self, serialized_named_tensors: Sequence[str], is_lora: bool = False
    ) -> None:
        """A bucket as handles of memory, one for each GPU of the engine, which are the trainer's.

        Raises Unsupported where they are not: a handle of another GPU's memory ends the engine.
        """
        what, attempt = object(), self._follower.attempt  # no handle comes a second time

        async def bucket() -> Json:
            assert not is_lora, "ROLL's sglang strategy has no LoRA updates either"
            return self._places.body(serialized_named_tensors, self.engine)

        with attempt.update(TENSORS, what, (self.engine,)):
            await bucket()  # before anything is begun
            await self._write(TENSORS, what, bucket, attempt)
        await self._follower.made_good(attempt)

    @entered
    async def process_weights_after_loading(self, *_: Any, **__: Any) -> None:
        """Every bucket has arrived everywhere: the engines go on, and the commit opens gates.

        Raises PoolError: what was asked for since the last time and did not arrive, too.
        """
        attempt = self._follower.attempt
        try:
            if self.leads:
                updated = await self._commit(attempt)
            else:
                updated = await self._follower.vouch(self.engine)
        finally:
            self._follower.end(attempt)
        if not updated:
            return  # ROLL calls it in steps without an update, too (model_update_frequency)
        self._wrote = frozenset(engine.instance for engine in self._engines)
        self._memory.is_loaded(True)

    async def load_states(self, *_: Any, **__: Any) -> None:
        """Wake the pool, if it sleeps."""
        await self._memory.load()

    async def offload_states(self, include: Any = None, non_blocking: bool = False) -> None:
        """Put the pool to sleep, where ROLL would: its trainer needs the same GPUs' memory."""
        if include is None or "model_params" in str(include):
            await self._memory.offload()

    async def offload_part(self, ranks: Sequence[int]) -> None:
        """Put the engines of these ranks to sleep, while the others serve on: ROLL's shrink.

        Every worker is told.  Raises NotReady, and as ``AsyncPool.sleep``.
        """
        await self._memory.offload_part(ranks)

    async def load_part(self, ranks: Sequence[int]) -> None:
        """Wake the engines of these ranks: ROLL's expand.  Told to all; raises as that."""
        await self._memory.load_part(ranks)

    async def generate_request(self, payload: Mapping[str, Any]) -> Json:
        """One request of ROLL's router, answered as its own strategy does.

        Where the engine ends over it another one of the same policy answers (``roll_requests``).
        """
        found = await self._generate(body(payload, replay=self._experts is not None))
        if found is None:
            return unfinished(payload)
        if self._experts is not None:
            found = with_experts(found, *self._experts)
        return postprocess_generate(found)

    async def generate(self, batch: Any, generation_config: Mapping[str, Any]) -> Any:
        """A batch, left-padded prompts in, prompts and padded answers out (ROLL's DataProto)."""
        import torch
        from roll.utils import functionals  # type: ignore[import-not-found]

        if "multi_modal_data" in batch.non_tensor_batch:
            raise Unsupported(texts.ROLL_BATCH_OF_PICTURES)
        input_ids = batch.batch["input_ids"]
        prompts = functionals.gather_unpadded_input_ids(
            input_ids=input_ids, attention_mask=batch.batch["attention_mask"]
        )
        parameters = create_sampling_params_for_sglang(generation_config)
        found = await self._generate({"input_ids": prompts, "sampling_params": parameters})
        if found is None:
            raise NotReady(texts.ROLL_UNANSWERED)
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
        await self._requests.abort(self.engine, request_ids)

    async def flush_cache(self) -> None:
        """Nothing: a sync does it, and out of one no engine is told by an address that may be old.

        ROLL's own strategy calls it once weights were loaded, and nobody else does.
        """

    # --- what our own worker calls beside that

    async def update_obstacle(self) -> str:
        """Why the process groups are not of the engines as they are now; "" if they are.

        Raises StaleEpoch, PoolError if that cannot be mended: they are another job's.
        """

        async def look() -> None:
            self._same_engines(await self.pool.fresh())
            self._looked = steady()

        return await self._groups.obstacle(look, also=self._places.hands_over)

    async def leave_groups(self) -> None:
        """Let the engine leave its groups, and wait until the pool is up, for new ones.

        A model update that is under way is over.  Raises NotReady.
        """
        left = self._groups.give_up()
        await self._follower.give_up()
        async with self._beginning:  # one that begins would be joined by those of the next attempt
            sync, self._sync = self._sync, None
        if sync is not None:
            await sync.abort(texts.ROLL_AGAIN.format(what=texts.OVER))
        if self._places.shares and self.leads:
            await self._memory.end_turn()  # who came back may wait for that
        await self._groups.leave(self.engine, left)
        if self._places.hands_over:
            await self._attach_again()  # who gets handles joins no groups

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
        registry.of(self._own(registry)).require_up()
        self._attach(registry)
        return self.engine

    def _attach(self, registry: Registry) -> None:
        engines = self._own(registry)
        self._attached = engines[int(self.worker.rank) % len(engines)]
        if self._engines and changes(self._engines, registry):
            self._groups.forget()  # they were of other engines
        self._epoch, self._engines = registry.epoch, engines

    async def _write(self, path: str, what: object, bucket: Bucket, attempt: Asked) -> None:
        """Write a bucket into the own engine, within the transaction."""
        if not self.leads:
            if not self._follower.takes_part:  # worker 0 will not begin with other engines either
                self._same_engines(await self.pool.registry())
            engine, epoch = self.engine, self._epoch
            await self._follower.write(engine, epoch, path, what, bucket, attempt=attempt)
            return
        sync = await self._leading(attempt)
        try:
            await sync.call_one(self.engine, path, await bucket(), timeout=None)
            sync.check()  # another bucket may have ended it: this one is in no commit
        except BaseException as error:
            if self._sync is sync:
                self._sync = None
            await sync.abort(told(error))
            raise

    async def _commit(self, attempt: Asked) -> bool:
        """End the update, worker 0 for all; whether there was one."""
        try:
            await attempt.settled()
        except BaseException as error:
            sync, self._sync = self._sync, None
            if sync is not None:
                await sync.abort(told(error))
            raise
        sync, self._sync = self._sync, None
        if sync is None:
            return False
        await sync.finish()
        self._step += 1
        return True

    async def _leading(self, attempt: Asked) -> SharedSync:
        """The sync to write in what was asked for just now."""
        stood = self._sync
        async with self._beginning:  # buckets may come at once
            self._follower.require(attempt)
            if stood is not None and stood is self._sync:
                self._sync = None
                if await stood.takes_more():  # else it has ended
                    self._sync = stood
            if self._sync is None:
                sync = await self._next_sync()
                await sync.begin()
                try:
                    self._follower.require(attempt)
                    await sync.begin_weight_update()
                except BaseException as error:
                    await sync.abort(told(error))
                    raise
                self._sync = sync
                attempt.begins()
            return self._sync

    async def _next_sync(self) -> SharedSync:
        """Over the engines of the groups.  Raises StaleEpoch, NotReady.

        A watch may have died in silence: in each update the registry is read once, before it.
        """
        lately = steady() - self._looked < _LATELY_SECONDS
        registry = await (self.pool.registry() if lately else self.pool.fresh())
        self._same_engines(registry)
        return SharedSync(
            self.pool,
            f"step-{self._step + 1}",
            SyncOptions(wait=HELD_SECONDS),
            own=self.engine,
            asked=self._follower.attempt,
            covers=self._engines,
            registry=registry,
        )

    def _same_engines(self, registry: Registry) -> None:
        """The engines that joined the process groups are the same.  Raises StaleEpoch, NotReady."""
        self._own(registry)
        if what := changes(self._engines, registry):
            raise StaleEpoch(texts.ROLL_STALE.format(what="; ".join(what[:4])))

    async def _generate(self, asked: Json) -> list[Json] | None:
        return await self._requests.answer(
            self.engine, asked, written=self._engines, wrote=self._wrote
        )


def _without_a_gpu() -> None:
    """Let this process do without one: every worker of ROLL's asks for its GPU's context next.

    Where there is no GPU, ROLL's platform has no ``init``; where there is one, that takes memory.
    """
    platforms = sys.modules.get("roll.platforms")
    if platforms is not None:
        platforms.current_platform.init = lambda: None


def _step_of(version: str) -> int:
    """The number in a version of ours; 0 for another's."""
    number = version.removeprefix("step-")
    return int(number) if version.startswith("step-") and number.isdecimal() else 0
