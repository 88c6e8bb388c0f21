"""What is said before a GPU is taken: a typo, at apply and without; and what a change would do."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from generators.policies import manifest as policies
from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import manifests
from tests import busy
from tests.builders import guide_spec, with_config
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("3x8")

WAIT_SECONDS = 30.0
CLI = Path(sys.executable).with_name("kubectl-sglang")
MEANT = "did you mean mem_fraction_static"

Json = dict[str, Any]


def manifest(spec: Json, name: str = "actor-infer") -> Json:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


# --- a typo


def test_without_a_policy_the_operator_names_the_typo_within_a_second_and_makes_no_pod(plane):
    pool = PoolUnderTest(plane, plane.namespace("typo"))
    pool.apply(**with_config(mem_fraction_statc=0.8))
    stalled = pool.wait_for(conditions.STALLED, "ArgumentUnknown")
    assert MEANT in stalled["message"]
    # By the API server's and the operator's clocks, which are one; they count whole seconds.
    created = _seconds(pool.object()["metadata"]["creationTimestamp"])
    assert _seconds(stalled["lastTransitionTime"]) - created <= busy.late(1)
    assert pool.all_pods() == []
    assert "Ready" not in {c["type"] for c in pool.status["conditions"] if c["status"] == "True"}


def _seconds(timestamp: str) -> float:
    return time.mktime(time.strptime(timestamp[:19], "%Y-%m-%dT%H:%M:%S"))


def test_the_typo_corrected_becomes_a_pool(plane):
    pool = PoolUnderTest(plane, plane.namespace("corrected"))
    pool.apply(**with_config(mem_fraction_statc=0.8), replicas=1)
    pool.wait_for(conditions.STALLED, "ArgumentUnknown")
    pool.apply(replicas=1)
    pool.wait_ready()
    assert pool.condition(conditions.STALLED) == {}
    pool.delete("--wait=false")


# --- the policies as an option


@pytest.fixture(scope="module")
def with_policies(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An overlay of the whole installation with the component, applied as one does."""
    folder = tmp_path_factory.mktemp("overlay")
    there = os.path.relpath(manifests(), folder)  # kustomize wants it relative
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [there],
        "components": [f"{there}/components/policies"],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    plane.kubectl("apply", "-k", str(folder))
    yield folder
    plane.kubectl("delete", "-k", str(manifests() / "policies"))


def test_the_whole_installation_and_the_policies_are_one_plain_apply(plane, with_policies):
    again = plane.kubectl("apply", "-k", str(with_policies)).stdout
    count = len(policies.VERSIONS) + 1  # and that of the weights' Leases
    assert again.count("validatingadmissionpolicy.") == count
    assert again.count("validatingadmissionpolicybinding.") == count
    assert plane.kubectl("diff", "-k", str(with_policies), check=False).returncode == 0


def test_kubectl_apply_of_a_typo_is_refused_with_what_was_meant(plane, with_policies):
    def said() -> str:
        done = plane.kubectl(
            "apply",
            "-f",
            "-",
            "--namespace=default",
            input=json.dumps(manifest(with_config(mem_fraction_statc=0.8), "refused")),
            check=False,
        )
        if done.returncode == 0:  # the policies take a moment to come into force
            plane.kubectl("delete", "sgi", "refused", "--namespace=default")
        return done.stderr if done.returncode else ""

    message = plane.wait(said, WAIT_SECONDS, "the policy")
    assert MEANT in message
    assert f"ValidatingAdmissionPolicy '{policies.policy_name('0.5.7')}'" in message


# --- diff against a live pool


def diff(plane: ControlPlane, folder: Path, spec: Json, *arguments: str) -> tuple[int, str]:
    """``kubectl sglang diff`` as a user runs it: a process, with kubectl's environment."""
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(manifest(spec)))
    done = subprocess.run(
        [CLI, "diff", file, "--namespace", "diff", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=plane.environment(),
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def live(plane: ControlPlane) -> PoolUnderTest:
    pool = PoolUnderTest(plane, plane.namespace("diff"))
    pool.apply()
    pool.wait_ready()
    return pool


def foretold(plane: ControlPlane, folder: Path, spec: Json) -> dict[str, str]:
    """What diff says becomes of each engine."""
    _, text = diff(plane, folder, spec, "--output=json")
    (found,) = json.loads(text)
    return {change["engine"]: change["action"] for change in found["changes"]}


def test_the_object_as_it_is_touches_nothing(plane, live, tmp_path):
    code, text = diff(plane, tmp_path, guide_spec())
    assert code == 0
    assert text.startswith("diff/actor-infer: 12 keeps")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"rollout": {"maxUnavailable": 3}}, {"keeps": 12}, id="rollout"),
        pytest.param({"replicas": 10}, {"keeps": 10, "goes": 2}, id="replicas"),
        pytest.param({"device_mapping": "list(range(2,24))+[0,1]"}, {"moves": 12}, id="order"),
        pytest.param(
            {"device_mapping": "list(range(0,20)) + [20,22]"},
            {"keeps": 10, "starts": 1, "goes": 2},
            id="mapping",
        ),
        pytest.param({"seed": 1}, {"restarts": 12}, id="argument"),
    ],
)
def test_what_diff_foretells_is_what_the_operator_does(plane, live, tmp_path, change, expected):
    """Each change is foretold, applied, and its pods counted by UID; then it is taken back."""
    before = live.wait_ready()
    spec = guide_spec(**change)
    told = foretold(plane, tmp_path, spec)
    assert {action: list(told.values()).count(action) for action in told.values()} == expected
    live.apply(**change)
    alive = [engine for engine, action in told.items() if action != "goes"]
    after = live.wait_engines(alive, 60)
    if "restarts" in expected:
        live.wait(lambda: not set(live.uids().values()) & set(before.values()), "a rollout", 120)
        after = live.wait_engines(alive, 60)
    same = {engine for engine in after if after[engine] == before.get(engine)}
    assert same == {engine for engine, action in told.items() if action in ("keeps", "moves")}
    assert diff(plane, tmp_path, spec)[0] == 0
    live.apply()
    live.wait_engines(before, 120)


def test_diff_says_why_and_what_comes_first(plane, live, tmp_path):
    live.wait_ready()
    code, text = diff(plane, tmp_path, guide_spec(seed=1))
    assert code == 1
    assert text.startswith("diff/actor-infer: 12 restarts")
    assert "with --random-seed=1" in text
    # Their gates are closed: they serve nobody, and all go at once.
    _, _, first = text.partition("first step")
    assert len(re.findall(r"\n +delete actor-infer-g\d+-\d+-\d+: revision", first)) == 12
