"""What a container that names GPUs in a variable gets of what stands in for NVIDIA's runtime."""

import json
import subprocess

import pytest

from sglang_operator.testing import errors
from sglang_operator.testing.gpu import allocation, runtime

INVENTORY = allocation.Inventory(
    resource="nvidia",
    cards={"GPU-a": "/dev/nvidia0", "GPU-b": "/dev/nvidia5"},
    control=["/dev/nvidiactl"],
    mounts=[allocation.Mount(host="/models", inside="/models/own")],
    variables={"HF_HUB_OFFLINE": "1"},
)


def numbers(node):
    return {"/dev/nvidia0": (195, 0), "/dev/nvidia5": (195, 5), "/dev/nvidiactl": (195, 255)}[node]


def config(visible=None):
    """A container's, that has a volume below a folder which it will be given."""
    given = [] if visible is None else [f"NVIDIA_VISIBLE_DEVICES={visible}"]
    mounts = [{"destination": "/models/own/cache"}, {"destination": "/proc"}]
    return {"process": {"env": ["PATH=/bin", *given]}, "mounts": mounts, "linux": {}}


@pytest.mark.parametrize("visible", [None, "", "void", "none"])
def test_who_names_no_gpu_gets_nothing(visible):
    made = config(visible)
    runtime.added(made, INVENTORY, numbers)
    assert made == config(visible)


def test_who_names_gpus_may_use_these_and_no_others():
    made = config("GPU-b")
    runtime.added(made, INVENTORY, numbers)
    assert [node["path"] for node in made["linux"]["devices"]] == ["/dev/nvidia5", "/dev/nvidiactl"]
    rules = made["linux"]["resources"]["devices"]
    assert [(rule["allow"], rule["major"], rule["minor"]) for rule in rules] == [
        (True, 195, 5),
        (True, 195, 255),
    ]
    assert made["process"]["env"][-1] == "HF_HUB_OFFLINE=1"


def test_what_is_mounted_hides_nothing_that_was_mounted_below_it():
    made = config("all")
    runtime.added(made, INVENTORY, numbers)
    places = [mount["destination"] for mount in made["mounts"]]
    assert places == ["/proc", "/models/own", "/models/own/cache"]
    assert "ro" in made["mounts"][1]["options"]


def test_a_gpu_that_there_is_not_is_refused_in_words():
    with pytest.raises(errors.KitError, match="no device 'GPU-c'; there is GPU-a, GPU-b"):
        runtime.added(config("GPU-a,GPU-c"), INVENTORY, numbers)


def test_it_stands_in_the_place_of_runc_and_says_in_its_log_what_it_refuses(tmp_path):
    inventory, runc = tmp_path / "inventory.json", tmp_path / "runc"
    inventory.write_text(allocation.to_json(INVENTORY))
    runc.write_text('#!/bin/sh\necho "$@"\n')
    program, log = tmp_path / "program", tmp_path / "log"
    program.write_text(runtime.program(runc, inventory))
    for file in (runc, program):
        file.chmod(0o755)
    bundle = tmp_path / "config.json"
    create = ("--log", str(log), "create", "--bundle", str(tmp_path), "id")

    def ran(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30)

    bundle.write_text(json.dumps(config()))
    assert ran(*create).stdout.split() == list(create)
    assert ran("state", "id").stdout == "state id\n"
    bundle.write_text(json.dumps(config("GPU-c")))
    refused = ran(*create)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no device 'GPU-c'" in json.loads(log.read_text())["msg"]
