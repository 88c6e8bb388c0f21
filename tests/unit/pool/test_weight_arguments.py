"""Arguments under which engines answer from weights that a commit has replaced."""

import pytest

from sglang_operator.api import errors
from sglang_operator.pool.resolve import Refused, resolve_pool
from tests.builders import OWNER, a_pool, guide_spec, with_config


def refused(spec, version="0.5.7"):
    """The keys that a gated pool is refused for."""
    resolved = resolve_pool(OWNER, {**spec, "image": f"lmsysorg/sglang:v{version}"})
    problems = resolved.errors if isinstance(resolved, Refused) else ()
    return [p.field.rpartition(".")[2] for p in problems if p.reason == "WeightSyncUnsupported"]


STORED = {"enable_hierarchical_cache": True, "hicache_storage_backend": "file"}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (STORED, "hicache_storage_backend"),
        ({"enable_lmcache": True}, "enable_lmcache"),
        ({"tokenizer_worker_num": 4}, "tokenizer_worker_num"),
        ({"pp_size": 2, "tp_size": 1}, "pp_size"),
        ({"pipeline_parallel_size": 2, "tp_size": 1}, "pp_size"),
        ({"tp_size": 2, "dp_size": 2, "enable_dp_attention": True}, "dp_size"),
        ({"disaggregation_mode": "prefill"}, "disaggregation_mode"),
        ({"enable_pdmux": True}, "enable_pdmux"),
        ({"offload_group_size": 4}, "offload_group_size"),
        ({"kt_weight_path": "/w"}, "kt_weight_path"),
        ({"elastic_ep_backend": "mooncake"}, "elastic_ep_backend"),
        ({"language_only": True, "encoder_urls": ["http://e:1"]}, "language_only"),
    ],
)
def test_what_outlives_a_commit_is_refused_where_weights_change(config, key):
    assert refused(with_config(**config)) == [key]
    assert refused({**with_config(**config), "weights": {"gate": "Off"}}) == []


@pytest.mark.parametrize(
    "config",
    [
        {"enable_hierarchical_cache": True},
        {"enable_lmcache": False},
        {"hicache_storage_backend": None},
        {"tokenizer_worker_num": 1},
        {"dp_size": 1},
        {"disaggregation_mode": "null"},
        {"elastic_ep_backend": None},
        {"elastic_ep_backend": "none"},
    ],
)
def test_what_a_flush_reaches_is_not_refused(config):
    assert refused(with_config(**config)) == []


@pytest.mark.parametrize("flag", ["--enable-lmcache", "--enable-lmc"])
def test_it_is_found_among_the_extra_arguments_too(flag):
    assert refused(guide_spec(extraArgs=[flag])) == ["enable_lmcache"]


def test_a_value_of_its_own_item_and_the_last_of_two_count():
    several = ["--tokenizer-worker-num", "1", "--tokenizer-worker-num", "4"]
    assert refused(guide_spec(extraArgs=several)) == ["tokenizer_worker_num"]
    assert refused(guide_spec(extraArgs=several[2:] + several[:2])) == []


def test_versions_whose_pause_reaches_everybody_have_more():
    assert refused(with_config(tokenizer_worker_num=4), "0.5.14") == []
    assert refused(with_config(disaggregation_mode="prefill"), "0.5.14") == []
    pipeline = with_config(pp_size=2, tp_size=1)
    assert refused(pipeline, "0.5.5.post3") == []  # whose pause lets requests end first
    assert refused(pipeline, "0.5.23") == ["pp_size"]
    attention = with_config(tp_size=2, attn_dp_size=2)
    assert refused(attention, "0.5.23") == ["attn_dp_size"]


@pytest.mark.parametrize("version", ["0.5.14", "0.5.20", "0.5.23"])
def test_experts_that_no_update_reaches_are_refused_in_later_versions_too(version):
    backup = {"elastic_ep_backend": "mooncake", "enable_elastic_expert_backup": True}
    assert refused(with_config(**backup), version) == list(backup)


def test_experts_whose_updates_sglang_refuses_are_refused_before_a_gpu_is_taken():
    paged = with_config(enable_paged_experts=True, paged_experts_num_resident=8)
    assert refused(paged, "0.5.23") == ["enable_paged_experts"]


@pytest.mark.parametrize("version", ["0.5.20", "0.5.21", "0.5.23"])
@pytest.mark.parametrize("mode", ["client", "daemon"])
def test_weights_that_are_another_processs_are_refused_where_weights_change(version, mode):
    shared = with_config(weight_cache_mode=mode)
    assert refused(shared, version) == ["weight_cache_mode"]
    assert refused(guide_spec(extraArgs=["--weight-cache-mode", mode]), version) == [
        "weight_cache_mode"
    ]
    assert refused(with_config(weight_cache_mode="off"), version) == []
    ungated = {**shared, "weights": {"gate": "Off"}, "image": f"lmsysorg/sglang:v{version}"}
    assert refused(ungated, version) == []
    assert "ends at an update" in a_pool(**ungated).no_sync


def test_engines_that_share_weights_do_not_sleep_without_a_gate_either():
    """SGLang's scheduler ends as memory for weights is released; without the saver none is."""
    spec = with_config(weight_cache_mode="client", enable_memory_saver=True)
    spec = {**spec, "weights": {"gate": "Off"}, "image": "lmsysorg/sglang:v0.5.23"}
    resolved = resolve_pool(OWNER, spec)
    assert isinstance(resolved, Refused)
    (problem,) = resolved.errors
    assert problem.message == (
        "weight_cache_mode is client: the weights are another process's, which others read too, so "
        "that SGLang's scheduler ends at an update, and as memory for weights is released; set it "
        "to off, or remove enable_memory_saver, without which none is released"
    )
    assert refused({**spec, **with_config(enable_memory_saver=True)}, "0.5.23") == []


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"enable_nvidia_megakernel": True}, "enable_nvidia_megakernel"),
        ({"enable_amd_monokernel": True}, "enable_amd_monokernel"),
        ({"monokernel_backend": "amd"}, "monokernel_backend"),
    ],
)
def test_kernels_that_keep_copies_of_weights_are_refused_where_weights_change(config, key):
    assert refused(with_config(**config), "0.5.23") == [key]


def test_the_message_says_why_and_what_to_do():
    resolved = resolve_pool(OWNER, with_config(enable_lmcache=True))
    assert isinstance(resolved, Refused)
    (problem,) = resolved.errors
    assert problem.severity is errors.Severity.ERROR
    assert problem.message == (
        "enable_lmcache is true: what engines compute is kept there by the prompt alone, out of "
        "the reach of /flush_cache, so that weights of before a commit answer after it; remove "
        "it, or set weights.gate: Off, where nobody changes the weights of running engines"
    )


def test_without_a_gate_the_registry_says_that_no_trainer_may_sync():
    """Gate Auto is Off where engines load their weights, and a trainer needs none to sync."""
    pool = a_pool(**{**with_config(enable_lmcache=True), "weights": {"gate": "Off"}})
    assert pool.no_sync.startswith("enable_lmcache is true: what engines compute is kept there")
    assert a_pool().no_sync == ""


@pytest.mark.parametrize("text", ["4", "+4", " 4", "0_4", "٤"])
def test_a_number_is_what_the_engines_parser_makes_of_it(text):
    assert refused(guide_spec(extraArgs=[f"--tokenizer-worker-num={text}"])) == [
        "tokenizer_worker_num"
    ]


@pytest.mark.parametrize("text", ["1", "+1", " 1 ", "-4", "0"])
def test_a_number_that_is_too_small_is_not_meant(text):
    assert refused(guide_spec(extraArgs=[f"--tokenizer-worker-num={text}"])) == []
