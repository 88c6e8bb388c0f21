"""The demo's pool, and what is read of it, of its answers and of its processes."""

from typing import Any

import pytest
import yaml

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import pool
from tests.builders import a_pool

STATUS = "Name:\tpython3\nNoNewPrivs:\t1\nCapPrm:\t{cap}\nCapEff:\t{cap}\nSeccomp:\t2\n"


def answer(version="step-2", tokens=(1, 2)):
    return {"output_ids": list(tokens), "meta_info": {"weight_version": version}}


def test_the_operator_takes_the_pool_as_it_is():
    *volumes, body = yaml.safe_load_all(
        pool.manifest("lmsysorg/sglang:v0.5.14", 2, {"attention_backend": "triton"}, "/cache")
    )
    assert len(a_pool(body["spec"]).engines) == 2
    config = body["spec"]["strategy_args"]["strategy_config"]
    assert config["attention_backend"] == "triton"
    assert config["load_format"] == "dummy"  # else the gate is open from the start
    assert [each["kind"] for each in volumes] == ["PersistentVolume", "PersistentVolumeClaim"]


def test_the_trainer_s_pod_has_a_gpu_and_no_privileges():
    pod = yaml.safe_load(pool.trainer("image:v1", "/kit/broadcast.py", {"STEPS": "5,6"}))
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert told["STEPS"] == "5,6"
    assert told["POOL"] == body_of_the_pool()["metadata"]["name"]
    # Else the two sides of a group differ in how they take memory, and it never forms.
    assert told["NCCL_CUMEM_ENABLE"] == "0"


def body_of_the_pool():
    return list(yaml.safe_load_all(pool.manifest("image:v0.5.14", 1, {}, "/cache")))[-1]


def test_what_a_trainer_told_is_found_among_the_rest_of_its_log():
    log = 'a warning\n{"step": 5, "begin": 0.1}\n{"other": 1}\n{"step": 6, "begin": 0.2}\n'
    assert pool.said(log) == [{"step": 5, "begin": 0.1}, {"step": 6, "begin": 0.2}]


def test_settings_are_read_as_yaml_reads_values():
    assert pool.setting("mem_fraction_static=0.5") == ("mem_fraction_static", 0.5)
    assert pool.setting("disable_radix_cache=true") == ("disable_radix_cache", True)
    assert pool.setting("attention_backend=triton") == ("attention_backend", "triton")
    assert pool.setting("json_model_override_args={") == ("json_model_override_args", "{")


@pytest.mark.parametrize("text", ["attention_backend", "=triton"])
def test_a_setting_without_key_or_value_is_refused(text):
    with pytest.raises(errors.KitError, match="KEY=VALUE is needed"):
        pool.setting(text)


def test_a_pool_is_hopeless_when_only_the_user_can_help():
    assert pool.hopeless({}) is None
    ready = {"type": "Ready", "status": "False", "reason": "Creating", "message": ""}
    assert pool.hopeless({"status": {"conditions": [ready]}}) is None
    stalled = {"type": "Stalled", "status": "True", "reason": "Invalid", "message": "no such flag"}
    assert pool.hopeless({"status": {"conditions": [stalled]}}) == "Invalid: no such flag"
    failure = {"reason": "CUDAOutOfMemory", "message": "tried 896 MiB", "advice": "Lower it."}
    told = pool.hopeless({"status": {"lastFailures": [failure]}})
    assert told == "CUDAOutOfMemory: tried 896 MiB Lower it."


def test_only_ready_endpoints_are_in_service():
    slices: list[dict[str, Any]] = [
        {
            "endpoints": [
                {"addresses": ["10.244.1.2"], "conditions": {"ready": True}},
                {"addresses": ["10.244.1.3"], "conditions": {"ready": False}},
            ]
        },
        {"endpoints": None},
    ]
    assert pool.in_service(slices) == {"10.244.1.2"}


def test_an_answer_is_right_by_its_label_and_by_its_tokens():
    assert pool.wrong(answer(), "step-2", [1, 2]) is None
    assert pool.wrong(answer(), "step-2", None) is None
    assert "carries the version 'step-1'" in str(pool.wrong(answer("step-1"), "step-2", None))
    assert "carries the version None" in str(pool.wrong({"output_ids": [1]}, "step-2", None))
    # The label alone may lie: the weights of another step, under the name of this one.
    wrong = pool.wrong(answer(tokens=(7, 8)), "step-2", [1, 2])
    assert wrong == "step-2 answers [1, 2], this was answered: [7, 8]"


def test_the_scheduler_is_killed_where_it_is_a_process_of_its_own():
    processes = {
        1: "/pause ",
        7: "python3 -m sglang.launch_server --port=30000 ",
        9: "sglang::scheduler ",
        8: "sglang::detokenizer ",
    }
    assert pool.victim(processes) == 9
    del processes[9], processes[8]
    assert pool.victim(processes) == 7
    with pytest.raises(errors.KitError, match="no process of the pod is SGLang's: 1 '/pause '"):
        pool.victim({1: "/pause "})


def test_memory_that_comes_and_goes_by_itself_is_no_sleep():
    gib = 1 << 30
    assert pool.changed(43 * gib, gib, freed=True)
    assert not pool.changed(43 * gib, 43 * gib - (1 << 20), freed=True)
    assert not pool.changed(gib, 43 * gib, freed=True)
    assert pool.changed(gib, 43 * gib, freed=False)


def test_an_engine_with_any_capability_is_privileged():
    assert pool.privileged(STATUS.format(cap="0000000000000000")) is None
    assert "has capabilities" in str(pool.privileged(STATUS.format(cap="00000000a80425fb")))
    gaining = STATUS.format(cap="0").replace("NoNewPrivs:\t1", "NoNewPrivs:\t0")
    assert "may gain privileges" in str(pool.privileged(gaining))
