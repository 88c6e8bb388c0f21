"""What the demo with a GPU takes from its command line; the demo itself: test_gpu_demo.py."""

import pytest

from sglang_operator.testing import __main__, errors
from sglang_operator.testing.gpu import demo


def options(*arguments):
    return demo.read(__main__._parser().parse_args(["demo", "--gpu", *arguments]))


def test_one_gpu_is_enough_and_a_trainer_needs_one_more():
    assert options().cards == 1
    assert options("--gpus=2", "--nccl").cards == 3


def test_settings_and_variables_are_taken_together():
    read = options(
        *("--set", "attention_backend=triton", "--set", "mem_fraction_static=0.5"),
        *("--env", "PYTHONPATH=/a:/b", "--mount", "/data"),
    )
    assert read.config == {"attention_backend": "triton", "mem_fraction_static": 0.5}
    assert read.variables == {"PYTHONPATH": "/a:/b"}
    assert read.mounts == ["/data"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gpus=0"], "at least one GPU is needed"),
        (["--kwok"], "asks for nodes without containers"),
        (["--image=lmsysorg/sglang"], "a name with a tag other than latest"),
        (["--image=a.io/b/sglang:v1", "--stand-in"], "leave --image out"),
        (["--nccl", "--model=/models/mine"], "leave --model out"),
        (["--set", "triton"], "KEY=VALUE is needed"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_starts(arguments, told):
    with pytest.raises(errors.KitError, match=told):
        options(*arguments)


@pytest.mark.parametrize("given", [["--nccl"], ["--stand-in"], ["--gpus=2"], ["--env", "A=b"]])
def test_an_option_of_the_gpu_s_without_it_is_told_and_not_passed_over(given, capsys):
    assert __main__.main(["demo", "--once", *given]) == 1
    name = given[0].split("=")[0]
    assert f"error: {name}: only with --gpu" in capsys.readouterr().err
