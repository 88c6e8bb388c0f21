"""Which field of the object a field of a pod comes from."""

import pytest

from sglang_operator.children import engine_pod, origin
from sglang_operator.scheduling import topology
from tests.builders import a_pool

TEMPLATE = {
    "metadata": {"labels": {"team": "rl"}},
    "spec": {
        "tolerations": [{"key": "gpu", "operator": "Exists"}, {"operator": "Exists"}],
        "volumes": [{"name": "models", "emptyDir": {}}],
        "containers": [
            {
                "name": "engine",
                "env": [{"name": "A", "value": "b"}],
                "volumeMounts": [{"name": "models", "mountPath": "/models"}],
            }
        ],
    },
}
POOL = a_pool(
    podTemplate=TEMPLATE,
    system_envs={"AAA": "x"},
    security={"apiKey": {"name": "s", "key": "k"}},
)


@pytest.mark.parametrize(
    ("rendered", "written"),
    [
        ("spec.tolerations[2].operator", "spec.podTemplate.spec.tolerations[0].operator"),
        ("spec.tolerations[3]", "spec.podTemplate.spec.tolerations[1]"),
        ("spec.tolerations[1]", "spec.restart.nodeLostSeconds"),
        ("spec.tolerations[4]", "spec.tolerations[4]"),
        ("spec.volumes[2].name", "spec.podTemplate.spec.volumes[0].name"),
        ("spec.volumes[0]", "spec"),
        ("spec.containers[0].env[10].name", "spec.podTemplate.spec.containers[0].env[0].name"),
        ("spec.containers[0].env[0].name", "spec.system_envs.AAA"),
        ("spec.containers[0].env[9].valueFrom", "spec.security.apiKey"),
        (
            "spec.containers[0].volumeMounts[2].mountPath",
            "spec.podTemplate.spec.containers[0].volumeMounts[0].mountPath",
        ),
        ("spec.containers[0].env", "spec.podTemplate.spec.containers[0].env"),
        ("metadata.labels", "spec.podTemplate.metadata.labels"),
        ("spec.nodeSelector", "spec.podTemplate.spec.nodeSelector"),
        (
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            "spec.podTemplate.spec.affinity.nodeAffinity."
            "requiredDuringSchedulingIgnoredDuringExecution",
        ),
        (
            "spec.containers[0].resources.requests",
            "spec.podTemplate.spec.containers[0].resources.requests",
        ),
        ("spec.containers[0].resources.limits[nvidia.com/gpu]", "spec.placement.resourceName"),
        ("spec.containers[0].image", "spec.image"),
        ("spec.securityContext.runAsUser", "spec.security.runAsUser"),
        ("spec.priorityClassName", "spec.scheduling.priorityClassName"),
        ("spec.containers[1].image", "spec.containers[1].image"),
        ("spec.restartPolicy", "spec"),
    ],
)
def test_a_field_of_a_pod_is_told_as_the_field_that_was_written(rendered, written):
    variables = [item["name"] for item in origin._items(engine_pod.template(POOL), ENV)]
    assert variables.index("A") == 10
    assert origin.field(POOL, rendered) == written


ENV = "spec.containers[0].env"


def test_an_index_counts_from_the_operators_items_whatever_they_are():
    """A volume of the user's own at /cache takes the place of one of the operator's."""
    mounts = [
        {"name": "c", "mountPath": "/cache"},
        {"name": "c", "mountPath": "/x"},
    ]
    volumes = [{"name": "c", "emptyDir": {}}, {"name": "d", "emptyDir": {}}]
    pool = a_pool(
        podTemplate={
            "spec": {"volumes": volumes, "containers": [{"name": "engine", "volumeMounts": mounts}]}
        }
    )
    assert origin.field(pool, "spec.volumes[2]") == "spec.podTemplate.spec.volumes[1]"
    told = "spec.podTemplate.spec.containers[0].volumeMounts[1].mountPath"
    assert origin.field(pool, "spec.containers[0].volumeMounts[2].mountPath") == told


def test_an_index_of_affinity_and_spreading_counts_from_what_the_pool_asks_for():
    rack = "example.com/rack"
    affinity, spread = "spec.affinity.podAffinity", "spec.topologySpreadConstraints"
    pool = a_pool(scheduling={"preferredTopology": rack, "spread": {"topologyKey": rack}})
    weighed = f"{affinity}.{topology.PREFERRED}"
    for path, told in (
        (f"{weighed}[0].podAffinityTerm.topologyKey", "spec.scheduling.preferredTopology"),
        (f"{weighed}[2].weight", f"spec.podTemplate.{weighed}[1].weight"),
        (f"{spread}[0].topologyKey", "spec.scheduling.spread"),
        (f"{spread}[1]", f"spec.podTemplate.{spread}[0]"),
        (
            f"{affinity}.{topology.REQUIRED}[0]",
            f"spec.podTemplate.{affinity}.{topology.REQUIRED}[0]",
        ),
    ):
        assert origin.field(pool, path) == told
    path = f"{affinity}.{topology.REQUIRED}[0].topologyKey"
    required = a_pool(scheduling={"requiredTopology": rack})
    assert origin.field(required, path) == "spec.scheduling.requiredTopology"
    queued = {"gang": "Kueue", "queueName": "gpus", "requiredTopology": rack}
    assert origin.field(a_pool(scheduling=queued), path) == f"spec.podTemplate.{path}"


def test_a_message_of_the_API_server_is_told_with_the_objects_paths():
    said = (
        'Pod "actor-infer-g0-1-0" is invalid: [spec.tolerations[2].operator: Unsupported value: '
        '"Equals": supported values: "Equal", "Exists", metadata.labels: Invalid value: "rl team": '
        "a valid label must be an empty string, spec.containers[0].env[10].name: Invalid value: "
        '"spec.image: no"]'
    )
    assert origin.message(POOL, said) == (
        'Pod "actor-infer-g0-1-0" is invalid: [spec.podTemplate.spec.tolerations[0].operator: '
        'Unsupported value: "Equals": supported values: "Equal", "Exists", '
        'spec.podTemplate.metadata.labels: Invalid value: "rl team": a valid label must be an '
        "empty string, spec.podTemplate.spec.containers[0].env[0].name: Invalid value: "
        '"spec.image: no"]'
    )


def test_a_message_without_a_path_stays_as_it_is():
    said = 'pods "x" is forbidden: violates PodSecurity "baseline:latest": hostPath volumes'
    assert origin.message(POOL, said) == said


@pytest.mark.parametrize(
    ("rendered", "written"),
    [
        ("spec.runtimeClassName", "spec.placement.shared.runtimeClassName"),
        ("spec.volumes[0].hostPath.path", "spec.placement.shared.sharedMemory"),
        ("spec.tolerations[2]", "spec.placement.resourceName"),
        ("spec.tolerations[0]", "spec.restart.nodeLostSeconds"),
    ],
)
def test_what_a_pool_beside_its_trainer_has_is_decided_there(rendered, written):
    placement = {"mode": "Shared", "shared": {"runtimeClassName": "nvidia"}}
    assert origin.field(a_pool(placement=placement), rendered) == written
    assert origin.field(a_pool(), "spec.runtimeClassName") == (
        "spec.podTemplate.spec.runtimeClassName"
    )
