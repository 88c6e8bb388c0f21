"""What restarts engines and what does not.  The golden values guard upgrades of the operator."""

import pytest

from tests.builders import a_pool, guide_spec, with_config

# A changed value here restarts every engine of every user at their next upgrade of the operator.
GOLDEN = {
    "guide": "bd2c5a8f4d",
}


def test_the_guides_pool_keeps_its_revision_across_versions_of_the_operator():
    assert a_pool().revision == GOLDEN["guide"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"replicas": 5}, id="replicas"),
        pytest.param({"device_mapping": "list(range(0,8))"}, id="mapping"),
        pytest.param({"rollout": {"maxUnavailable": 3}}, id="rollout"),
        pytest.param({"restart": {"nodeLostSeconds": 60}}, id="restart"),
        pytest.param({"drain": {"gracePeriodSeconds": 5}}, id="drain"),
        pytest.param({"generating_args": {"temperature": 0.1}}, id="per-request generation"),
        pytest.param({"infer_batch_size": 4}, id="infer_batch_size"),
        pytest.param({"worker_cls": "roll.x"}, id="a field without effect"),
        pytest.param({"startup": {"timeoutSeconds": 1800}}, id="a default written out"),
    ],
)
def test_engines_run_on_when_this_changes(change):
    assert a_pool(**change).revision == a_pool().revision


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(guide_spec(image="lmsysorg/sglang:v0.5.6.post2"), id="image"),
        pytest.param(with_config(mem_fraction_static=0.8), id="argument"),
        pytest.param(with_config(load_format="auto"), id="load format"),
        pytest.param(guide_spec(system_envs={"NCCL_DEBUG": "INFO"}), id="environment"),
        pytest.param(guide_spec(num_gpus_per_worker=4), id="GPUs"),
        pytest.param(guide_spec(seed=7), id="seed"),
        pytest.param(guide_spec(network={"port": 31000}), id="port"),
        pytest.param(guide_spec(security={"runAsUser": 1000}), id="security"),
        pytest.param(guide_spec(startup={"timeoutSeconds": 60}), id="startup"),
        pytest.param(guide_spec(scheduling={"schedulerName": "another"}), id="scheduling"),
        pytest.param(guide_spec(placement={"resourceName": "amd.com/gpu"}), id="placement"),
        pytest.param(guide_spec(extraArgs=["--log-requests"]), id="extraArgs"),
        pytest.param(
            guide_spec(podTemplate={"spec": {"nodeSelector": {"gpu": "h100"}}}), id="podTemplate"
        ),
    ],
)
def test_engines_are_replaced_when_this_changes(raw):
    assert a_pool(raw).revision != a_pool().revision


def test_two_spellings_of_one_argument_make_the_same_engine():
    assert a_pool(with_config(**{"mem-fraction-static": 0.7})).revision == a_pool().revision
