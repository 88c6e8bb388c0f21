"""The sample trainer: its Role is the narrow one, and its loop is one that works."""

import runpy
import threading
from pathlib import Path

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.client import Pool, StaleEpoch
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool

FOLDER = Path(__file__).parents[3] / "manifests" / "samples" / "trainer"


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def test_the_role_names_one_lease_and_one_config_map():
    rules = next(d for d in documents("rbac.yaml") if d["kind"] == "Role")["rules"]
    pool = yaml.safe_load((FOLDER.parent / "roll-guide.yaml").read_text())["metadata"]["name"]
    assert rules == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [names.weights_lease_name(pool)],
            "verbs": ["get", "update", "watch"],
        },
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [names.registry_name(pool)],
            "verbs": ["get", "watch"],
        },
    ]


def test_the_job_runs_the_script_of_this_folder():
    (job,) = documents("job.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (kustomization,) = documents("kustomization.yaml")
    assert container["command"][-1] == "/trainer/trainer.py"
    assert kustomization["configMapGenerator"][0]["files"] == ["trainer.py"]
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "trainer"


@pytest.fixture
def trainer(monkeypatch):
    """The script's names, run against a world."""
    with FakePool() as world:
        monkeypatch.setenv("STEPS", "2")
        script = runpy.run_path(str(FOLDER / "trainer.py"))
        script["main"].__globals__["Pool"] = lambda name: Pool(
            name, NAMESPACE, identity=world.identity
        )
        yield world, script


def test_the_loop_syncs_every_engine(trainer, capsys):
    world, script = trainer
    script["main"]()
    assert {(e.gate, e.weights) for e in world.engines} == {("Open", "/checkpoints/step-2")}
    assert "step-2 is committed, and every gate is open" in capsys.readouterr().out


def test_the_loop_syncs_again_after_a_restart(trainer, capsys):
    world, script = trainer
    with Pool(POOL, NAMESPACE, identity=world.identity) as pool:
        first = world.engines[0]
        first.stuck.add("/update_weights_from_disk")
        threading.Timer(0.5, world.restart, [0]).start()
        script["sync"](pool, "step-1", "/c/1")
    assert "engine 0 (g0-1) restarted" in capsys.readouterr().out
    assert {engine.gate for engine in world.engines} == {"Open"}


def test_the_loop_gives_up_in_the_end(trainer):
    _, script = trainer

    class Restless:
        def wait_ready(self, seconds):
            return type("Registry", (), {"engines": (), "epoch": "e"})

        def update_from_disk(self, path, version):
            raise StaleEpoch("again")

    with pytest.raises(StaleEpoch):
        script["sync"](Restless(), "step-1", "/c/1")
