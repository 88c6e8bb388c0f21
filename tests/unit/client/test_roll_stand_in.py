"""What ROLL's processes find in place of its sglang module, and the worker that brings it along."""

import asyncio
import importlib
import subprocess
import sys
import types

import pytest

from sglang_operator.client import Unsupported, roll_stand_in, roll_updates

WORKER = "sglang_operator.client.roll_worker"
GENERATION = {
    "max_new_tokens": 16,
    "temperature": 0.9,
    "top_p": 0.99,
    "top_k": 100,
    "repetition_penalty": 1.0,
    "num_return_sequences": 8,
    "eos_token_id": [2, 0],
    "stop_strings": ["\n"],
}


@pytest.fixture
def roll_finds(roll, monkeypatch):
    """What ROLL finds under the name of its own module, once that is taken."""
    monkeypatch.setitem(sys.modules, roll_stand_in.ROLLS_MODULE, None)
    roll_stand_in.install()
    return lambda: importlib.import_module(roll_stand_in.ROLLS_MODULE)


def test_rolls_name_for_sglang_leads_to_the_strategy(roll, roll_finds):
    assert roll_finds().SgLangStrategy is roll.OperatorPoolStrategy
    assert not hasattr(roll_finds(), "SglangEngine")


def test_schedulers_and_env_managers_find_what_they_need_of_it(roll_finds):
    """RouterClient of roll/distributed/scheduler/router.py, by these names and parameters."""
    sampling = roll_finds().create_sampling_params_for_sglang(gen_kwargs=GENERATION)
    assert sampling == {
        "max_new_tokens": 16,
        "temperature": 0.9,
        "top_p": 0.99,
        "top_k": 100,
        "repetition_penalty": 1.0,
        "n": 8,
        "stop_token_ids": [2, 0],
        "stop": ["\n"],
        "no_stop_trim": True,
    }
    assert roll_finds().postprocess_generate([]) == {"output_token_ids": [], "finish_reasons": []}


def test_a_hook_of_rays_imports_neither_roll_nor_torch():
    """It runs in each process that Ray starts, whatever that is for."""
    code = (
        "import sys; from sglang_operator.client import roll_stand_in; roll_stand_in.install();"
        "from roll.distributed.strategy.sglang_strategy import postprocess_generate;"
        "assert not {'roll', 'torch', 'sglang'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def answer(ids, logprobs=None, reason="stop", **about):
    if logprobs is not None:
        about["output_token_logprobs"] = logprobs
    return {"output_ids": ids, "meta_info": {"finish_reason": reason, **about}}


def test_answers_get_the_form_that_roll_reads():
    chunks = [
        answer([7, 8, 9], [[-0.5, 7, None], [-0.25, 8, None]], {"type": "length", "length": 3}),
        answer([], [], {"type": "abort", "message": "Abort before prefill"}),
    ]
    assert roll_stand_in.postprocess_generate(chunks) == {
        "output_token_ids": [[7, 8], []],
        "output_logprobs": [[-0.5, -0.25], []],
        "finish_reasons": ["length", "abort"],
    }


def test_what_only_some_answers_tell_is_kept_too():
    chunks = [
        answer([7], reason="stop", spec_accept_length=2.5, routed_experts="AAAA"),
        {"meta_info": {"finish_reason": None, "spec_draft_token_num": 4, "spec_accept_length": 1}},
    ]
    assert roll_stand_in.postprocess_generate(chunks) == {
        "output_token_ids": [[7], []],
        "finish_reasons": ["stop", None],
        "routed_experts": ["AAAA", None],
        "metrics": {"spec_accept_length": [2.5, 1], "spec_draft_token_num": [4]},
    }


class Batch:
    """A DataProto, as far as a worker moves it."""

    def __init__(self):
        self.places = ["cpu"]

    def to(self, device):
        self.places.append(device)
        return self


def module(name, **contents):
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    return made


@pytest.fixture(params=[True], ids=["with the hook"])
def worker_class(request, roll, monkeypatch):
    """PoolInferWorker on a stand-in of ROLL's InferWorker."""

    class InferWorker:
        rank = 0

        def __init__(self, worker_config):
            self.worker_config = worker_config

        async def initialize(self, pipeline_config):
            self.pipeline_config = pipeline_config

        async def generate(self, data):
            return data.to("cuda")

    base = module("roll.pipeline.base_worker", InferWorker=InferWorker)
    decorator = module(
        "roll.distributed.scheduler.decorator",
        Dispatch=types.SimpleNamespace(ONE_TO_ALL=0, DP_MP_COMPUTE=1),
        register=lambda dispatch_mode: lambda method: method,
    )
    pipeline = module("roll.pipeline", base_worker=base)
    packages = map(module, ("roll.distributed.scheduler", "roll.distributed.executor"))
    updates = "roll.distributed.executor.model_update_group"
    group = module(updates, ModelUpdateGroup=type("ModelUpdateGroup", (), {"model_update": plain}))
    for each in (base, decorator, pipeline, group, *packages):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    monkeypatch.setitem(sys.modules, roll_stand_in.ROLLS_MODULE, None)
    if request.param:
        roll_stand_in.install()  # as Ray's hook does
    monkeypatch.delitem(sys.modules, WORKER, raising=False)
    yield importlib.import_module(WORKER).PoolInferWorker
    sys.modules.pop(WORKER, None)


def plain(group, step=None):
    """ROLL's ModelUpdateGroup.model_update."""


def test_the_worker_takes_the_place_of_rolls_module_and_moves_nothing_to_a_gpu(worker_class):
    assert sys.modules[roll_stand_in.ROLLS_MODULE] is roll_stand_in
    worker = worker_class("config")
    asyncio.run(worker.initialize("config"))
    assert worker.pipeline_config == "config"
    batch = Batch()
    assert asyncio.run(worker.generate(batch)) is batch
    assert batch.places == ["cpu"]


def test_model_updates_mend_their_groups_where_the_worker_is_imported(worker_class):
    group = sys.modules["roll.distributed.executor.model_update_group"].ModelUpdateGroup
    assert group.model_update.plain is plain
    roll_updates.install()  # as a second role's worker does
    assert group.model_update.plain is plain


@pytest.mark.parametrize("worker_class", [False], indirect=True, ids=["without"])
def test_the_import_of_the_worker_alone_lets_its_process_find_the_stand_in(worker_class):
    assert sys.modules[roll_stand_in.ROLLS_MODULE] is roll_stand_in


@pytest.mark.parametrize("worker_class", [False], indirect=True, ids=["without"])
def test_a_job_without_the_hook_is_refused_at_its_start_if_the_image_has_no_sglang(
    worker_class, monkeypatch
):
    worker = worker_class("config")
    with pytest.raises(Unsupported, match=r"hook.*sglang_operator\.client\.roll_stand_in\.install"):
        asyncio.run(worker.initialize("config"))
    found = types.SimpleNamespace(name="sglang")
    monkeypatch.setattr(sys.modules[WORKER], "find_spec", {"sglang": found}.get)
    asyncio.run(worker.initialize("config"))
