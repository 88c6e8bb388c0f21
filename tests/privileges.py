"""What a pod may do to its node, told by looking at the pod alone: the engine's rights are few, and
everything else is told of.  It shares nothing with the code that makes the pods.
"""

import copy
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

POD_FIELDS = {
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "hostname",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "readinessGates",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
}
CONTAINER_FIELDS = {
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "terminationMessagePolicy",
    "volumeMounts",
}
VOLUMES = {
    "configMap": {"name", "items", "defaultMode", "optional"},
    "emptyDir": {"medium", "sizeLimit"},
    "ephemeral": {"volumeClaimTemplate"},
    "hostPath": {"path", "type"},
    "image": {"reference", "pullPolicy"},
    "persistentVolumeClaim": {"claimName", "readOnly"},
    "secret": {"secretName", "items", "defaultMode", "optional"},
}
MOUNT_FIELDS = {"name", "mountPath", "subPath", "subPathExpr", "readOnly", "recursiveReadOnly"}
ENV_FIELDS = {"name", "value", "valueFrom"}
NODES_OWN = (
    *("/etc", "/run", "/var/run", "/proc", "/sys", "/dev", "/var/lib/kubelet", "/root/.ssh"),
    *(
        "/mnt/stateful_partition/var/lib/kubelet",
        "/local/var/lib",
        "/sysroot/etc",
        "/ostree/deploy",
    ),
    *("/mnt/k8s-disks/0/kubelet", "/data/docker", "/data/kubelet", "/srv/kubernetes"),
)
DEVICE_WORDS = {
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "AMD_VISIBLE_DEVICES"),
    *("NVIDIA_MOFED", "NVIDIA_GDS", "NVIDIA_GDRCOPY", "NVIDIA_NVSWITCH", "DCU_VISIBLE_DEVICES"),
}
RAISING_WORDS = (
    *("apparmor", "seccomp", "cdi.k8s.io", "nri.io", "systemd", "gvisor", "userVolume"),
    *("overrides", "patch", "image", "Image"),
)


CLASSES_OF_GPUS = {"gpu.nvidia.com", "mig.nvidia.com", "gpu.amd.com", "gpu.intel.com"}


def excess(pod: dict[str, Any]) -> list[str]:
    """Every right of this pod that engines do not have."""
    return [*_of_pod(pod["spec"]), *_of_metadata(pod["metadata"])]


def excess_beside(
    pod: dict[str, Any],
    folder: str,
    *,
    gpus: Sequence[str] = (),
    claim: str = "",
    requests: Sequence[str] = (),
) -> list[str]:
    """The same of one on a trainer's GPUs: these and no others, and this folder at /dev/shm.

    Either by their UUIDs, or by these requests of a claim.
    """
    pod = copy.deepcopy(pod)
    return [*_given(pod["spec"], folder, gpus, claim, requests), *excess(pod)]


def _given(
    spec: dict[str, Any], folder: str, gpus: Sequence[str], claim: str, requests: Sequence[str]
) -> Iterator[str]:
    """What is amiss in what its place gives a pod, which is taken out of it."""
    container = spec["containers"][0]
    (shm,) = (each for each in container["volumeMounts"] if each["mountPath"] == "/dev/shm")
    (volume,) = (each for each in spec["volumes"] if each["name"] == shm["name"])
    if volume.get("hostPath") != {"path": folder, "type": "DirectoryOrCreate"}:
        yield f"at /dev/shm {volume}"
    if shm.keys() != {"name", "mountPath"}:
        yield f"mounted as {shm}"
    spec["volumes"].remove(volume)
    container["volumeMounts"].remove(shm)
    if claim:
        claimed = spec.pop("resourceClaims", [])
        if [each.get("resourceClaimName") for each in claimed] != [claim]:
            yield f"the claims {claimed}"
        own = (
            [{"name": claimed[0]["name"], "request": each} for each in requests] if claimed else []
        )
        if (asked := container["resources"].pop("claims", [])) != own or not requests:
            yield f"of the claims {asked}"
    if gpus:
        named = [each for each in container["env"] if each["name"] == "NVIDIA_VISIBLE_DEVICES"]
        if named != [{"name": "NVIDIA_VISIBLE_DEVICES", "value": ",".join(gpus)}]:
            yield f"the GPUs {named}"
        container["env"] = [each for each in container["env"] if each not in named]
    counted = [name for name in container["resources"]["limits"] if "/" in name]
    if counted:
        yield f"also {counted}"
    container["resources"]["limits"]["counted/elsewhere"] = "1"


def excess_of_claim(body: dict[str, Any]) -> list[str]:
    """What a claim gives that are no GPUs, or such as others have."""
    found = []
    for request in body["spec"]["devices"]["requests"]:
        exactly = request.get("exactly") or {}
        for each in (exactly, *request.get("firstAvailable", ())):
            if each and each.get("deviceClassName") not in CLASSES_OF_GPUS:
                found.append(f"the class {each.get('deviceClassName')}")
        if exactly.get("adminAccess"):
            found.append("devices of others")
    return found


def _of_pod(spec: dict[str, Any]) -> Iterator[str]:
    yield from (f"spec.{name}" for name in spec.keys() - POD_FIELDS)
    if spec["automountServiceAccountToken"] is not False:
        yield "a token of its service account"
    if spec["securityContext"] != {"seccompProfile": {"type": "RuntimeDefault"}}:
        yield f"securityContext {spec['securityContext']}"
    if len(spec["containers"]) != 1:
        yield "more containers"
    hosts = {}
    for volume in spec["volumes"]:
        sources = volume.keys() - {"name"}
        if len(sources) != 1 or not sources <= VOLUMES.keys():
            yield f"volume {volume}"
            continue
        (kind,) = sources
        yield from (f"{kind}.{name}" for name in volume[kind].keys() - VOLUMES[kind])
        if kind == "ephemeral":
            yield from _of_claim(volume[kind]["volumeClaimTemplate"])
        if kind == "hostPath":
            hosts[volume["name"]] = volume[kind]
            yield from _of_host(volume[kind])
    names = [volume["name"] for volume in spec["volumes"]]
    if len(names) != len(set(names)):
        yield f"volumes of one name: {names}"
    for container in spec["containers"]:
        yield from _of_container(container, hosts)


def _of_claim(template: dict[str, Any]) -> Iterator[str]:
    """What provisioners act upon, and volumes that there are."""
    if any(template.get("metadata", {}).values()):
        yield f"a claim with {template['metadata']}"
    spec = template.get("spec", {})
    if spec.get("volumeName") or spec.get("selector") or spec.get("storageClassName") == "":
        yield "a volume that there is"
    if any(spec.get(name, {}).get("namespace") for name in ("dataSource", "dataSourceRef")):
        yield "data of another namespace"


def _of_host(source: dict[str, Any]) -> Iterator[str]:
    parts = [part for part in source["path"].split("/") if part not in ("", ".")]
    path = "/" + "/".join(parts)
    if ".." in parts or not parts or any(f"{path}/".startswith(f"{own}/") for own in NODES_OWN):
        yield f"the node's {source['path']}"
    if any(own.startswith(f"{path}/") for own in NODES_OWN):
        yield f"what is below the node's {source['path']}"
    if source.get("type", "") not in ("", "Directory", "File"):
        yield f"a {source['type']} of the node"


def _of_container(container: dict[str, Any], hosts: dict[str, Any]) -> Iterator[str]:
    yield from (f"container.{name}" for name in container.keys() - CONTAINER_FIELDS)
    expected = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    if container["securityContext"] != expected:
        yield f"securityContext {container['securityContext']}"
    if container["resources"].keys() - {"requests", "limits"}:
        yield f"resources {container['resources']}"
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    if len(paths) != len(set(paths)):
        yield f"mounts at one path: {paths}"
    for mount in container["volumeMounts"]:
        yield from (f"volumeMounts.{name}" for name in mount.keys() - MOUNT_FIELDS)
        is_read = mount.get("readOnly") is True and mount.get("recursiveReadOnly") == "IfPossible"
        if mount["name"] in hosts and not is_read:
            yield f"writing to the node's {hosts[mount['name']]['path']}"
        # As runtimes take it: /proc/../var is /var, and /opt/../proc is /proc.
        path = posixpath.normpath(f"/{mount['mountPath'].lstrip('/')}")
        if path.startswith(("/proc", "/sys", "/var/run/secrets/kubernetes.io")):
            yield f"a mount at {mount['mountPath']}"
    for variable in container["env"]:
        yield from (f"env.{name}" for name in variable.keys() - ENV_FIELDS)
        if variable["name"] in DEVICE_WORDS:
            yield f"the variable {variable['name']}"
    for source in container.get("envFrom", ()):
        prefix = source.get("prefix", "")
        if any(word.startswith(prefix) for word in DEVICE_WORDS):
            yield f"variables of any name under {prefix!r}"
    if not any("/" in name for name in container["resources"]["limits"]):
        yield "no device is counted"


def _of_metadata(metadata: dict[str, Any]) -> Iterator[str]:
    for key in metadata["annotations"]:
        if any(word in key for word in RAISING_WORDS):
            yield f"the annotation {key}"
    for key in metadata["labels"]:
        if key.startswith("app.kubernetes.io/") and metadata["labels"][key] == "hostile":
            yield f"the label {key}"
