"""Which image references a container runtime can read."""

import pytest

from sglang_operator.engine import images, versions

DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    "image",
    [
        versions.DEFAULT_IMAGE,
        "sglang",
        "sglang:latest",
        "lmsysorg/sglang:v0.5.10rc0-cu129",
        "lmsysorg/sglang:v0.5.7_custom",
        f"lmsysorg/sglang@{DIGEST}",
        f"lmsysorg/sglang:v0.5.7@{DIGEST}",
        "registry.example:5000/x/sglang",
        "Registry.Example/team__a/sg-lang.x/y--z:T",
        "localhost/sglang",
        "[fd00::1]:5000/sglang:v0.5.7",
        "v0.5.7/sglang",
        "TEAM/sglang",  # the host TEAM: nothing says that there is none
        "a/" * 127 + "b",
        "sglang:" + "t" * 128,
    ],
)
def test_what_a_runtime_reads_is_no_problem(image):
    assert list(images.problems(image)) == []


@pytest.mark.parametrize(
    "image",
    [
        "SGLang",
        "lmsysorg/SGLang:v0.5.7",
        " lmsysorg/sglang:v0.5.7",
        "lmsysorg/sglang:v0.5.7\n",
        "lmsysorg/sglang: v0.5.7",
        "lmsysorg/sglang:",
        "lmsysorg/sglang:v0.5.7:x",
        "lmsysorg/sglang:-v0.5.7",
        "lmsysorg//sglang",
        "lmsysorg/sglang/",
        "/lmsysorg/sglang",
        "lmsysorg/_sglang",
        "lmsysorg/sg___lang",
        "lmsysorg/sglang@sha256:0a",
        "lmsysorg/sglang@v0.5.7",
        "https://lmsysorg/sglang",
        "docker://lmsysorg/sglang",
        "{{ image }}",
        "0a" * 32,
        "a/" * 128 + "b",
        "sglang:" + "t" * 129,
    ],
)
def test_what_no_runtime_reads_is_refused(image):
    (problem,) = images.problems(image)
    assert problem.reason == "ImageNameInvalid"
    assert "expected [registry/]name[:tag][@digest]" in problem.message
