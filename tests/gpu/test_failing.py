"""Engines that cannot start, on a real GPU: the status says why, and what to do."""

from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.engine import endings
from sglang_operator.testing import errors
from sglang_operator.testing.gpu import pool

pytestmark = pytest.mark.gpu1

FAILED_SECONDS = 200.0

# name -> settings, the reason that is told, and a word of the advice
FAILURES: dict[str, tuple[dict[str, Any], set[str], str]] = {
    "wrong-path": ({"load_format": "auto"}, {"ModelNotFound"}, "model_name_or_path"),
    "too-high": (
        {"mem_fraction_static": 0.9999},
        {"CUDAOutOfMemory", endings.CUDA_ERROR},
        "lower mem_fraction_static",
    ),
    "port-taken": ({"nccl_port": 30000}, {"PortInUse"}, "network.port"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_pool_that_cannot_start_says_why_and_what_to_do(room, figures, name):
    config, reasons, advice = FAILURES[name]
    manifest = room.manifest(name, **config)
    if name == "wrong-path":
        manifest = manifest.replace(pool.BASE, f"{pool.MODELS}/absent")
    room.make_way()
    room.plane.kubectl("apply", "-f", "-", input=manifest)
    try:
        failure = room.wait(
            lambda: next(iter(room.failures(name)), None), FAILED_SECONDS, "the pool to tell"
        )
    except errors.WaitTimeoutError:
        label = f"{names.LABEL_POOL}={name}"
        for shown in (
            ("logs", "--tail=80", "-l", label),
            ("get", "pods", "-o", "yaml", "-l", label),
        ):
            print(room.plane.kubectl(*shown, check=False).stdout)
        raise
    finally:
        room.plane.kubectl("delete", "sgi", name, "--wait=false", "--ignore-not-found")
    figures["told"] = failure
    assert failure["reason"] in reasons
    assert advice in failure["advice"]
