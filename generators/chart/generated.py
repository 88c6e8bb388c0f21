"""The generated files of the chart: copies of manifests, and the README from the values.

Helm can read no file outside its chart, so what stands in ``manifests/`` is copied into
``charts/sglang-operator/files``.
"""

from pathlib import Path

import yaml

from generators.chart import readme
from generators.checkout import MANIFESTS, ROOT

CHART = ROOT / "charts" / "sglang-operator"
FILES = CHART / "files"
README = CHART / "README.md"
HEALTH = MANIFESTS / "argocd" / "sglang-operator.dev" / "SGLangInference" / "health.lua"

_RBAC = MANIFESTS / "rbac"
_COPIES = {
    FILES / "crd.yaml": MANIFESTS / "crd" / "sglanginferences.yaml",
    FILES / "health.lua": HEALTH,
    FILES / "weights_lease_policy.yaml": MANIFESTS / "policies" / "weights-lease.yaml",
    FILES / "monitoring" / "rules.yaml": MANIFESTS / "monitoring" / "prometheus_rule.yaml",
    FILES / "rbac" / "operator.yaml": _RBAC / "namespaced" / "role.yaml",
    FILES / "rbac" / "lease.yaml": _RBAC / "lease" / "role.yaml",
    FILES / "rbac" / "viewer.yaml": _RBAC / "users" / "viewer.yaml",
    FILES / "rbac" / "editor.yaml": _RBAC / "users" / "editor.yaml",
}


def files() -> dict[Path, str]:
    """The content of every generated file, by its path."""
    policies, dashboards = MANIFESTS / "policies", MANIFESTS / "monitoring"
    copies = {
        **_COPIES,
        **{FILES / "monitoring" / path.name: path for path in dashboards.glob("*.json")},
        **{FILES / "policies" / path.name: path for path in policies.glob("sglang-*.yaml")},
        **{FILES / "rbac" / "gangs" / path.name: path for path in (_RBAC / "gangs").glob("*.yaml")},
    }
    made = {target: source.read_text() for target, source in copies.items()}
    made[FILES / "rbac" / "nodes.yaml"] = _nodes_rules()
    made[README] = readme.render(CHART)
    return made


def found() -> list[Path]:
    """Every file that is there where generated ones are."""
    return [*(path for path in FILES.rglob("*") if path.is_file()), README]


def _nodes_rules() -> str:
    """What the ClusterRole has beyond the Role: the look at nodes."""
    role = yaml.safe_load((_RBAC / "namespaced" / "role.yaml").read_text())["rules"]
    cluster = yaml.safe_load((_RBAC / "cluster" / "cluster_role.yaml").read_text())["rules"]
    rules = [rule for rule in cluster if rule not in role]
    return "# What scope Cluster adds: a look at the nodes.\n" + yaml.safe_dump({"rules": rules})
