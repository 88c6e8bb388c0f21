"""What a podTemplate may say, and that nothing in it raises privilege."""

import copy
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sglang_operator.api import errors, names, pod_shape, pod_template
from sglang_operator.api.schemas import pod_template as schema
from sglang_operator.children import engine_pod
from sglang_operator.observed.claims import ClaimObject
from sglang_operator.placement.devices import Inventory
from sglang_operator.placement.seats import Seen
from sglang_operator.pool import devices as pool_devices
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests import podtemplates, privileges
from tests.builders import OWNER, a_pool, guide_spec, refused
from tests.unit.placement.trainers import SHARED, THREE, published
from tests.unit.placement.trainers import pods as trainer_pods


def problems(template):
    found = pod_template.parse(template)[1]
    return [(item.reason, item.field) for item in found if item.severity is errors.Severity.ERROR]


def volumes(*items, mounts=()):
    container = {"name": "engine", "volumeMounts": list(mounts)}
    return {"spec": {"volumes": list(items), "containers": [container]}}


def rendered(template):
    return engine_pod.template(a_pool(podTemplate=template))


def mounts_of(template):
    return rendered(template)["spec"]["containers"][0]["volumeMounts"]


def test_a_template_that_says_everything_is_taken_as_it_is():
    assert pod_template.parse(podtemplates.EVERYTHING)[1] == ()


@pytest.mark.parametrize(
    ("template", "at"),
    [
        ({"spec": {"imagePullSecrets": [{"name": "My_Secret"}]}}, "imagePullSecrets[0].name"),
        ({"spec": {"imagePullSecrets": [{}]}}, "imagePullSecrets[0].name"),
        (
            volumes({"name": "v", "persistentVolumeClaim": {"claimName": "My_Claim"}}),
            "volumes[0].persistentVolumeClaim.claimName",
        ),
        (volumes({"name": "v", "configMap": {"name": "a b"}}), "volumes[0].configMap.name"),
        (volumes({"name": "v", "secret": {"secretName": "A"}}), "volumes[0].secret.secretName"),
        (
            {
                "spec": {
                    "topologySpreadConstraints": [
                        {"maxSkew": 1, "topologyKey": "a b", "whenUnsatisfiable": "DoNotSchedule"}
                    ]
                }
            },
            "topologySpreadConstraints[0].topologyKey",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_name_of_what_cannot_exist_is_refused_before_a_pod_waits_for_it(template, at):
    assert [field for _, field in problems(template)] == [f"spec.podTemplate.spec.{at}"]


def leaves(node, path=""):
    if isinstance(node, str):
        yield path
    elif isinstance(node, list):
        yield from leaves(node[0], f"{path}[]")
    else:
        for name in node.keys() - {pod_shape.OPEN}:
            yield from leaves(node[name], f"{path}.{name}")


def said(value, node, path=""):
    if isinstance(node, str):
        yield path
    elif isinstance(node, list):
        for item in value:
            yield from said(item, node[0], f"{path}[]")
    else:
        for name, item in value.items():
            name = "*" if "*" in node else name
            yield from said(item, node[name], f"{path}.{name}")


def test_it_says_all_that_there_is_to_say():
    """So that every field's rules are compared with the API server's."""
    unsaid = {*leaves(schema.FIELDS)} - {*said(podtemplates.EVERYTHING, schema.FIELDS)}
    refused = r"(metadata|spec\.(selector|volumeName|dataSourceRef\.namespace))\b.*"
    claim = re.compile(r"\.spec\.volumes\[\]\.ephemeral\.volumeClaimTemplate\." + refused)
    assert [path for path in unsaid if not claim.fullmatch(path)] == []


# --- what lint let pass (each was found on a cluster, or not at all)

TWELVE = {
    "affinity": (
        {
            "spec": {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {"key": "gpu", "operator": "Equals", "values": ["h100"]}
                                    ]
                                }
                            ]
                        }
                    }
                }
            }
        },
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        ".nodeSelectorTerms[0].matchExpressions[0].operator",
    ),
    "label": ({"metadata": {"labels": {"team": "rl team"}}}, "metadata.labels.team"),
    "mount of no volume": (
        volumes(mounts=[{"name": "models", "mountPath": "/models"}]),
        "spec.containers[0].volumeMounts[0].name",
    ),
    "request above limit": (
        {
            "spec": {
                "containers": [
                    {
                        "name": "engine",
                        "resources": {"limits": {"memory": "64Gi"}, "requests": {"memory": "128G"}},
                    }
                ]
            }
        },
        "spec.containers[0].resources.requests.memory",
    ),
    "selector": ({"spec": {"nodeSelector": {"gpu": "H100 80GB"}}}, "spec.nodeSelector.gpu"),
    "spread": (
        {
            "spec": {
                "topologySpreadConstraints": [
                    {"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}
                ]
            }
        },
        "spec.topologySpreadConstraints[0].maxSkew",
    ),
    "value beside Exists": (
        {"spec": {"tolerations": [{"key": "a", "operator": "Exists", "value": "true"}]}},
        "spec.tolerations[0].value",
    ),
    "toleration": (
        {"spec": {"tolerations": [{"key": "a", "operator": "Equals"}]}},
        "spec.tolerations[0].operator",
    ),
    "two mounts": (
        volumes(
            {"name": "a", "emptyDir": {}},
            mounts=[{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/a/"}],
        ),
        "spec.containers[0].volumeMounts[1].mountPath",
    ),
    "variable": (
        {"spec": {"containers": [{"name": "engine", "env": [{"name": "A=B", "value": "x"}]}]}},
        "spec.containers[0].env[0].name",
    ),
    "volume": (volumes({"name": "Model_Volume", "emptyDir": {}}), "spec.volumes[0].name"),
    "volume twice": (
        volumes({"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}),
        "spec.volumes[1].name",
    ),
}


@pytest.mark.parametrize(("template", "field"), TWELVE.values(), ids=TWELVE.keys())
def test_a_mistake_is_told_at_the_templates_own_path(template, field):
    expected = ("SpecInvalid", f"spec.podTemplate.{field}")
    assert problems(template) == [expected]
    found = refused(podTemplate=template)
    assert [(item.reason, item.field) for item in found.errors] == [expected]


def test_a_misspelt_field_that_the_API_server_would_drop_is_warned_of():
    misspelt: dict[str, Any] = {"nodeAffinity": {"requiredDuringScheduling": {}}}
    template = {"spec": {"affinity": misspelt}}
    (warning,) = pod_template.parse(template)[1]
    assert warning.severity is errors.Severity.WARNING
    assert "did you mean requiredDuringSchedulingIgnoredDuringExecution?" in warning.message
    # A newer Kubernetes may know it: it is passed on.
    assert rendered(template)["spec"]["affinity"] == template["spec"]["affinity"]


def test_many_misspelt_fields_are_told_of_within_bounds():
    strange: dict[str, Any] = {f"field{number}": 1 for number in range(45_000)}
    found = pod_template.parse({"spec": {"affinity": {"nodeAffinity": strange}}, **strange})[1]
    assert len(found) <= 100


PLACES = [path for path, _ in podtemplates.places(podtemplates.EVERYTHING)]


def test_a_null_counts_as_absent_wherever_it_stands():
    for path in PLACES:
        if isinstance(path[-1], int):
            continue  # an item of a list is there, whatever it is
        null = podtemplates.changed(podtemplates.EVERYTHING, path, None)
        absent = podtemplates.without(podtemplates.EVERYTHING, path)
        assert pod_template.parse(null) == pod_template.parse(absent), path
        resolved = resolve_pool(OWNER, guide_spec(podTemplate=null))
        if isinstance(resolved, Pool):
            engine_pod.template(resolved)


def test_a_null_in_a_list_is_no_item():
    assert problems({"spec": {"tolerations": [None]}}) == [
        ("SpecInvalid", "spec.podTemplate.spec.tolerations[0]")
    ]


@pytest.mark.parametrize("value", ["\0 x", -1, [[]], {"x": {"y": 1}}, 1.5, True], ids=repr)
def test_no_value_in_any_place_is_more_than_told_of(value):
    for path in PLACES:
        template = podtemplates.changed(podtemplates.EVERYTHING, path, value)
        resolved = resolve_pool(OWNER, guide_spec(podTemplate=template))
        if isinstance(resolved, Pool):
            engine_pod.template(resolved)


def test_a_volume_that_nothing_mounts_is_warned_of():
    """A volume called shm was what an advice asked for, and it did nothing."""
    template = volumes({"name": "shm", "emptyDir": {"medium": "Memory"}})
    (warning,) = pod_template.parse(template)[1]
    assert (warning.reason, warning.field) == (
        "PodTemplateVolumeUnused",
        "spec.podTemplate.spec.volumes[0]",
    )


def test_the_value_of_a_variable_is_never_repeated():
    """It may be a secret, and the status is read by many."""
    container = {"name": "engine", "env": [{"name": "HF_TOKEN", "value": 4711}]}
    (problem,) = pod_template.parse({"spec": {"containers": [container]}})[1]
    assert "4711" not in problem.message
    assert problem.message.startswith("found a number, expected text")


# --- the GPUs' amount is the operator's


def resources(**given):
    container = {"name": "engine", "resources": given}
    return {"spec": {"containers": [container]}}


def test_an_amount_of_GPUs_is_not_judged_because_it_is_not_taken():
    template = resources(requests={"nvidia.com/gpu": 8})
    assert problems(template) == []
    container = rendered(template)["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    at = "spec.podTemplate.spec.containers[0].resources.requests.amd.com/gpu"
    assert problems(resources(requests={"amd.com/gpu": 8})) == [("SpecInvalid", at)]


# --- the node's devices


def engine(**fields):
    return {"spec": {"containers": [{"name": "engine", **fields}]}}


def refusal(**changes):
    resolved = resolve_pool(OWNER, guide_spec(**changes))
    assert isinstance(resolved, Refused)
    return resolved


@pytest.mark.parametrize(
    "name",
    [
        *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_MOFED", "NVIDIA_NVSWITCH", "NVIDIA_GDS"),
        *("NVIDIA_GDRCOPY", "DCU_VISIBLE_DEVICES", "ENFLAME_VISIBLE_DEVICES", "NVIDIA_NEWER"),
        *("CAMBRICON_VISIBLE_DEVICES", "AWS_NEURON_VISIBLE_DEVICES", "NEURON_RT_VISIBLE_CORES"),
    ],
)
def test_a_variable_that_a_runtime_takes_for_devices_is_refused(name):
    at = "spec.podTemplate.spec.containers[0].env[0].name"
    template = engine(env=[{"name": name, "value": "all"}])
    refused = refusal(podTemplate=template)
    assert [(p.reason, p.field) for p in refused.errors] == [("PodTemplateForbidden", at)]
    refused = refusal(system_envs={name: "all"})
    assert [(p.reason, p.field) for p in refused.errors] == [
        ("SystemEnvOwned", f"spec.system_envs.{name}")
    ]


@pytest.mark.parametrize("name", ["NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_TF32_OVERRIDE", "VISIBLE"])
def test_a_variable_that_gives_no_device_is_the_users(name):
    template = engine(env=[{"name": name, "value": "all"}])
    assert isinstance(resolve_pool(OWNER, guide_spec(podTemplate=template)), Pool)
    assert isinstance(resolve_pool(OWNER, guide_spec(system_envs={name: "all"})), Pool)


@pytest.mark.parametrize("prefix", [None, "", "NVIDIA_VISIBLE_", "N", "nvidia_", "CAMBRICON_X"])
def test_variables_taken_whole_can_be_none_that_give_devices(prefix):
    """The kubelet puts them behind those of the device plugin, and the last one wins."""
    item = {"configMapRef": {"name": "c"}} | ({} if prefix is None else {"prefix": prefix})
    at = "spec.podTemplate.spec.containers[0].envFrom[0].prefix"
    assert problems(engine(envFrom=[item])) == [("PodTemplateForbidden", at)]
    assert problems(engine(envFrom=[{**item, "prefix": "HF_"}])) == []


@pytest.mark.parametrize(
    "resource",
    [
        *(
            "cpu",
            "memory",
            "pods",
            "hugepages-2Mi",
            "Not A Name!",
            "requests.nvidia.com/gpu",
            "gpu",
        ),
        *("kubernetes.io/x", "ephemeral-storage", "/gpu", "nvidia.com/"),
    ],
)
def test_gpus_are_a_resource_that_is_counted(resource):
    """Without one, what the image says of its devices would hold: all of the node's."""
    refused = refusal(placement={"resourceName": resource})
    assert [problem.field for problem in refused.errors] == ["spec.placement.resourceName"]


@pytest.mark.parametrize(
    "resource", ["amd.com/gpu", "nvidia.com/gpu.shared", "deviceclass.resource.kubernetes.io/gpu"]
)
def test_any_resource_of_devices_can_be_the_gpus(resource):
    assert isinstance(resolve_pool(OWNER, guide_spec(placement={"resourceName": resource})), Pool)


# --- the node's folders


def host(path, name="m", kind=None):
    source = {"path": path} if kind is None else {"path": path, "type": kind}
    return {"name": name, "hostPath": source}


@pytest.mark.parametrize(
    "path",
    [
        *("/", "//", "/.", "/etc", "/etc/", "//etc//kubernetes", "/./etc", "/var", "/var/lib"),
        *("/var/run/docker.sock", "/run", "/run/containerd/containerd.sock", "/proc/1/root"),
        *("/sys", "/dev", "/dev/nvidia0", "/dev/infiniband", "/boot", "/var/lib/kubelet/pods"),
        *("/var/lib/docker", "/var/lib/containerd", "/var/lib/etcd/member", "/var/log/pods"),
        *("/var/lib/rancher/k3s", "/root", "/root/.ssh", "/root/.kube/config", "/home"),
        *("/home/alice", "/home/alice/.ssh", "/home/alice/.docker/config.json"),
        # The same under the names that systems of nodes have for it.
        *("/mnt/stateful_partition/var/lib/kubelet", "/mnt/stateful_partition", "/sysroot/etc"),
        *("/ostree", "/local", "/mnt/k8s-disks/0/kubelet", "/mnt/k8s-disks", "/mnt/aks/kubelet"),
        *("/mnt/containers", "/data/docker", "/data", "/mnt", "/srv", "/srv/kubernetes", "/opt"),
        *(
            "/opt/local-path-provisioner",
            "/var/lib/kube-proxy",
            "/var/lib/kubernetes",
            "/nix/store",
        ),
        *("/var/lib/systemd", "/var/lib/waagent", "/var/lib/longhorn", "/var/openebs", "/var/mail"),
        *("/var/crash", "/var/lock", "/var/tmp", "/tmp", "/tmp/kubelet", "/usr/local/etc", "/efi"),
        *("/system", "/host", "/rootfs/data", "/home/kubernetes", "/home/kubernetes/kube-env"),
        *("/models/etc/x", "/data/.ssh", "/root/.cache/.ssh"),
        # Those of whoever moves them to a large disk.
        *("/mnt/paas", "/srv/paas", "/data/k8s", "/data/k8s-data/x", "/mnt/docker-data"),
        *("/data/docker_data", "/data/dockerroot", "/data/containerd-root", "/data/crio-storage"),
        *("/data/etcd-data", "/data/prod-etcd", "/data/rke2.d", "/data/pods", "/data/lib"),
        *("/data/lv_docker/x", "/scratch/container-storage", "/mnt/data/kubelet-root"),
        # Volumes of other pods.
        *("/mnt/disks/vol1", "/mnt/disks", "/mnt/fast-disks/a", "/mnt/local-storage/x/pv1"),
        *("/models/etcd/member", "/MNT/Kubelet", "/var/lib", "/opt/cni/models", "/private/models"),
        *("/mnt/disks/models", "/mnt/pvs/x", "/mnt/pv-disks/pv1", "/data/local-pv/pv-1", "/pvs/a"),
        *("/mnt/data/hostpath-provisioner", "/mnt/data/csi-hostpath-data", "/data/pv/pv-3"),
        *("/data/nfs-provisioner/x", "/mnt/nfs/volumes/x", "/data/disks", "/disks/vol1"),
        *("/mnt/data/persistent-volumes/x", "/mnt/nvme/local_volumes/x", "/data/nvme-disks/a"),
        "/mnt/nfs/rl-models-pvc-7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "/data/pvc-7c9e6679-7425-40de-944b-e07fc1f90ae7_rl_db",
        # What keeps keys and passwords.
        *("/srv/pillar/prod", "/srv/salt/pillar", "/srv/vault/file", "/data/vault/core"),
        *("/data/jenkins_home", "/data/gitlab-runner", "/mnt/nfs/ssh", "/data/postgres"),
        *("/data/jenkins/credentials.xml", "/mnt/nfs/team/gcloud-sa.json", "/data/nomad/alloc"),
        *("/mnt/host/x", "/mnt/data/nodefs", "/mnt/data/imagefs", "/data/kata", "/data/k3d"),
        # Of a person, what does not say that it is models or data, wherever homes are.
        *("/root/admin.conf", "/root/kubespray", "/root/work", "/root/.cache", "/root/.cache/pip"),
        *("/home/ubuntu/cluster.yml", "/home/ubuntu/anaconda-ks.cfg", "/home/alice/projects"),
        *("/home/alice/workspace", "/home/alice/.config/models", "/home/models", "/home/alice/b"),
        *("/nfs/users/alice/id_rsa", "/nfs/users/alice", "/mnt/nfs/home/alice", "/data/users"),
        *("/mnt/nfs/home", "/gpfs/homes/alice/.ssh", "/mnt/data/home1/alice/Documents"),
        *("/mnt/nfs/home/alice/.cache", "/data/people/alice/x", "/Home/Alice/X"),
        *("/mnt/nfs/user/alice/x", "/mnt/nfs/homedirs/alice/private", "/mnt/nfs/users.bak/alice"),
        *("/mnt/nfs/profile/alice", "/data/userdata/alice/x", "/nfs/home-dirs/alice/x"),
        *("/gpfs/u_home/alice/x", "/mnt/nfs/user/home/models", "/mnt/nfs/students/alice/x"),
        *("/data/nfs-users/alice/keys", "/mnt/nfs/home_2/alice/x", "/lustre/staff/alice"),
        # What tools keep in a person's caches and beside: tokens, also next to what is downloaded.
        *("/root/.cache/huggingface", "/home/alice/.cache/huggingface", "/root/.cache/hf"),
        *("/root/.cache/huggingface/modules", "/nfs/users/alice/.cache/huggingface/xet"),
        *("/root/.cache/huggingface/stored_tokens", "/data/hf/stored_tokens", "/root/.netrc"),
        *("/root/.cache/modelscope", "/root/.modelscope", "/home/alice/.modelscope/credentials"),
        *("/home/alice/huggingface", "/root/hf_home", "/mnt/nfs/home/alice/hf-cache"),
        *("/root/.cache/wandb", "/root/.docker", "/root/.cache/modelscope/credentials"),
        # Files that are no model's, and sockets, to which a read-only mount lets all write.
        *("/models/id_rsa", "/data/backup.pem", "/data/app/run/x.sock", "/tmp/model.sock"),
        *("/data/cluster.yaml", "/mnt/data/admin.kubeconfig", "/data/app/.env", "/data/x.env"),
        *("/data/hf-token", "/home/alice/models/token", "/home/alice/data/id_ed25519.bak"),
        *("/data/run", "/mnt/data/run/x", "/data/sockets/a", "/data/systemd", "/models/MODEL.SOCK"),
    ],
)
def test_a_folder_by_which_one_becomes_somebody_else_is_refused(path):
    mounts = [{"name": "m", "mountPath": "/models"}]
    at = "spec.podTemplate.spec.volumes[0].hostPath.path"
    assert problems(volumes(host(path), mounts=mounts)) == [("PodTemplateForbidden", at)]


def test_instead_of_a_folder_with_a_token_in_it_that_of_the_downloads_is_named():
    mounts = [{"name": "m", "mountPath": "/root/.cache/huggingface"}]
    (found,) = pod_template.parse(volumes(host("/home/a/.cache/huggingface"), mounts=mounts))[1]
    assert 'write the path of its folder "hub" instead' in found.message
    assert "is /root/.cache/huggingface/hub" in found.message


@pytest.mark.parametrize("field", ["subPath", "subPathExpr"])
@pytest.mark.parametrize(
    ("path", "below"),
    [
        *(("/data/huggingface", "token"), ("/data/huggingface", "./stored_tokens")),
        *(("/mnt/nfs", "home/alice/.cache/huggingface"), ("/mnt/nfs", "home/alice/.ssh")),
        *(("/data/x", "var/lib/kubelet"), ("/models", "qwen/id_rsa"), ("/mnt/nfs", "root/")),
    ],
)
def test_what_of_a_folder_is_mounted_is_refused_as_it_is_by_its_whole_path(field, path, below):
    mounts = [{"name": "m", "mountPath": "/models", field: below}]
    at = f"spec.podTemplate.spec.containers[0].volumeMounts[0].{field}"
    assert problems(volumes(host(path), mounts=mounts)) == [("PodTemplateForbidden", at)]


@pytest.mark.parametrize(
    "mount",
    [
        {"subPath": "qwen/step-100"},
        {"subPathExpr": "home/$(OWNER)/models"},
        {"subPathExpr": "$(MODEL)"},
    ],
)
def test_a_model_below_a_folder_that_is_shown_is_mounted(mount):
    mounts = [{"name": "m", "mountPath": "/models", **mount}]
    assert problems(volumes(host("/mnt/nfs"), mounts=mounts)) == []


def test_what_is_mounted_of_a_claim_is_its_owners():
    claim = {"name": "m", "persistentVolumeClaim": {"claimName": "home"}}
    mounts = [{"name": "m", "mountPath": "/x", "subPath": ".cache/huggingface/token"}]
    assert problems(volumes(claim, mounts=mounts)) == []


@pytest.mark.parametrize("path", ["/data/../etc", "..", "etc", "", "models"])
def test_a_folder_that_is_no_absolute_path_is_refused(path):
    found = problems(volumes(host(path), mounts=[{"name": "m", "mountPath": "/m"}]))
    assert found == [("SpecInvalid", "spec.podTemplate.spec.volumes[0].hostPath.path")]


@pytest.mark.parametrize("kind", ["Socket", "CharDevice", "BlockDevice", "DirectoryOrCreate"])
def test_a_type_that_makes_or_opens_something_on_the_node_is_refused(kind):
    found = problems(volumes(host("/data/a", kind=kind), mounts=[{"name": "m", "mountPath": "/m"}]))
    assert found == [("PodTemplateForbidden", "spec.podTemplate.spec.volumes[0].hostPath.type")]


@pytest.mark.parametrize(
    "path",
    [
        *("/data/models", "/mnt/models", "/var/lib/models", "/models", "/home/alice/models"),
        *("/root/.cache/huggingface/hub", "/home/alice/.cache/huggingface/datasets/x"),
        *("/root/.cache/modelscope/models", "/home/alice/huggingface/hub", "/opt/models/"),
        *("/mnt/disks/ssd0", "/mnt/nfs/home/alice/qwen", "/nvme1n1/hf", "/gpfs01/team/ckpt"),
        *("/cpfs01/shared/llm", "/scratch/x", "/nfs-data/x", "/llm-models", "/mnt/ssd0/datasets"),
        *("/mnt/k8s-models", "/mnt/team/qwen", "/data/docker-models", "/mnt/nvme0/x"),
        *("/workspace/models", "/raid/x", "/var/models", "/tmp/models-7", "/data/runs/dev/tokens"),
        *(
            "/home/alice/data/qwen",
            "/home/alice/projects/models/x",
            "/home/alice/Qwen2.5-7B-Instruct",
        ),
        *("/home/alice/llama3", "/home/alice/hf_models/x", "/root/models", "/root/data/x"),
        *(
            "/home/alice/checkpoints/step-100",
            "/nfs/models",
            "/nfs/team/x",
            "/nfs/users/alice/models",
        ),
        *("/data/users/alice/checkpoints/x", "/mnt/nfs/home/alice/.cache/huggingface/hub"),
        *("/root/.cache/modelscope/hub", "/home/alice/.cache/huggingface/hub", "/data/token-ids"),
        *("/models/qwen.gguf", "/data/models/chat_template.jinja", "/data/Llama-3.1-8B.fp8"),
        *("/models/users/alice/x", "/data/run-7/step.100", "/root/.cache/torch/hub", "/mnt/data"),
        *("/mnt/nfs/user/alice/models", "/mnt/nfs/homedirs/alice/qwen", "/data/disks/models"),
        *("/mnt/nfs/volumes/llm", "/disks/nvme0", "/data/user-models/x", "/mnt/nfs/pvc/x"),
        *("/data/keys_values/x", "/mnt/minio/bucket", "/data/salt-lake-city", "/data/postgres-sql"),
        *("/mnt/nfs/chef-recipes", "/nvme/vol1/x", "/data/volume3/x", "/data/hosts/x"),
    ],
)
def test_a_folder_with_models_is_mounted_read_only_with_all_below_it(path):
    asked = [{"name": "m", "mountPath": "/models", "readOnly": False}]
    (mount,) = [m for m in mounts_of(volumes(host(path), mounts=asked)) if m["name"] == "m"]
    assert mount["readOnly"] is True
    assert mount["recursiveReadOnly"] == "IfPossible"


@pytest.mark.parametrize(
    "source",
    [
        {"hostPath": {"path": "/data/a"}},
        {"configMap": {"name": "c"}},
        {"image": {"reference": "a"}},
        {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
    ],
)
def test_what_takes_the_place_of_the_cache_can_be_written(source):
    """It was mounted by the operator, without the rule that host folders are read-only."""
    found = problems(volumes({"name": "cache", **source}))
    assert found == [("PodTemplateForbidden", "spec.podTemplate.spec.volumes[0]")]


def test_a_volume_called_cache_is_mounted_where_caches_are():
    claim = {"name": "cache", "persistentVolumeClaim": {"claimName": "c"}}
    assert {"name": "cache", "mountPath": "/cache"} in mounts_of(volumes(claim))


@pytest.mark.parametrize("path", ["/cache", "/cache/", "cache", "//cache", "/x/../cache"])
def test_a_path_is_what_the_kubelet_takes_it_for(path):
    template = volumes({"name": "c", "emptyDir": {}}, mounts=[{"name": "c", "mountPath": path}])
    assert [m["name"] for m in mounts_of(template)] == ["dshm", "c"]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/proc/1",
            "/sys/fs/cgroup",
            "/dev",
            "/dev/nvidia0",
            "dev/shm/x",
            "/usr",
            "/usr/lib",
        ),
        "/var/run/secrets/kubernetes.io/serviceaccount",
        "/var/run/nvidia-container-devices/all",
    ],
)
def test_a_mount_over_what_is_not_the_users_is_refused(path):
    template = volumes({"name": "c", "emptyDir": {}}, mounts=[{"name": "c", "mountPath": path}])
    at = "spec.podTemplate.spec.containers[0].volumeMounts[0].mountPath"
    assert problems(template) == [("PodTemplateForbidden", at)]


# --- /dev/shm


@pytest.mark.parametrize("path", ["/dev/shm", "/dev/shm/", "dev/shm"])
@pytest.mark.parametrize(
    "source",
    [
        {"emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
        {"persistentVolumeClaim": {"claimName": "shared"}},
    ],
)
def test_a_volume_of_the_users_at_dev_shm_takes_the_place_of_the_operators(path, source):
    mounts = [{"name": "big", "mountPath": path}]
    body = rendered(volumes({"name": "big", **source}, mounts=mounts))["spec"]
    assert [volume["name"] for volume in body["volumes"]] == ["cache", "big"]
    assert [m["name"] for m in body["containers"][0]["volumeMounts"]] == ["cache", "big"]


@pytest.mark.parametrize(
    ("source", "mount"),
    [
        ({"emptyDir": {}}, {}),
        ({"emptyDir": {"medium": "Memory"}}, {"readOnly": True}),
        ({"hostPath": {"path": "/data/a"}}, {}),
        ({"image": {"reference": "a"}}, {}),
        ({"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}, {}),
    ],
)
def test_shared_memory_that_is_none_is_refused(source, mount):
    mounts = [{"name": "big", "mountPath": "/dev/shm", **mount}]
    at = "spec.podTemplate.spec.containers[0].volumeMounts[0].mountPath"
    found = problems(volumes({"name": "big", **source}, mounts=mounts))
    assert found == [("PodTemplateForbidden", at)]


def test_the_operators_name_for_it_is_not_to_be_had_and_the_advice_says_what_is():
    (found,) = pod_template.parse(volumes({"name": "dshm", "emptyDir": {"medium": "Memory"}}))[1]
    assert "mount an emptyDir with medium: Memory at /dev/shm" in found.message


# --- annotations by which runtimes give more than a pod asks for


@pytest.mark.parametrize(
    "key",
    [
        "container.apparmor.security.beta.kubernetes.io/engine",
        "container.seccomp.security.alpha.kubernetes.io/engine",
        "seccomp.security.alpha.kubernetes.io/pod",
        "cdi.k8s.io/gpus",
        "nvidia.cdi.k8s.io/gpus",
        "devices.nri.io/container.engine",
        "io.kubernetes.cri-o.Devices",
        "kubernetes.io/config.mirror",
        "scheduler.alpha.kubernetes.io/tolerations",
        # By which agents of nodes hand out devices.
        *("4pd.io/devices-to-allocate", "4pd.io/vgpu-ids-new", "elasticgpu.io/container-engine"),
        *(
            "ALIYUN_COM_GPU_MEM_IDX",
            "aliyun_com_gpu_mem_pod",
            "scheduler.framework.gpushare.allocation",
        ),
        *("tencent.com/predicate-gpu-idx-0", "tencent.com/gpu-assigned", "gas-container-cards"),
        *("volcano.sh/devices-to-allocate", "volcano.sh/vgpu-ids-new", "volcano.sh/gpu-index"),
        *("huawei.com/Ascend910", "huawei.com/AscendReal", "predicate-time"),
        *(
            "scheduling.koordinator.sh/device-allocated",
            "scheduling.koordinator.sh/resource-status",
        ),
    ],
)
def test_an_annotation_that_gives_more_than_a_pod_asks_for_is_refused(key):
    at = f"spec.podTemplate.metadata.annotations.{key}"
    found = problems({"metadata": {"annotations": {key: "unconfined"}}})
    assert found == [("PodTemplateForbidden", at)]


@pytest.mark.parametrize(
    "key",
    [
        *("proxy.istio.io/overrides", "sidecar.istio.io/proxyImage", "inject.istio.io/templates"),
        *("sidecar.istio.io/userVolume", "sidecar.istio.io/userVolumeMount"),
        *("sidecar.istio.io/bootstrapOverride", "sidecar.istio.io/enableCoreDump"),
        *("sidecar.istio.io/interceptionMode", "sidecar.istio.io/discoveryAddress"),
        *("sidecar.istio.io/proxyImageType", "proxy.istio.io/anything", "Proxy.Istio.IO/overrides"),
        *("config.linkerd.io/proxy-image", "config.linkerd.io/init-image"),
        *("config.linkerd.io/proxy-uid", "config.linkerd.io/enable-debug-sidecar"),
        *("config.linkerd.io/close-wait-timeout", "config.linkerd.io/debug-image"),
        *("kuma.io/container-patches", "kuma.io/sidecar-env-vars"),
        *("kuma.io/transparent-proxying-ebpf-bpf-fs-path",),
        *("traffic.kuma.io/transparent-proxy-configmap-name",),
        *("vault.hashicorp.com/agent-image", "vault.hashicorp.com/agent-json-patch"),
        *("vault.hashicorp.com/agent-run-as-user", "vault.hashicorp.com/agent-inject-command-x"),
        *("vault.hashicorp.com/role", "vault.security.banzaicloud.io/vault-env-image"),
        *(
            "consul.hashicorp.com/consul-sidecar-user-volume",
            "consul.hashicorp.com/envoy-extra-args",
        ),
        *("dapr.io/sidecar-image", "dapr.io/volume-mounts-rw", "dapr.io/env"),
        *("appmesh.k8s.aws/volumeMounts", "appmesh.k8s.aws/sidecarEnv"),
        *("admission.datadoghq.com/python-lib.custom-image", "operator.1password.io/inject"),
        *("iam.amazonaws.com/role", "vpc.amazonaws.com/pod-eni", "k8s.ovn.org/pod-networks"),
        *("openshift.io/required-scc", "openshift.io/scc", "hami.io/vgpu-devices-allocated"),
        *("ovn.kubernetes.io/logical_switch", "ovn.kubernetes.io/ip_address"),
        *("ovn.kubernetes.io/port_security", "net1.team.ovn.kubernetes.io/ip_address"),
        *("cni.projectcalico.org/ipAddrs", "cni.projectcalico.org/allowedSourcePrefixes"),
        *("ipam.cilium.io/ip-pool", "ipam.antrea.io/ippools", "ipam.spidernet.io/ippool"),
        *("v1.multus-cni.io/default-network",),
        *("k8s.aliyun.com/eni-config", "tke.cloud.tencent.com/networks", "vpc.amazonaws.com/x"),
        *("azure.workload.identity/inject-proxy-sidecar",),
        *("devices.gke.io/container.engine", "oneagent.dynatrace.com/install-path"),
        *("instrumentation.opentelemetry.io/inject-python", "k8tz.io/image"),
        *("sidecar.jaegertracing.io/inject", "injector.tumblr.com/request"),
        *("Init.Hook.Restore.Velero.io/container-name", "pre.hook.backup.velero.io/command"),
    ],
)
def test_an_annotation_that_another_acts_upon_with_more_rights_is_refused(key):
    at = f"spec.podTemplate.metadata.annotations.{key}"
    (found,) = pod_template.parse({"metadata": {"annotations": {key: "true"}}})[1]
    assert (found.reason, found.field) == ("PodTemplateForbidden", at)
    assert "remove it" in found.message


ALLOWED = {
    "sidecar.istio.io/inject": "false",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.0.0.0/8,fd00::/8",
    "traffic.sidecar.istio.io/includeInboundPorts": "*",
    "sidecar.istio.io/proxyCPULimit": "500m",
    "sidecar.istio.io/logLevel": "warning",
    "readiness.status.sidecar.istio.io/applicationPorts": "30000",
    "prometheus.istio.io/merge-metrics": "false",
    "proxy.istio.io/config": '{ "holdApplicationUntilProxyStarts": true, "concurrency": 2 }',
    "linkerd.io/inject": "disabled",
    "config.linkerd.io/skip-outbound-ports": "4222,6379",
    "config.linkerd.io/proxy-cpu-request": "100m",
    "kuma.io/sidecar-injection": "disabled",
    "traffic.kuma.io/exclude-outbound-ports": "29500",
    "vault.hashicorp.com/agent-inject": "false",
    "consul.hashicorp.com/connect-inject": "false",
    "dapr.io/enabled": "false",
    "openservicemesh.io/outbound-port-exclusion-list": "29500",
    "k8s.v1.cni.cncf.io/networks": '[{"name": "rdma"}]',
    "networking.gke.io/interfaces": '[{"interfaceName": "eth1", "network": "rdma-0"}]',
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "prometheus.io/scrape": "true",
    "backup.velero.io/backup-volumes-excludes": "cache,models",
    "k8up.io/backup": "false",
    "ad.datadoghq.com/engine.checks": '{"openmetrics": {}}',
    "kubectl.kubernetes.io/default-container": "engine",
    "notistio.io/proxy": "x",
}


@pytest.mark.parametrize("key", ALLOWED)
def test_what_says_how_traffic_goes_or_that_nothing_is_injected_is_allowed(key):
    assert problems({"metadata": {"annotations": {key: ALLOWED[key]}}}) == []


@pytest.mark.parametrize(
    "value",
    ['1"\n  securityContext: {privileged: true}', "a\nb", "{a: b}", "a' b", "{{ .X }}", "a\\", "é"],
)
@pytest.mark.parametrize(
    "key",
    [
        key
        for key in ALLOWED
        if any(
            key.partition("/")[0].endswith(each) for each in ("istio.io", "linkerd.io", "kuma.io")
        )
        and not key.startswith("notistio")
    ],
)
def test_no_value_ends_where_an_injectors_template_puts_it(key, value):
    assert problems({"metadata": {"annotations": {key: value}}})


@pytest.mark.parametrize(
    "value",
    [
        '{"image": {"imageType": "debug"}}',
        "binaryPath: /bin/sh",
        "holdApplicationUntilProxyStarts: true\nproxyMetadata: {A: b}",
        "interceptionMode: TPROXY",
        '"\\x69mage": evil',
        "concurrency: !!binary a",
        "concurrency: " + "1" * 5000,
        "concurrency: &a 1",
    ],
)
def test_of_a_proxys_settings_only_when_it_starts_and_ends_is_allowed(value):
    assert problems({"metadata": {"annotations": {"proxy.istio.io/config": value}}})


@pytest.mark.parametrize("key", ["vault.hashicorp.com/agent-inject", "dapr.io/enabled"])
def test_what_acts_for_a_service_account_may_be_denied_alone(key):
    assert problems({"metadata": {"annotations": {key: "true"}}})


WITH_RIGHTS = [
    # Identities and tokens.
    *("aadpodidbinding", "azure.workload.identity/use", "spiffe.io/spire-managed-identity"),
    *("spiffe.io/spiffe-id", "spire-workload", "iam.gke.io/gcp-service-account"),
    *("pod-identity.alibabacloud.com/role-name", "akeyless/enabled", "keeper.security/inject"),
    *("secrets.k8s.aws/sidecarInjectorWebhook", "dsv.delinea.com/mutate"),
    # Containers and what Python loads.
    *("admission.datadoghq.com/enabled", "agent.datadoghq.com/sidecar", "dapr.io/enabled"),
    *("instana-autotrace", "lumigo.auto-trace", "odigos.io/inject-instrumentation"),
    *("co.elastic.apm/attach", "telegraf.influxdata.com/class"),
    *("telegraf.influxdata.com/image", "cloudwatch.aws.amazon.com/inject-python"),
    *("inject.istio.io/templates", "injector.nsm.nginx.com/auto-inject", "agent.signalfx.com/x"),
    # Commands in pods, and containers that a restore puts before theirs.
    *("init.hook.restore.velero.io/container-image", "init.hook.restore.velero.io/command"),
    *("post.hook.restore.velero.io/command", "pre.hook.backup.velero.io/command"),
    *("post.hook.backup.velero.io/container", "hook.backup.ark.heptio.com/command"),
    *("k8up.io/backupcommand", "k8up.syn.tools/backupcommand"),
    # Networks.
    *("networkservicemesh.io", "ns.networkservicemesh.io", "kuma.io/mesh"),
    *("vpc.amazonaws.com/pod-eni", "microsoft.containerinstance.virtualnode.identity"),
    # What is enforced upon all others.
    *("kubearmor-policy", "admission.stackrox.io/break-glass"),
    # What agents of nodes go by.
    *(
        "scheduler.alpha.kubernetes.io/critical-pod",
        "elasticgpu.io/assumed",
        "4pd.io/vgpu-node",
        "cdi.k8s.io/x",
    ),
]


@pytest.mark.parametrize("kind", ["labels", "annotations"])
@pytest.mark.parametrize("key", WITH_RIGHTS)
def test_what_others_act_upon_is_refused_as_a_label_and_as_an_annotation(key, kind):
    """Some read the one, some the other, and some both."""
    at = f"spec.podTemplate.metadata.{kind}.{key}"
    assert problems({"metadata": {kind: {key: "true"}}}) == [("PodTemplateForbidden", at)]


@pytest.mark.parametrize("kind", ["labels", "annotations"])
@pytest.mark.parametrize(
    "key",
    [
        *("azure.workload.identity/use", "spiffe.io/spire-managed-identity", "dapr.io/enabled"),
        *("admission.datadoghq.com/enabled", "instana-autotrace", "lumigo.auto-trace"),
        *("sidecar.istio.io/inject", "akeyless/enabled", "secrets.k8s.aws/sidecarInjectorWebhook"),
    ],
)
def test_that_nobody_is_to_act_is_allowed_as_a_label_and_as_an_annotation(key, kind):
    assert problems({"metadata": {kind: {key: "false"}}}) == []


@pytest.mark.parametrize(
    "key",
    [
        *("app", "team", "version", "example.com/cost-center", "app.kubernetes.io/part-of"),
        *("kueue.x-k8s.io/queue-name", "volcano.sh/queue-name", "koordinator.sh/qosClass"),
        *("tags.datadoghq.com/service", "istio.io/rev", "istio.io/dataplane-mode"),
        *(
            "service.istio.io/canonical-name",
            "sidecar.istio.io/inject",
            "kuma.io/sidecar-injection",
        ),
        *("eks.amazonaws.com/fargate-profile", "alibabacloud.com/compute-class"),
        *("app.openshift.io/runtime", "topology.kubernetes.io/zone", "runai/queue"),
        *("serverless.fluid.io/inject", "nvidia.com/gpu.product", "release", "spiffe", "hf"),
        *("velero.io/exclude-from-backup", "velero.io/restore-name"),
    ],
)
def test_a_label_that_is_somebodys_own_word_is_allowed(key):
    assert problems({"metadata": {"labels": {key: "x1"}}}) == []


@pytest.mark.parametrize("unit", ["a.", ".", "/", "istio.io.", "cri-o.", "sidecar.istio.io/"])
def test_annotations_of_any_size_are_judged_in_no_time(unit):
    keys = {(f"{n}{unit}" + unit * 4600)[:4600]: "x" * 4600 for n in range(50)}
    begun = time.thread_time()
    assert problems({"metadata": {"annotations": keys}})
    assert time.thread_time() - begun < 0.5


# --- claims that are made for the pod


def made(metadata: Any = None, **spec: Any) -> Any:
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    found = {"spec": {**claim, **spec}} | ({} if metadata is None else {"metadata": metadata})
    source = {"name": "m", "ephemeral": {"volumeClaimTemplate": found}}
    return volumes(source, mounts=[{"name": "m", "mountPath": "/m"}])


@pytest.mark.parametrize(
    ("field", "template"),
    [
        # Another namespace's volume, by provisioners that act upon what stands there.
        *(
            ("metadata.annotations", made({"annotations": {key: value}}))
            for key, value in (
                ("trident.netapp.io/cloneFromNamespace", "payments"),
                ("trident.netapp.io/shareFromPVC", "payments/db"),
                ("nfs.io/storage-path", "../payments-db"),
                ("k8s.io/CloneRequest", "payments/db"),
                ("cdi.kubevirt.io/storage.import.secretName", "s"),
                ("volume.kubernetes.io/storage-provisioner", "x"),
                ("vault.hashicorp.com/agent-inject", "true"),
                ("mine", "x"),
            )
        ),
        ("metadata.labels", made({"labels": {"azure.workload.identity/use": "true"}})),
        ("metadata.labels", made({"labels": {"folder": "payments-db"}})),
        ("metadata.name", made({"name": "db"})),
        ("metadata.finalizers", made({"finalizers": ["x/y"]})),
        ("metadata.ownerReferences", made({"ownerReferences": [{"uid": "x"}]})),
        ("metadata.namespace", made({"namespace": "payments"})),
        # A volume that there is, whoever it was made for.
        ("spec.volumeName", made(volumeName="pv-of-db")),
        ("spec.selector", made(selector={"matchLabels": {"app": "db"}})),
        ("spec.storageClassName", made(storageClassName="")),
        (
            "spec.dataSourceRef.namespace",
            made(
                dataSourceRef={
                    "kind": "PersistentVolumeClaim",
                    "name": "db",
                    "namespace": "payments",
                }
            ),
        ),
    ],
)
def test_a_claim_that_says_more_than_what_is_to_be_made_is_refused(field, template):
    at = "spec.podTemplate.spec.volumes[0].ephemeral.volumeClaimTemplate"
    assert problems(template) == [("PodTemplateForbidden", f"{at}.{field}")]


@pytest.mark.parametrize(
    "template",
    [
        made(),
        made({}),
        made({"labels": {}, "annotations": {}}),
        made(storageClassName="fast", volumeAttributesClassName="gold", selector={}),
        made(dataSource={"kind": "PersistentVolumeClaim", "name": "models"}),
        made(
            dataSourceRef={
                "apiGroup": "snapshot.storage.k8s.io",
                "kind": "VolumeSnapshot",
                "name": "models",
            }
        ),
    ],
)
def test_a_claim_that_says_what_is_to_be_made_is_allowed(template):
    assert problems(template) == []


# --- everything at once

HOSTILE_SPEC = {
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "hostUsers": True,
    "serviceAccountName": "admin",
    "automountServiceAccountToken": True,
    "nodeName": "master",
    "initContainers": [{"name": "x", "securityContext": {"privileged": True}}],
    "ephemeralContainers": [{"name": "x"}],
    "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]},
    "shareProcessNamespace": False,
    "resourceClaims": [{"name": "gpu", "resourceClaimName": "all"}],
    "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
    "priorityClassName": "system-node-critical",
    "overhead": {"cpu": 1},
    "os": {"name": "windows"},
}
HOSTILE_CONTAINER = {
    "securityContext": {"privileged": True, "procMount": "Unmasked", "runAsUser": 0},
    "volumeDevices": [{"name": "m", "devicePath": "/dev/sda"}],
    "lifecycle": {"postStart": {"exec": {"command": ["sh"]}}},
    "command": ["sh"],
    "ports": [{"containerPort": 1, "hostPort": 1}],
    "image": "evil",
    "stdin": True,
}
HOSTILE_VOLUMES: tuple[dict[str, Any], ...] = (
    {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
    {"csi": {"driver": "secrets-store.csi.k8s.io"}},
    {"nfs": {"server": "a", "path": "/"}},
    {"downwardAPI": {"items": []}},
    {"emptyDir": {}, "hostPath": {"path": "/"}},
    {"hostPath": {"path": "/run/docker.sock", "type": "Socket"}},
    {"hostPath": {"path": "/dev/kmsg", "type": "CharDevice"}},
    {"ephemeral": {"volumeClaimTemplate": {}, "hostPath": {"path": "/"}}},
    made({"annotations": {"nfs.io/storage-path": "../x"}})["spec"]["volumes"][0],
    made(volumeName="x")["spec"]["volumes"][0],
)
PATHS = st.lists(
    st.sampled_from(
        [
            *("", ".", "..", "etc", "var", "run", "lib", "kubelet", "data", "dev", "shm", "root"),
            *(".ssh", "proc", "cache", "usr", "secrets", "kubernetes.io"),
        ]
    ),
    max_size=4,
).map(lambda parts: "/" + "/".join(parts))
NAMES = st.sampled_from(["cache", "dshm", "m", "n"])
SOURCES = st.one_of(
    PATHS.map(lambda path: {"hostPath": {"path": path}}),
    PATHS.map(lambda path: {"hostPath": {"path": f"/data{path}", "type": "Directory"}}),
    st.just({"emptyDir": {"medium": "Memory"}}),
    st.just({"persistentVolumeClaim": {"claimName": "c"}}),
    st.just({"configMap": {"name": "c"}}),
    st.sampled_from(HOSTILE_VOLUMES),
)
VOLUMES = st.builds(lambda name, source: {"name": name, **source}, NAMES, SOURCES)
MOUNTS = st.builds(
    lambda name, path, more: {"name": name, "mountPath": path, **more},
    NAMES,
    PATHS,
    st.sampled_from(
        [
            *({}, {}, {}, {"readOnly": False}, {"readOnly": True}, {"readOnly": None}),
            *({"mountPropagation": "Bidirectional"}, {"recursiveReadOnly": "Disabled"}),
            *({"subPath": "../.."}, {"subPath": "a"}, {"subPathExpr": "$(A)/.."}),
        ]
    ),
)
SAFE = {"prefix": "APP_"}
VARIABLES = st.builds(
    lambda name: {"name": name, "value": "all"},
    st.sampled_from(
        ["A", "NVIDIA_VISIBLE_DEVICES", "AMD_VISIBLE_DEVICES", "HOME", "NVIDIA_MOFED", "NVIDIA_GDS"]
    ),
)
WHOLE = st.builds(
    lambda prefix, kind: {**prefix, kind: {"name": "c"}},
    st.sampled_from(
        [{}, {"prefix": ""}, {"prefix": "NVIDIA_VISIBLE_"}, {"prefix": "N"}, SAFE, SAFE]
    ),
    st.sampled_from(["configMapRef", "secretRef"]),
)
ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        [
            *("a", "cdi.k8s.io/x", "container.apparmor.security.beta.kubernetes.io/engine"),
            *("seccomp-profile.kubernetes.cri-o.io/engine", "sidecar.istio.io/userVolume"),
            *("org.systemd.property.DeviceAllow", "dev.gvisor.spec.mount.a.source"),
            *("proxy.istio.io/overrides", "sidecar.istio.io/inject", "kuma.io/container-patches"),
            *("config.linkerd.io/proxy-image", "vault.hashicorp.com/agent-json-patch"),
        ]
    ),
    st.just("unconfined"),
    max_size=1,
)


def some(choices):
    """At most one of these fields: most templates stay valid."""
    return st.one_of(st.just({}), st.just({}), st.sampled_from(sorted(choices))).map(
        lambda name: {name: choices[name]} if name else {}
    )


@st.composite
def templates(draw):
    container = {
        "name": "engine",
        "volumeMounts": draw(st.lists(MOUNTS, max_size=3)),
        "env": draw(st.lists(VARIABLES, max_size=1)),
        "envFrom": draw(st.lists(WHOLE, max_size=1)),
        **draw(some(HOSTILE_CONTAINER)),
    }
    return {
        "metadata": {"annotations": draw(ANNOTATIONS)},
        "spec": {
            "volumes": draw(st.lists(VOLUMES, max_size=3)),
            "containers": [container, *draw(st.sampled_from([[], [], [{"name": "side"}]]))],
            **draw(some(HOSTILE_SPEC)),
        },
    }


@settings(max_examples=1000)
@given(templates())
def test_no_template_gives_a_pod_more_than_engines_have(template):
    resolved = resolve_pool(OWNER, guide_spec(podTemplate=copy.deepcopy(template)))
    event("rendered" if isinstance(resolved, Pool) else "refused")
    if isinstance(resolved, Pool):
        assert privileges.excess(engine_pod.template(resolved)) == []


CLASS_NAMES = st.sampled_from(
    [
        *("gpu.nvidia.com", "gpu.nvidia.com", "mig.nvidia.com", "gpu.amd.com", "gpu.intel.com"),
        *("kvm.devices.example.com", "vfio.gpu.nvidia.com", "gpu.nvidia.com.example.com", "gpu"),
        *("xgpu.nvidia.com", "gpu-nvidia.com", "GPU.nvidia.com", "deviceclass/gpu.nvidia.com", ""),
    ]
)


@st.composite
def requests_of_claims(draw):
    """Those of a claim by name: mostly as engines need them."""
    asked: list[dict[str, Any]] = [
        {
            "name": f"gpu-{rank}",
            "exactly": {
                "deviceClassName": "gpu.nvidia.com",
                "allocationMode": "ExactCount",
                "count": 1,
            },
        }
        for rank in range(8)
    ]
    changed = asked[draw(st.integers(0, 7))]
    kind = draw(st.sampled_from(["as it is", "class", "admin", "first", "more", "all"]))
    if kind == "class":
        changed["exactly"]["deviceClassName"] = draw(CLASS_NAMES)
    elif kind == "admin":
        changed["exactly"]["adminAccess"] = draw(st.booleans())
    elif kind == "first":
        del changed["exactly"]
        changed["firstAvailable"] = [{"name": "a", "deviceClassName": draw(CLASS_NAMES)}]
    elif kind == "more":
        named = {"name": "a", "deviceClassName": draw(CLASS_NAMES), "count": 1}
        asked.append({"name": "more", "firstAvailable": [named]})
    elif kind == "all":
        changed["exactly"] |= {"allocationMode": "All", "deviceClassName": draw(CLASS_NAMES)}
    return asked


def judged_by_an_operator(**changes):
    """The pool, or None, as an operator takes it that allows nothing."""
    pool = resolve_pool(OWNER, guide_spec(device_mapping="list(range(0,8))", **changes))
    taken = pool_devices.allowing(pool, ()) if isinstance(pool, Pool) else pool
    return taken if isinstance(taken, Pool) else None


def every_pod(pool, seating):
    """Each engine's pod with its seat, of those that have one."""
    shared = engine_pod.template(pool)
    for engine in pool.engines:
        for seat in seating.seats.get(engine.name, ()):
            yield engine_pod.pod(pool, shared, engine, 0, seat=seat), seat


IDS = names.ANNOTATION_DEVICES
FOLDER = f"/dev/shm/sglang-operator.{OWNER.namespace}"


@settings(max_examples=400)
@given(templates())
def test_no_template_gives_a_pod_on_a_trainers_gpus_more_than_these(template):
    pool = judged_by_an_operator(podTemplate=copy.deepcopy(template), placement=SHARED)
    event("refused" if pool is None else "rendered")
    if pool is None:
        return
    seating = pool.seating(Seen(published=published(*THREE), trainers=trainer_pods(*THREE)))
    for body, seat in every_pod(pool, seating):
        assert privileges.excess_beside(body, FOLDER, gpus=seat.gpus) == []


@settings(max_examples=400)
@given(st.just({}) | templates(), CLASS_NAMES, st.none() | requests_of_claims(), st.booleans())
def test_no_template_class_or_claim_gives_a_pod_more_than_gpus_of_its_claim(
    template, class_name, asked, whole
):
    """``asked``: a claim that is there, by its name or in the place of the operator's own."""
    listed = asked is not None and whole
    slot = {"claims": [{"nodeRank": 0, "claimName": "mine"}]} if listed else {}
    if class_name != "gpu.nvidia.com":
        slot = {**slot, "deviceClassName": class_name}
    placement = {"mode": "Slot", "slot": slot}
    pool = judged_by_an_operator(podTemplate=copy.deepcopy(template), placement=placement)
    event("refused" if pool is None else "taken")
    if pool is None:
        return
    own = {each.name: each for each in pool.seating(Seen()).claims}
    for each in own.values():
        assert privileges.excess_of_claim({"spec": each.spec}) == []
    name = "mine" if listed else next(iter(own))
    spec = own[name].spec if asked is None else {"devices": {"requests": asked}}
    meta = {"name": name, "namespace": OWNER.namespace, "resourceVersion": "1"}
    if name in own:  # whoever makes one can write what the operator writes
        meta["annotations"] = {names.ANNOTATION_MADE_OF: own[name].made_of}
    claim = msgspec.convert({"metadata": meta, "spec": spec}, ClaimObject).seen
    there = Inventory(claims={(OWNER.namespace, name): claim})
    seating = pool.seating(Seen(namespace=OWNER.namespace, inventory=there))
    event("rendered" if seating.seats else "waits")
    for body, seat in every_pod(pool, seating):
        assert privileges.excess_of_claim({"spec": spec}) == []
        ids = [f"gpu-{n}" for n in map(int, body["metadata"]["annotations"][IDS].split(","))]
        assert privileges.excess_beside(body, FOLDER, claim=seat.claim, requests=ids) == []
        assert seat.claim == name


def test_what_a_pod_is_given_beside_its_gpus_is_told():
    """Of the judge: it has to say so of each that the two above look for."""
    pool = judged_by_an_operator(placement=SHARED)
    assert pool is not None
    seating = pool.seating(Seen(published=published(*THREE), trainers=trainer_pods(*THREE)))
    body, seat = next(every_pod(pool, seating))
    assert privileges.excess_beside(body, FOLDER, gpus=seat.gpus) == []
    assert privileges.excess_beside(body, "/dev/shm/other", gpus=seat.gpus)
    assert privileges.excess_beside(body, FOLDER, gpus=seat.gpus[1:])
    body["spec"]["resourceClaims"] = [{"name": "x", "resourceClaimName": "kvm"}]
    assert privileges.excess_beside(body, FOLDER, gpus=seat.gpus) == ["spec.resourceClaims"]


MODEST = st.sampled_from(
    ["/data/a", "/mnt/a", "/root/.cache/huggingface/hub", "/models/", "/dev/shm", "/cache", "/x/"]
)


@settings(max_examples=1000)
@given(st.sets(NAMES, min_size=1, max_size=3), st.data())
def test_no_mount_of_a_folder_that_may_be_seen_can_be_written(named, data):
    """Mostly valid: what the generator above seldom reaches."""
    kinds = st.one_of(
        MODEST.map(lambda path: {"hostPath": {"path": path}}),
        st.just({"emptyDir": {"medium": "Memory"}}),
    )
    items = [{"name": name, **data.draw(kinds)} for name in sorted(named)]
    paths = data.draw(st.lists(MODEST, unique=True, max_size=3))
    mounts = [
        {"name": data.draw(st.sampled_from(sorted(named))), "mountPath": path, "readOnly": False}
        for path in paths
    ]
    resolved = resolve_pool(OWNER, guide_spec(podTemplate=volumes(*items, mounts=mounts)))
    event("rendered" if isinstance(resolved, Pool) else "refused")
    if isinstance(resolved, Pool):
        assert privileges.excess(engine_pod.template(resolved)) == []


@pytest.mark.parametrize("name", HOSTILE_SPEC)
def test_a_hostile_field_of_a_pod_is_refused(name):
    assert problems({"spec": {name: HOSTILE_SPEC[name]}})


@pytest.mark.parametrize("name", HOSTILE_CONTAINER)
def test_a_hostile_field_of_the_container_is_refused(name):
    container = {"name": "engine", name: HOSTILE_CONTAINER[name]}
    assert problems({"spec": {"containers": [container]}})


@pytest.mark.parametrize("source", HOSTILE_VOLUMES)
def test_a_hostile_volume_is_refused(source):
    assert problems(volumes({"name": "m", **source}, mounts=[{"name": "m", "mountPath": "/m"}]))


def test_nothing_outside_the_schema_comes_through_even_where_it_was_refused():
    template = volumes({"name": "m", "csi": {}, "emptyDir": {}})
    template["spec"] |= HOSTILE_SPEC
    template["spec"]["containers"][0] |= HOSTILE_CONTAINER
    overlay, _ = pod_template.parse(template)
    assert not overlay.spec.keys() & HOSTILE_SPEC.keys()
    assert overlay.container.keys() <= pod_shape.allowed("spec", "containers")
    assert overlay.volumes == ({"name": "m", "emptyDir": {}},)
