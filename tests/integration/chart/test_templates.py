"""What the chart renders, by Helm 4 and Helm 3, without a cluster."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from generators.chart.generated import CHART
from generators.checkout import MANIFESTS
from generators.policies import lease
from sglang_operator.api import names
from sglang_operator.engine import schema
from sglang_operator.testing import binaries
from tests import structural
from tests.integration.chart.helm import IMAGE, HelmError, kinds, named

CI_VALUES = sorted((CHART / "ci").glob("*.yaml"))
CHART_LABELS = (
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
)
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NAMESPACED = {"watch": {"scope": "Namespaced"}, "crds": {"enabled": False}}


def values() -> Any:
    return yaml.safe_load((CHART / "values.yaml").read_text())


# --- well formed


@pytest.mark.parametrize("path", CI_VALUES, ids=lambda path: path.stem)
def test_the_chart_is_clean_with_the_values_of_each_use(either_helm, path):
    either_helm("lint", str(CHART), "--strict", f"--values={path}")
    assert either_helm.objects(None, f"--values={path}")


@pytest.mark.parametrize("path", CI_VALUES, ids=lambda path: path.stem)
def test_helm_3_and_helm_4_render_the_same(helms, path):
    assert helms["helm3"].objects({}, f"--values={path}") == helms["helm4"].objects(
        {}, f"--values={path}"
    )


def test_a_cluster_that_is_too_old_is_refused(helm):
    with pytest.raises(HelmError, match=r"incompatible with Kubernetes v1\.33\.0"):
        helm.objects({}, "--kube-version=1.33.0")
    helm.objects({}, "--kube-version=1.34.1-gke.200")


# --- one installation, three ways to write it


def plain(objects: list[Any]) -> dict[tuple[str, str], Any]:
    """The objects by kind and name, without the labels that only a chart has."""

    def strip(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: strip(value) for key, value in found.items() if key not in CHART_LABELS}
        if isinstance(found, list):
            return [strip(item) for item in found]
        return found

    kept = {}
    for each in map(strip, objects):
        annotations = each["metadata"].get("annotations", {})
        if "helm.sh/hook" in annotations:
            continue
        annotations.pop("helm.sh/resource-policy", None)
        if not annotations:
            each["metadata"].pop("annotations", None)
        kept[each["kind"], each["metadata"]["name"]] = each
    return kept


def kustomized(folder: Path) -> list[Any]:
    kubectl = str(binaries.locate() / "kubectl")
    made = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, check=True)
    return list(yaml.load_all(made.stdout, Loader=structural.LOADER))


def test_kustomize_gives_the_same_objects_as_the_charts_defaults(helm):
    ours = plain(kustomized(MANIFESTS))
    assert ours.pop(("Namespace", "sglang-operator"))  # helm install makes it by a flag
    assert ours == plain(helm.objects())


def test_kustomize_gives_the_same_objects_as_the_chart_in_namespaced_mode(helm):
    ours = plain(kustomized(MANIFESTS / "namespaced"))
    charts = plain(helm.objects(NAMESPACED))
    for found in charts.values():  # kubectl apply -n says it for kustomize
        assert found["metadata"].pop("namespace") == "sglang-operator"
        for subject in found.get("subjects", []):
            assert subject.pop("namespace") == "sglang-operator"
    (operator,) = charts["Deployment", "sglang-operator"]["spec"]["template"]["spec"]["containers"]
    served = operator["args"].index("--namespace=sglang-operator")
    operator["args"][served] = "--namespace=$(POD_NAMESPACE)"
    assert ours == charts


# --- values that are wrong are refused


def objects_of_values(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for key, value in found.items():
        if isinstance(value, dict) and value:
            yield from objects_of_values(value, (*path, key))


FREE = {  # any resource, and any label, may stand there
    ("resources", "requests"),
    ("resources", "limits"),
    ("metrics", "dashboards", "labels"),
}


def test_a_misspelt_value_is_refused_wherever_it_stands(either_helm):
    places = sorted(set(objects_of_values(values())) - FREE)
    wrong: Any = {}
    for place in places:
        level = wrong
        for key in place:
            level = level.setdefault(key, {})
        level["misspelt"] = 1
    with pytest.raises(HelmError) as refused:
        either_helm.objects(wrong)
    for place in places:
        assert f"at '{''.join(f'/{key}' for key in place)}'" in str(refused.value)
    assert str(refused.value).count("'misspelt' not allowed") == len(places)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"watch": {"scope": "namespaced"}}, "/watch/scope"),
        ({"watch": {"namespaces": ["a"]}}, "serves all namespaces; set watch.scope to Namespaced"),
        ({"watch": {"scope": "Namespaced", "namespaces": ["A_b"]}}, "/watch/namespaces/0"),
        ({"image": {"digest": "0.1.0"}}, "/image/digest"),
        ({"replicas": "2"}, "/replicas"),
        ({"replicas": -1}, "/replicas"),
        ({"log": {"level": "verbose"}}, "/log/level"),
        ({"crds": {"keep": "yes"}}, "/crds/keep"),
        ({"policies": {"enabled": True, "versions": ["0.9.9"]}}, "no policy for SGLang 0.9.9"),
        ({"trainers": [{"name": "ppo", "namespace": "rl", "pools": ["a"]}]}, "serviceAccount"),
        ({"networkPolicy": {"engines": {"enabled": True}}}, "name the namespaces whose engines"),
        ({"metrics": {"enabled": False, "podMonitor": {"enabled": True}}}, "set metrics.enabled"),
        ({"metrics": {"engines": {"interval": "15"}}}, "/metrics/engines/interval"),
        ({"networkPolicy": {"engines": {"trainers": [{}]}}}, "/networkPolicy/engines/trainers/0"),
        (
            {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
            "everything counted twice; leave one",
        ),
        ({"resources": {"limits": {"memory": "lots"}}}, "/resources/limits/memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused_and_named(either_helm, wrong, said):
    with pytest.raises(HelmError, match=said):
        either_helm.objects(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image": {"repository": ""}}, "image.repository is not set.*Build one"),
        ({"image": {"repository": "REGISTRY/sglang-operator"}}, "REGISTRY stands for your"),
        ({"image": {"repository": "r.example/op:0.1.0"}}, "/image/repository"),
        ({"image": {"repository": "r.example/Team/op"}}, "/image/repository"),
        ({"imagePullSecrets": ["My_Secret"]}, "/imagePullSecrets/0"),
        ({"nameOverride": "Upper"}, "/nameOverride"),
        ({"fullnameOverride": "under_score"}, "/fullnameOverride"),
        ({"fullnameOverride": "x" * 64}, "/fullnameOverride"),
        ({"serviceAccount": {"name": "a b"}}, "/serviceAccount/name"),
        ({"serviceAccount": {"annotations": {"a b": "c"}}}, "/serviceAccount/annotations"),
        ({"priorityClassName": "Highest"}, "/priorityClassName"),
        ({"commonLabels": {"a b": "c"}}, "/commonLabels"),
        ({"commonLabels": {"team": "ML platform"}}, "/commonLabels/team"),
        ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "the chart's own"),
        ({"podLabels": {"app.kubernetes.io/instance": "x"}}, "are found by the label"),
        ({"podLabels": {"tier": "-"}}, "/podLabels/tier"),
        ({"podAnnotations": {"/x": "y"}}, "/podAnnotations"),
        ({"nodeSelector": {"pool": "a/b"}}, "/nodeSelector/pool"),
        ({"extraEnv": [{"name": "A=B"}]}, "/extraEnv/0/name"),
        ({"extraEnv": [{"name": "POD_NAME", "value": "x"}]}, "POD_NAME is there already"),
        ({"extraEnv": [{"name": "A", "value": "x"}] * 2}, "A is there already"),
        ({"metrics": {"rules": {"labels": {"a": "b c"}}}}, "/metrics/rules/labels/a"),
        ({"trainers": [{"pools": ["UPPER"]}]}, "/trainers/0/pools/0"),
        ({"trainers": [{"serviceAccount": "a b"}]}, "/trainers/0/serviceAccount"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_api_server_or_the_kubelet_would_refuse_is_refused_before(
    either_helm, wrong, said
):
    with pytest.raises(HelmError, match=said):
        either_helm.objects(wrong)


@pytest.mark.parametrize(
    "release", ["a", "r" * 53, "v1.ml", "sglang-operator-of-team-with-long-name-and-more-0000x"]
)
def test_every_name_of_a_release_is_one_whatever_the_release_is_called(helm, release):
    """A Service's name is a label of 63 characters; the others may be longer and have dots."""
    everything = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())
    everything["metrics"]["podMonitor"] = {"enabled": False}
    everything["metrics"]["serviceMonitor"] = {"enabled": True}
    made = helm("template", release, str(CHART), "--namespace=sys", values=everything)
    for found in yaml.load_all(made, Loader=structural.LOADER):
        if found:
            kind, name = found["kind"], found["metadata"]["name"]
            most, form = (63, LABEL) if kind == "Service" else (253, SUBDOMAIN)
            assert len(name) <= most, (kind, name)
            assert form.fullmatch(name), (kind, name)


def test_a_release_that_begins_with_a_digit_has_no_service(helm):
    on = {"metrics": {"serviceMonitor": {"enabled": True}}}
    with pytest.raises(HelmError, match=r"1st-sglang-operator-metrics.*set fullnameOverride"):
        helm("template", "1st", str(CHART), IMAGE, values=on)
    helm("template", "1st", str(CHART), IMAGE, values={**on, "fullnameOverride": "first"})
    helm("template", "1st", str(CHART), IMAGE)


def test_what_helm_test_runs_has_the_operators_account_and_image(helm):
    """``tests/installs`` runs it; here that it goes where the operator goes."""
    namespaced = {**NAMESPACED, "image": {"tag": "t"}, "nodeSelector": {"a": "b"}}
    objects = helm.objects(namespaced)
    pod = named(objects, "Pod", "sglang-operator-test")
    operator = named(objects, "Deployment")["spec"]["template"]["spec"]
    for key in ("serviceAccountName", "nodeSelector", "securityContext"):
        assert pod["spec"][key] == operator[key]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == operator["containers"][0]["image"]
    script, namespace = container["args"]
    assert script == (CHART / "scripts" / "helm_test.py").read_text()
    assert "$(" not in script  # Kubernetes would take it for a variable
    assert namespace == "sglang-operator"


@pytest.mark.parametrize(
    ("release", "values", "lease"),
    [
        ("sglang-operator", {}, None),
        ("blue", {}, "blue-sglang-operator"),
        ("sglang-operator-blue", {}, "sglang-operator-blue"),
        ("blue", {"fullnameOverride": "teal"}, "teal"),
        ("blue", {"leaseName": "sglang-operator"}, None),
        ("sglang-operator", {"leaseName": "of.its.own"}, "of.its.own"),
    ],
)
def test_each_release_has_a_lease_of_its_own(helm, release, values, lease):
    made = helm("template", release, str(CHART), IMAGE, values=values)
    objects = list(yaml.load_all(made, Loader=structural.LOADER))
    (deployment,) = (found for found in objects if found and found["kind"] == "Deployment")
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    given = [flag for flag in args if flag.startswith("--lease-name")]
    assert given == ([f"--lease-name={lease}"] if lease else [])
    (test,) = (found for found in objects if found and found["kind"] == "Pod")
    env = {each["name"]: each.get("value") for each in test["spec"]["containers"][0]["env"]}
    assert env["LEASE_NAME"] == (lease or names.LEASE_NAME)


# --- scopes


def test_namespaced_mode_has_nothing_cluster_wide(helm):
    served = {"watch": {"scope": "Namespaced", "namespaces": ["a", "b"]}}
    objects = helm.objects({**NAMESPACED, **served})
    assert not [found for found in objects if "namespace" not in found["metadata"]]
    roles = [f["metadata"] for f in objects if f["kind"] == "Role"]
    assert [(role["namespace"], role["name"]) for role in roles] == [
        ("a", "sglang-operator"),
        ("b", "sglang-operator"),
        ("sglang-operator", "sglang-operator-lease"),
    ]
    (container,) = named(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["args"][-3:] == ["--namespace=a", "--namespace=b", "--no-nodes"]


def test_without_a_look_at_nodes_no_role_has_them(helm):
    with_nodes = named(helm.objects(), "ClusterRole")["rules"]
    without = helm.objects({"watch": {"nodes": False}})
    rules = named(without, "ClusterRole")["rules"]
    gone = [rule["resources"] for rule in with_nodes if rule not in rules]
    assert gone == [["nodes"], ["resourceslices"]], "and what drivers publish of their devices"
    (container,) = named(without, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "--no-nodes" in container["args"]


# --- parts that may be left out


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"crds": {"enabled": False}}, {"CustomResourceDefinition"}),
        (
            {"rbac": {"create": False}},
            {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"},
        ),
        ({"serviceAccount": {"create": False}}, {"ServiceAccount"}),
        ({"podDisruptionBudget": {"enabled": False}}, {"PodDisruptionBudget"}),
        ({"replicas": 1}, {"PodDisruptionBudget"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_switched_off_is_not_there(helm, off, gone):
    assert kinds(helm.objects()) - kinds(helm.objects(off)) == gone


def test_the_definition_stays_unless_told_otherwise(helm):
    kept = named(helm.objects(), "CustomResourceDefinition", "sglanginferences.sglang-operator.dev")
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    not_kept = helm.objects({"crds": {"keep": False}})
    definition = named(not_kept, "CustomResourceDefinition", "sglanginferences.sglang-operator.dev")
    assert "annotations" not in definition["metadata"]
    source = yaml.safe_load((MANIFESTS / "crd" / "sglanginferences.yaml").read_text())
    assert definition["spec"] == source["spec"]


def test_copies_are_spread_over_nodes_only_if_there_are_several(helm):
    def spread(**given: Any) -> Any:
        pod = named(helm.objects(given), "Deployment")["spec"]["template"]["spec"]
        return [c["topologyKey"] for c in pod.get("topologySpreadConstraints", [])]

    assert spread() == ["kubernetes.io/hostname"]
    assert spread(replicas=1) == []
    assert spread(spread=False) == []
    zones = {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    assert spread(topologySpreadConstraints=[zones]) == ["zone"]


def test_a_digest_wins_over_a_tag(helm):
    def image(**given: str) -> Any:
        pod = named(helm.objects({"image": given}), "Deployment")["spec"]["template"]["spec"]
        return pod["containers"][0]["image"]

    digest = "sha256:" + "0" * 64
    assert image(repository="r.example:5000/ml/op") == "r.example:5000/ml/op:0.1.0"
    assert image(repository="r.example/op", tag="t") == "r.example/op:t"
    assert image(repository="r.example/op", tag="t", digest=digest) == f"r.example/op@{digest}"


def test_the_pods_own_settings_reach_the_pod(helm):
    everything = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())
    template = named(helm.objects(everything), "Deployment")["spec"]["template"]
    pod, container = template["spec"], template["spec"]["containers"][0]
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[key] == everything[key]
    assert pod["hostUsers"] is False
    assert template["metadata"]["annotations"] == everything["podAnnotations"]
    assert template["metadata"]["labels"]["tier"] == "control"
    assert {"name": "HTTPS_PROXY", "value": ""} in container["env"]
    assert container["envFrom"] == everything["extraEnvFrom"]
    assert "--log-level=debug" in container["args"]


# --- optional parts


def test_each_known_version_of_sglang_may_have_its_policy(helm):
    def policies(**given: Any) -> set[str]:
        return {
            found["metadata"]["name"].removeprefix("sglang-operator-arguments-")
            for found in helm.objects({"policies": given})
            if found["kind"] == "ValidatingAdmissionPolicy"
        }

    assert policies() == set()
    assert policies(enabled=True) == {*map(str, schema.KNOWN), lease.NAME}
    assert policies(enabled=True, versions=["0.5.7"]) == {"0.5.7", lease.NAME}


def test_a_trainer_gets_the_lease_and_the_registry_of_its_pools_and_no_more(helm):
    trainer = {"name": "ppo", "namespace": "rl", "serviceAccount": "t", "pools": ["a", "b"]}
    objects = helm.objects({"trainers": [trainer]})
    role = named(objects, "Role", "sglang-trainer-ppo")
    assert role["metadata"]["namespace"] == "rl"
    assert role["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["a-weights", "b-weights"],
            "verbs": ["get", "update", "watch"],
        },
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["a-engines", "b-engines"],
            "verbs": ["get", "watch"],
        },
    ]
    sharing = helm.objects({"trainers": [trainer | {"sharesGPUs": True}]})
    shares = named(sharing, "Role", "sglang-trainer-ppo")
    assert shares["rules"][:2] == role["rules"]
    (more,) = shares["rules"][2:]
    assert (more["resourceNames"], more["verbs"]) == (["a-slots", "b-slots"], ["patch"])
    binding = named(objects, "RoleBinding", "sglang-trainer-ppo")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "t", "namespace": "rl"}]


def test_engines_let_in_the_operator_trainers_clients_and_each_other_only(helm):
    engines = {"enabled": True, "namespaces": ["rl"]}
    objects = helm.objects({"networkPolicy": {"engines": engines}})
    policy = named(objects, "NetworkPolicy", "sglang-operator-engines")
    assert policy["metadata"]["namespace"] == "rl"
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    each_other, operator, trainers, clients = policy["spec"]["ingress"]
    assert "ports" not in each_other
    assert operator["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "sglang-operator"
    }
    assert operator["ports"] == clients["ports"] == [{"port": "http", "protocol": "TCP"}]
    defaults = values()["networkPolicy"]["engines"]
    assert trainers == {"from": defaults["trainers"]}
    assert clients["from"] == defaults["clients"]


def test_the_operator_lets_in_who_scrapes_and_who_probes_and_nobody_else(helm):
    prometheus = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]

    def rules(**given: Any) -> Any:
        objects = helm.objects(given)
        return named(objects, "NetworkPolicy")["spec"]["ingress"]

    closed = {"operator": {"enabled": True, "metricsFrom": prometheus}}
    probes, metrics = rules(networkPolicy=closed)
    assert probes == {"ports": [{"port": "health", "protocol": "TCP"}]}
    assert metrics == {"ports": [{"port": "metrics", "protocol": "TCP"}], "from": prometheus}
    assert rules(networkPolicy=closed, metrics={"enabled": False}) == [probes]


def test_monitors_find_the_ports_that_there_are(helm):
    on = {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}
    objects = helm.objects({"metrics": {"podMonitor": on, "engines": on}})
    by_service = helm.objects({"metrics": {"serviceMonitor": on}})
    pod = named(objects, "Deployment")["spec"]["template"]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    pods = named(objects, "PodMonitor")
    services = named(by_service, "ServiceMonitor")
    engines = named(objects, "PodMonitor", "sglang-operator-engines")
    service = named(by_service, "Service", "sglang-operator-metrics")
    for monitor in (pods, services, engines):
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
    selector = pods["spec"]["selector"]["matchLabels"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert selector == service["spec"]["selector"]
    assert selector.items() <= service["metadata"]["labels"].items()
    assert pods["spec"]["podMetricsEndpoints"] == [
        {"port": "metrics", "honorLabels": True, "interval": "15s"}
    ]
    assert services["spec"]["endpoints"] == [
        {"port": "metrics", "honorLabels": True, "interval": "15s"}
    ]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    plain = list(yaml.safe_load_all((MANIFESTS / "monitoring" / "pod_monitors.yaml").read_text()))
    for monitor, source in zip((pods, engines), plain, strict=True):
        (ours,), (theirs,) = (m["spec"].pop("podMetricsEndpoints") for m in (monitor, source))
        assert {**ours, "interval": ""} == {**theirs, "interval": ""}
    assert engines["spec"] == plain[1]["spec"]


def test_alerts_and_dashboards_are_those_of_the_manifests(helm):
    on = {"enabled": True}
    objects = helm.objects({"metrics": {"rules": on, "dashboards": on}})
    folder = MANIFESTS / "monitoring"
    rule = yaml.safe_load((folder / "prometheus_rule.yaml").read_text())
    assert named(objects, "PrometheusRule")["spec"] == rule["spec"]
    dashboards = named(objects, "ConfigMap", "sglang-operator-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["data"] == {path.name: path.read_text() for path in folder.glob("*.json")}


def test_the_health_script_comes_as_argo_cd_wants_it(helm):
    objects = helm.objects({"argocd": {"healthScript": True}})
    (script,) = named(objects, "ConfigMap", "sglang-operator-argocd-health")["data"].items()
    source = MANIFESTS / "argocd" / "sglang-operator.dev" / "SGLangInference" / "health.lua"
    assert script == (
        "resource.customizations.health.sglang-operator.dev_SGLangInference",
        source.read_text(),
    )


def test_two_releases_in_one_cluster_share_no_name(helm):
    other = helm("template", "other", str(CHART), "--namespace=sys", IMAGE, values=NAMESPACED)
    names = {(f["kind"], f["metadata"]["name"]) for f in yaml.safe_load_all(other) if f}
    assert not names & {
        (found["kind"], found["metadata"]["name"]) for found in helm.objects(NAMESPACED)
    }
