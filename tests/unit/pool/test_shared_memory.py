"""A memory limit in which /dev/shm has no room is told before an engine dies of it."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from sglang_operator.cli import main
from sglang_operator.cli.cluster.verdict import verdicts
from sglang_operator.diagnosis import pod_signatures
from sglang_operator.engine import endings, signatures
from sglang_operator.engine.signature_row import MORE_SHM
from sglang_operator.observed.model import Observed
from sglang_operator.plan.plan import plan
from sglang_operator.status import compute
from tests.builders import NOW, a_pool, all_pods, guide_spec, weighed
from tests.unit.view.drawn_cluster import DrawnCluster

REASON = "MemoryLimitBelowSharedMemory"


def template(limit: Any = None, shm: Any = None) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "engine"}
    body: dict[str, Any] = {"containers": [container]}
    if limit is not None:
        container["resources"] = {"limits": {"memory": limit}}
    if shm is not None:
        container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
        body["volumes"] = [{"name": "shm", **shm}]
    return {"podTemplate": {"spec": body}}


def memory(size: str | None) -> dict[str, Any]:
    return {"emptyDir": {"medium": "Memory", **({"sizeLimit": size} if size else {})}}


CLAIM = {"persistentVolumeClaim": {"claimName": "c"}}


@pytest.mark.parametrize(
    ("limit", "shm", "told"),
    [
        ("12Gi", None, "the memory limit is 12Gi, and /dev/shm alone may hold 12 GiB"),
        ("1Gi", None, "1Gi"),
        (2**30, None, "1073741824"),
        ("13Gi", None, ""),
        (None, None, ""),
        ("64Gi", memory("64Gi"), "may hold 64 GiB"),
        ("64Gi", memory("512Gi"), "may hold 512 GiB"),
        ("65Gi", memory("64Gi"), ""),
        ("2Gi", memory("500Mi"), ""),
        ("1Gi", memory("1536Mi"), "may hold 1.5 GiB"),
        ("8Gi", memory(None), ""),  # the limit is all that bounds it
        ("8Gi", CLAIM, ""),
    ],
)
def test_a_limit_below_shared_memory_is_a_warning_before_any_pod(limit, shm, told):
    found = [w for w in a_pool(**template(limit, shm)).warnings if w.reason == REASON]
    assert bool(found) is bool(told)
    for warning in found:
        assert told in warning.message
        assert "set a limit of that and what the engine needs" in warning.message


def _observed(limit: str, given: str, **changes: Any) -> list[dict[str, Any]]:
    pool = a_pool(**template(given or None), **changes)
    pods = all_pods(pool, containers_ready=False, memory_limit=limit)
    seen = plan(pool, Observed(pods=tuple(pods)), NOW)
    found = compute.compute(
        pool, seen, weighed(pool, pods), ignored=(), troubles=(), previous={}, now=NOW
    )
    return [each for each in found.get("warnings", []) if each["reason"] == REASON]


def test_a_limit_that_the_namespace_gave_is_told_as_soon_as_there_is_a_pod():
    (told,) = _observed("1Gi", "")
    assert (
        "1Gi, by a LimitRange of the namespace, and /dev/shm alone may hold 12 GiB"
        in (told["message"])
    )
    assert _observed("64Gi", "") == _observed("", "") == []


def test_the_limit_of_the_template_is_told_once_and_not_as_the_namespaces():
    (told,) = _observed("8Gi", "8Gi")
    assert "LimitRange" not in told["message"]
    assert _observed("64Gi", "64Gi") == []


def test_kubectl_sglang_status_tells_what_the_operator_saw():
    world = DrawnCluster()
    world.pool()
    for pod in world.pods:
        resources = {"limits": {"memory": "1Gi"}}
        pod["spec"]["containers"] = [{"name": "engine", "resources": resources}]
    world.observe()
    (pool,) = world.cluster_view().pools
    (told,) = [each for each in verdicts(pool, NOW) if each.reason == REASON]
    assert "by a LimitRange" in told.what


def test_lint_tells_of_the_limit(tmp_path):
    raw = {
        "apiVersion": "sglang-operator.dev/v1alpha1",
        "kind": "SGLangInference",
        "metadata": {"name": "a"},
        "spec": guide_spec(**template("4Gi")),
    }
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps(raw))
    assert REASON in CliRunner().invoke(main.cli, ["lint", str(path)]).output


def test_every_advice_to_have_more_shared_memory_names_the_way_that_works():
    rows: list[Any] = [*endings.ENDINGS, *signatures.SIGNATURES, *pod_signatures.SIGNATURES]
    about = [
        row for row in rows if "/dev/shm is" in row.message or "filled /dev/shm" in row.message
    ]
    assert len(about) >= 3
    for row in about:
        assert row.advice.startswith(MORE_SHM)
    for row in rows:
        if "/dev/shm is too small" in row.advice:
            assert MORE_SHM in row.advice
