import pytest

from sglang_operator.cli.pipeline import slime
from sglang_operator.memory.trainer import Kind

SCRIPT = """#!/bin/bash
pkill -9 python
export BASE_DIR="/data/models"
SIZE="30B"
CKPT_ARGS=(
   --hf-checkpoint ${BASE_DIR}/Qwen3-${SIZE}-A3B   # the model
   #--hf-checkpoint /root/Qwen3-4B
   --ref-load /root/torch_dist
)
ROLLOUT_ARGS=(
   --rollout-batch-size 32
   --n-samples-per-prompt 8
   --rollout-max-response-len 8192
)
PERF_ARGS=(
   --tensor-model-parallel-size 4
   --sequence-parallel
   --pipeline-model-parallel-size 1
   --context-parallel-size 2
   --expert-model-parallel-size 8
   --recompute-granularity full
   --max-tokens-per-gpu 20480
   --optimizer-cpu-offload
)
SGLANG_ARGS=(
   --rollout-num-gpus-per-engine 8
   --sglang-mem-fraction-static 0.7
   --sglang-cuda-graph-bs 1 2 4 8 $(seq 16 8 256)
   --sglang-enable-dp-attention
   --sglang-dp-size ${DP:-4}
)
ray job submit --address="http://127.0.0.1:8265" \\
   --runtime-env-json="{}" \\
   -- python3 train.py \\
   --actor-num-nodes 2 \\
   --actor-num-gpus-per-node 8 \\
   --colocate \\
   ${CKPT_ARGS[@]} \\
   ${SGLANG_ARGS[@]}
"""


def script(text=SCRIPT):
    return slime.Script(text, "run.sh")


def test_a_launch_script_is_known_by_its_flags():
    assert slime.is_script(SCRIPT)
    assert not slime.is_script("#!/bin/bash\necho hello\n")
    assert not slime.is_script("a: 1  # --hf-checkpoint\n")


def test_variables_that_the_script_sets_are_filled_in():
    assert script().model == "/data/models/Qwen3-30B-A3B"


def test_a_variable_that_nobody_sets_stays():
    assert script(SCRIPT.replace('SIZE="30B"', "")).model == "/data/models/Qwen3-${SIZE}-A3B"


def test_what_is_commented_out_does_not_count():
    assert "Qwen3-4B" not in script().model


def test_of_a_flag_that_is_there_twice_the_last_one_counts():
    assert script(SCRIPT + "X=(\n --rollout-num-gpus-per-engine 2\n)\n").gpus == 2


def test_the_engine_s_arguments_have_sglang_s_names():
    found = script().settings()
    assert found["tp_size"] == 8
    assert found["mem_fraction_static"] == "0.7"
    assert found["cuda_graph_bs"] == ["1", "2", "4", "8", "256"]
    assert found["enable_dp_attention"] is True
    assert found["dp_size"] == "4"
    assert found["enable_memory_saver"] is True


def test_flags_after_a_backslash_are_read():
    assert script().trainers == 16
    assert script().colocated


def test_engines_stand_on_the_trainer_s_gpus_where_they_are_colocated():
    trains, infers = script().roles()
    assert trains.devices == infers.devices == frozenset(range(16))
    assert script().engines() == (tuple(range(8)), tuple(range(8, 16)))


def test_engines_have_gpus_of_their_own_where_they_are_not():
    apart = script(SCRIPT.replace("--colocate", "--rollout-num-gpus 32"))
    assert apart.engines()[0] == tuple(range(16, 24))
    assert len(apart.engines()) == 4


def test_the_trainer_is_read_with_its_sizes():
    (found,) = script().training()
    assert (found.kind, found.gpus, found.tp, found.cp, found.ep) == (Kind.MEGATRON, 16, 4, 2, 8)
    assert found.optimizer_on_host
    assert found.recompute
    assert found.sequence_parallel
    assert found.tokens == 2 * 20480


def test_the_work_of_a_step_is_what_the_flags_say():
    step = script().step()
    assert step is not None
    assert (step.samples, step.response, step.passes) == (256, 8192, 2)
    assert (step.train_gpus, step.total_gpus) == (16, 16)


@pytest.mark.parametrize(
    "text",
    (
        "",
        "#!/bin/bash\n--hf-checkpoint\n",
        "#!/bin/bash\nX=(\n--rollout-num-gpus-per-engine many\n--actor-num-nodes -3\n)\n",
        "#!/bin/bash\n--hf-checkpoint 'unclosed\n",
        "#!/bin/bash\nA=$A\n--hf-checkpoint $A\n",
        "#!/bin/bash\n--sglang-pp-size 0 --sglang-tp-size 0\n",
        "#!/bin/bash\n--rollout-num-gpus 999999999 --actor-num-nodes 999999999\n",
        "#!/bin/bash\n" + "--sglang-x " * 1000,
    ),
)
def test_a_script_that_says_little_or_nonsense_is_read_as_far_as_it_goes(text):
    found = script(text)
    assert found.gpus >= 1
    assert isinstance(found.settings(), dict)
    assert found.engines() is not None
    list(found.training())
