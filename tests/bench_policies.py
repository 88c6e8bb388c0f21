"""``python -m tests.bench_policies``: what the policies cost a create, p50 and p99.

Creates alternate between a namespace in which the bindings are in force and one in which they are
not, on one plane and one connection; so both see the same machine.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from generators.checkout import MANIFESTS
from generators.policies import manifest
from sglang_operator.api import names
from sglang_operator.testing import ApiError, ControlPlane
from tests.builders import with_config

CREATES = 100
WARM_UP = 10
WITH, WITHOUT = "with-policies", "without-policies"
WAIT_SECONDS = 30.0


def main() -> int:
    """Print the figures; 0."""
    with ControlPlane("0") as plane:
        _install(plane)
        for title, spec in _specs().items():
            _report(title, _creates(plane, spec, CREATES))
        refused = with_config(mem_fraction_statc=0.8)
        _report("refused, dry run", _refusals(plane, refused, CREATES))
    return 0


def _specs() -> dict[str, dict[str, Any]]:
    usual = with_config(tp_size=2, log_level="info", context_length=4096, cuda_graph_bs=[1, 2])
    return {
        "default image (0.5.7)": usual,
        "newest (0.5.23)": {**with_config(tp_size=2), "image": "sglang:v0.5.23"},
    }


def _install(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-k", str(MANIFESTS / "crd"))
    for namespace in (WITH, WITHOUT):
        plane.namespace(namespace)
    plane.wait(lambda: plane.api.get(_path(WITH)), WAIT_SECONDS, "the resource")
    plane.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "policies"))
    kind = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    chosen = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": WITH}}}
    for version in manifest.VERSIONS:
        path = f"{kind}/{manifest.policy_name(version)}"
        plane.api.merge(path, {"spec": {"matchResources": chosen}})
    plane.wait(lambda: _in_force(plane), WAIT_SECONDS, "the policies")


def _in_force(plane: ControlPlane) -> bool:
    """Whether every policy refuses in one namespace, and none does in the other."""
    for version in manifest.VERSIONS:
        spec = {**with_config(host="here"), "engineVersion": version}
        if not _is_refused(plane, WITH, spec) or _is_refused(plane, WITHOUT, spec):
            return False
    return True


def _is_refused(plane: ControlPlane, namespace: str, spec: dict[str, Any]) -> bool:
    try:
        plane.api.post(f"{_path(namespace)}?dryRun=All", _pool("probe", spec))
    except ApiError:
        return True
    return False


def _refusals(plane: ControlPlane, spec: dict[str, Any], count: int) -> list[float]:
    return [_timed(partial(_is_refused, plane, WITH, spec)) for _ in range(count)]


def _creates(plane: ControlPlane, spec: dict[str, Any], count: int) -> dict[str, list[float]]:
    """Milliseconds of creates by namespace, in turns."""
    taken: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    for number in range(WARM_UP + count):
        for namespace, found in taken.items():
            name, path = f"pool-{number}", _path(namespace)
            found.append(_timed(partial(plane.api.post, path, _pool(name, spec))))
            plane.api.delete(f"{path}/{name}")
    return {namespace: found[WARM_UP:] for namespace, found in taken.items()}


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def _report(title: str, taken: dict[str, list[float]] | list[float]) -> None:
    for label, found in (taken if isinstance(taken, dict) else {"": taken}).items():
        cuts = statistics.quantiles(found, n=100, method="inclusive")
        print(f"{title} {label}: p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms ({len(found)})")


def _path(namespace: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"


def _pool(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


if __name__ == "__main__":
    sys.exit(main())
