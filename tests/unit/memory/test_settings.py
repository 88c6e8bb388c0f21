import pytest

from sglang_operator.engine import versions
from sglang_operator.memory import settings

V0_5_14 = versions.parse("0.5.14")


def read(*argv, version=V0_5_14):
    return settings.of_argv(argv, version)


def test_nothing_said_is_sglang_s_choice():
    assert read() == settings.Settings()


def test_values_are_read_from_either_form_of_a_flag():
    assert read("--mem-fraction-static=0.7") == read("--mem-fraction-static", "0.7")
    assert read("--mem-fraction-static=0.7").mem_fraction_static == 0.7


@pytest.mark.parametrize("flag", ("--tp-size=4", "--tensor-parallel-size=4"))
def test_every_name_of_a_flag_is_understood(flag):
    assert read(flag).division.tp == 4


def test_replicas_of_attention_are_counted_only_where_they_are_asked_for():
    assert read("--tp-size=8", "--dp-size=8").division.attention_dp == 1
    found = read("--tp-size=8", "--dp-size=8", "--enable-dp-attention").division
    assert (found.attention_dp, found.attention_tp) == (8, 1)


def test_deepep_spreads_experts_over_all_gpus():
    assert read("--tp-size=8", "--moe-a2a-backend=deepep").division.ep == 8


def test_graphs_that_are_switched_off_are_off():
    assert not read("--disable-cuda-graph").graphs
    assert not read("--disable-cuda-graph").prefill_graphs
    assert not read("--disable-piecewise-cuda-graph").prefill_graphs


def test_the_largest_of_several_batches_counts():
    assert read("--cuda-graph-bs", "1", "2", "64").graph_batch == 64
    assert read("--cuda-graph-max-bs=32").graph_batch == 32


def test_an_argument_that_no_version_has_does_no_harm():
    assert read("--of-tomorrow", "--tp-size=2", "--and=1").division.tp == 2
