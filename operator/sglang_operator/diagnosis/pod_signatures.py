"""What Kubernetes says of a pod that does not run: one table, read by ``causes``.

The words are the kubelet's, containerd's and the scheduler's own, as of Kubernetes 1.29 to 1.37
(pkg/kubelet/images, pkg/kubelet/kuberuntime, pkg/kubelet/eviction, pkg/scheduler/framework) and
containerd 1.7 to 2.1.  The first row that matches wins; ``where`` are the reasons it is for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sglang_operator.api import pod_volumes
from sglang_operator.api.patterns import Pattern
from sglang_operator.engine import signatures
from sglang_operator.engine.diagnosis import bounded

IMAGE_NOT_FOUND = "ImageNotFound"
IMAGE_ACCESS_DENIED = "ImageAccessDenied"
REGISTRY_UNREACHABLE = "RegistryUnreachable"
REGISTRY_BUSY = "RegistryRateLimited"
IMAGE_NOT_FOR_NODE = "ImagePlatformMismatch"
IMAGE_NAME_INVALID = "ImageNameInvalid"
IMAGE_NOT_ON_NODE = "ImageNotOnNode"
IMAGE_PULL_FAILED = "ImagePullFailed"
NODE_DISK_FULL = "NodeDiskFull"
SECRET_MISSING = "SecretMissing"
SECRET_KEY_MISSING = "SecretKeyMissing"
CONFIG_MAP_MISSING = "ConfigMapMissing"
USER_NOT_ALLOWED = "UserNotAllowed"
CONTAINER_CONFIG = "ContainerConfigInvalid"
START_FAILED = "EngineStartFailed"
PYTHON_MISSING = "PythonMissing"
GPU_RUNTIME_FAILED = "GPURuntimeFailed"
VOLUME_MISSING = "VolumeMissing"
VOLUME_NOT_MOUNTED = "VolumeNotMounted"
CLAIM_MISSING = "VolumeClaimMissing"
CLAIM_UNBOUND = "VolumeClaimUnbound"
CLAIM_ELSEWHERE = "VolumeElsewhere"
DEVICE_CLAIM = "DeviceClaimPending"
SANDBOX_FAILED = "PodSandboxFailed"
NETWORK_FAILED = "PodNetworkFailed"
RUNTIME_CLASS_MISSING = "RuntimeClassMissing"
DEVICES_NOT_PREPARED = "DevicesNotPrepared"
EVICTED_FOR_MEMORY = "NodeMemoryPressure"
EVICTED_FOR_DISK = "NodeDiskPressure"
EVICTED_FOR_SHM = signatures.SHM_FULL
EVICTED_FOR_VOLUME = "VolumeLimitExceeded"
EVICTED = "Evicted"
PREEMPTED = "Preempted"
QUEUE_EVICTED = "EvictedByQueue"
QUEUE_NOT_READY = "NotReadyForQueue"
GPU_NOT_ALLOCATED = "GPUNotAllocated"
NODE_REFUSED = "NodeRefused"
NODE_SHUTDOWN = "NodeShutdown"

PULL_REASONS = ("ErrImagePull", "ImagePullBackOff")
# Reasons of Events about what comes before any container.
BEFORE_CONTAINERS = (
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
    "NetworkNotReady",
    "FailedPrepareDynamicResources",
    "FailedResourceClaimCreation",
)
CONFIG_REASONS = ("CreateContainerConfigError",)
CREATE_REASONS = (
    "StartError",
    "ContainerCannotRun",
    "RunContainerError",
    "CreateContainerError",
)


@dataclass(frozen=True, kw_only=True)
class PodSignature:
    """A text of Kubernetes; groups of the pattern, ``image`` and ``said`` fill the texts."""

    reason: str
    where: tuple[str, ...]  # reasons that Kubernetes gives; a trailing * stands for anything
    pattern: Pattern
    message: str
    advice: str


def _row(
    reason: str, where: tuple[str, ...], pattern: str, message: str, advice: str
) -> PodSignature:
    return PodSignature(
        reason=reason,
        where=where,
        pattern=Pattern(pattern, re.IGNORECASE),
        message=message,
        advice=advice,
    )


def _for(where: tuple[str, ...]) -> Callable[[str, str, str, str], PodSignature]:
    return lambda reason, pattern, message, advice: _row(reason, where, pattern, message, advice)


_pull, _config, _create = _for(PULL_REASONS), _for(CONFIG_REASONS), _for(CREATE_REASONS)
_EVICTED = ("Evicted",)
_evicted = _for(_EVICTED)
_unscheduled = _for(("Unschedulable",))
_sandbox = _for(("FailedCreatePodSandBox", "NetworkNotReady"))
_mount = _for(("FailedMount", "FailedAttachVolume", "FailedMapVolume"))

_PULL_SECRET = (
    "name a Secret of type kubernetes.io/dockerconfigjson in podTemplate.spec.imagePullSecrets "
    "that may read the image"
)
_NODE = "nothing to do: the engine is started again where there is room"

SIGNATURES: tuple[PodSignature, ...] = (
    # --- the image
    _pull(
        IMAGE_ACCESS_DENIED,
        r"unauthorized|authorization failed|authentication required|pull access denied"
        r"|insufficient_scope|403 Forbidden|401 Unauthorized|denied:",
        "the registry refuses access to image {image}",
        _PULL_SECRET,
    ),
    _pull(
        REGISTRY_BUSY,
        r"toomanyrequests|429 Too Many Requests|rate limit|pull QPS exceeded",
        "the registry lets image {image} be pulled only so often",
        "wait, log in with imagePullSecrets, or use a mirror of the image",
    ),
    _pull(
        IMAGE_NOT_FOR_NODE,
        r"no match for platform|no matching manifest|does not match the specified platform",
        "image {image} is not built for the node's platform",
        "use an image for the node's architecture, or choose nodes by podTemplate's nodeSelector",
    ),
    _pull(
        NODE_DISK_FULL,
        r"no space left on device",
        "the node has no disk left for image {image}",
        "free the node's disk; SGLang's images are larger than 10 GB",
    ),
    _pull(
        REGISTRY_UNREACHABLE,
        r"no such host|i/o timeout|connection refused|connection reset|TLS handshake|x509:"
        r"|dial tcp|network is unreachable|context deadline exceeded|server misbehaving"
        r"|50[0234] (?:Internal|Bad|Service|Gateway)",
        "the registry of image {image} does not answer the node: {said}",
        "correct the registry in spec.image, or let nodes reach it; a mirror works too",
    ),
    _pull(
        IMAGE_NOT_FOUND,
        r"not found|manifest unknown|name unknown|does not exist",
        "there is no image {image}",
        "correct spec.image",
    ),
    _pull(
        IMAGE_PULL_FAILED,
        r"",
        "image {image} cannot be pulled: {said}",
        "check spec.image and that nodes reach its registry",
    ),
    _row(
        IMAGE_NAME_INVALID,
        ("InvalidImageName",),
        r"",
        "{image} is no name of an image",
        "correct spec.image: REGISTRY/NAME:TAG",
    ),
    _row(
        IMAGE_NOT_ON_NODE,
        ("ErrImageNeverPull",),
        r"",
        "image {image} is not on the node, and podTemplate's imagePullPolicy is Never",
        "put it there, or use IfNotPresent",
    ),
    # --- what the container refers to
    _config(
        SECRET_KEY_MISSING,
        r"couldn't find key (?P<key>\S{1,253}) in Secret (?:[\w.-]+/)?(?P<name>[\w.-]+)",
        "Secret {name} has no key {key}",
        "add the key to the Secret, or correct the reference in security or podTemplate",
    ),
    _config(
        SECRET_MISSING,
        r'secrets? "(?P<name>[^"]+)" not found',
        "there is no Secret {name} in the pool's namespace",
        "create it, or correct its name in security or podTemplate",
    ),
    _config(
        CONFIG_MAP_MISSING,
        r'configmaps? "(?P<name>[^"]+)" not found',
        "there is no ConfigMap {name} in the pool's namespace",
        "create it, or correct its name in podTemplate",
    ),
    _config(
        CONFIG_MAP_MISSING,
        r"couldn't find key (?P<key>\S{1,253}) in ConfigMap (?:[\w.-]+/)?(?P<name>[\w.-]+)",
        "ConfigMap {name} has no key {key}",
        "add the key, or correct the reference in podTemplate",
    ),
    _config(
        USER_NOT_ALLOWED,
        r"runAsNonRoot and (?:image|the image) (?:will run as root|has non-numeric user)",
        "security.runAsNonRoot is true, and image {image} runs as root or as a named user",
        "set security.runAsUser to a number above 0",
    ),
    _config(
        CONTAINER_CONFIG,
        r"",
        "the container cannot be set up: {said}",
        "correct security or podTemplate",
    ),
    # --- its start
    _create(
        PYTHON_MISSING,
        r"exec: \"?python3\"?[^\n]{0,200}?(?:not found|no such file)",
        "image {image} holds no python3",
        "use an image of SGLang in spec.image",
    ),
    _create(
        GPU_RUNTIME_FAILED,
        r"nvidia-container-cli|nvidia-container-runtime|libnvidia-ml|failed to inject CDI"
        r"|unresolvable CDI",
        "the node's container runtime cannot give the engine its GPUs: {said}",
        "check the node's driver, container toolkit and device plugin",
    ),
    _create(
        START_FAILED,
        r"",
        "the container could not be started: {said}",
        "check the image: it has to hold python3 and SGLang",
    ),
    # --- volumes: told by events only
    _mount(
        VOLUME_MISSING,
        r'(?P<kind>secret|configmap|persistentvolumeclaim) "(?P<name>[^"]+)" not found',
        "the {kind} {name}, which podTemplate mounts, does not exist in the pool's namespace",
        "create it, or correct its name in podTemplate.spec.volumes",
    ),
    _mount(
        VOLUME_MISSING,
        r"hostPath type check failed: (?P<name>\S+)",
        "{name} is not on the node",
        "put it on every node that engines may run on, or choose nodes by nodeSelector",
    ),
    _mount(
        VOLUME_NOT_MOUNTED,
        r"Multi-Attach error",
        "a volume is in use on another node: {said}",
        "use a volume that many nodes may mount (ReadWriteMany or ReadOnlyMany)",
    ),
    _mount(
        VOLUME_NOT_MOUNTED,
        r"",
        "a volume cannot be mounted: {said}",
        "check podTemplate.spec.volumes, and the driver of the volume on the node",
    ),
    # --- no node, for another reason than GPUs: the scheduler's condition
    _unscheduled(
        CLAIM_MISSING,
        r'persistentvolumeclaim "(?P<name>[^"]+)" not found',
        "there is no PersistentVolumeClaim {name} in the pool's namespace",
        "create it, or correct its name in podTemplate.spec.volumes",
    ),
    _unscheduled(
        CLAIM_MISSING,
        r'persistentvolumeclaim "(?P<name>[^"]+)" (?:is being deleted|bound to non-existent)',
        "PersistentVolumeClaim {name} is on its way out, or its volume is gone",
        "create it anew, or name another in podTemplate.spec.volumes",
    ),
    _unscheduled(
        CLAIM_UNBOUND,
        r"unbound immediate PersistentVolumeClaims"
        r"|didn't find available persistent volumes to bind",
        "a PersistentVolumeClaim of podTemplate has no volume yet",
        "kubectl describe pvc says what it waits for: its storage class, or a provisioner",
    ),
    _unscheduled(
        CLAIM_ELSEWHERE,
        r"(?P<what>(?<!\d)\d{1,7} node\(s\) had volume node affinity conflict)",
        "no node may have both the volume and the engine: {what}",
        "use a volume that all GPU nodes reach, or choose nodes that do",
    ),
    _unscheduled(
        DEVICE_CLAIM,
        r"(?P<what>cannot allocate all claims|resourceclaim[^,;.]{0,200}?"
        r"(?:not found|not created)[^,;.]{0,200}"
        r"|waiting for (?:dynamic )?resource[ -]?claim[^,;.]{0,200})",
        "a ResourceClaim cannot be had: {what}",
        "kubectl describe resourceclaims; check the DRA driver and the device class",
    ),
    # --- before any container: told by events only
    _sandbox(
        RUNTIME_CLASS_MISSING,
        r'no runtime for "(?P<name>[^"]+)" is configured|RuntimeClass "(?P<other>[^"]+)" not found',
        "the node knows no runtime class {name}{other}",
        "correct podTemplate.spec.runtimeClassName, or set the runtime up on the GPU nodes",
    ),
    _sandbox(
        NETWORK_FAILED,
        r"(?i)network|cni|failed to setup|no IP addresses|ipam",
        "the node's network plugin cannot give the pod a network: {said}",
        "check the network plugin on the node, and whether its addresses are used up",
    ),
    _sandbox(
        SANDBOX_FAILED,
        r"",
        "the node cannot set the pod up: {said}",
        "check the container runtime on the node",
    ),
    _row(
        DEVICES_NOT_PREPARED,
        ("FailedPrepareDynamicResources", "FailedResourceClaimCreation"),
        r"",
        "the devices of a ResourceClaim cannot be prepared: {said}",
        "check the DRA driver on the node",
    ),
    # --- taken away by the node
    _evicted(
        EVICTED_FOR_SHM,
        rf'Usage of EmptyDir volume "(?P<name>{pod_volumes.SHM_VOLUME})" exceeds the limit '
        r'"(?P<limit>[^"]+)"',
        "the engine filled /dev/shm beyond its {limit}",
        signatures.MORE_SHM,
    ),
    _evicted(
        EVICTED_FOR_VOLUME,
        r'Usage of EmptyDir volume "(?P<name>[^"]+)" exceeds the limit "(?P<limit>[^"]+)"',
        "the engine filled volume {name} beyond its {limit}",
        "raise its sizeLimit in podTemplate.spec.volumes, or mount another kind of volume",
    ),
    _evicted(
        EVICTED_FOR_DISK,
        r"ephemeral[- ](?:local )?storage|low on resource: (?:nodefs|imagefs|inodes|ephemeral)",
        "the node ran out of disk, or the engine used more than its limit: {said}",
        "mount a volume for caches and models, or set ephemeral-storage in podTemplate's resources",
    ),
    _evicted(
        EVICTED_FOR_MEMORY,
        r"low on resource: memory",
        "the node ran out of memory: {said}",
        "request the memory that an engine uses in podTemplate's resources, so that others go "
        "first; /dev/shm counts",
    ),
    _evicted(EVICTED, r"", "the node took the pod away: {said}", _NODE),
    # --- never let in by the node
    _row(
        GPU_NOT_ALLOCATED,
        ("UnexpectedAdmissionError", "OutOfnvidia.com/*", "OutOfamd.com/*"),
        r"",
        "the node could not give the engine its GPUs: {said}",
        "check the node's device plugin: it counts GPUs that it does not have, or that are broken",
    ),
    _row(
        NODE_REFUSED,
        ("OutOf*", "NodeAffinity", "NodePorts", "TopologyAffinityError", "AdmissionFailed"),
        r"",
        "the node refused the pod: {said}",
        _NODE,
    ),
    _row(
        NODE_SHUTDOWN,
        ("NodeShutdown", "Terminated", "Shutdown"),
        r"",
        "the node was shut down: {said}",
        _NODE,
    ),
    _row(
        PREEMPTED,
        ("Preempting", "PreemptionByScheduler"),
        r"",
        "a pod of higher priority took the engine's place",
        "name a PriorityClass in scheduling.priorityClassName that others do not preempt",
    ),
    # --- by Kueue (pkg/controller/jobframework/stop_reason.go; of an eviction its cause follows)
    _row(
        QUEUE_NOT_READY,
        ("WorkloadEvictedDueToPodsReadyTimeout*",),
        r"",
        "Kueue took the engine's quota back, because it was not Ready for too long: {said}",
        "raise timeout and recoveryTimeout of waitForPodsReady in Kueue's configuration: an engine "
        "is not Ready before its weights are synced, nor while it sleeps",
    ),
    _row(
        QUEUE_EVICTED,
        ("WorkloadEvicted*", "WorkloadDeleted", "NoMatchingWorkload", "NotAdmitted"),
        r"",
        "Kueue took the engine's quota back: {said}",
        "nothing to do: the engine waits for quota and is started again; if others should not go "
        "before it, name a higher class in scheduling.workloadPriorityClassName",
    ),
)


# Nothing gets better until somebody changes the spec, or makes what it names.
ONLY_A_HUMAN = frozenset(
    {
        IMAGE_NOT_FOUND,
        IMAGE_ACCESS_DENIED,
        IMAGE_NOT_FOR_NODE,
        IMAGE_NAME_INVALID,
        IMAGE_NOT_ON_NODE,
        SECRET_MISSING,
        SECRET_KEY_MISSING,
        CONFIG_MAP_MISSING,
        USER_NOT_ALLOWED,
        CONTAINER_CONFIG,
        PYTHON_MISSING,
        VOLUME_MISSING,
        CLAIM_MISSING,
        RUNTIME_CLASS_MISSING,
    }
)


def find(reason: str, said: str) -> tuple[PodSignature, re.Match[str]] | None:
    """The row for what Kubernetes said under this reason; None if it has none."""
    text = bounded(said)
    for row in SIGNATURES:
        if any(_fits(where, reason) for where in row.where) and (found := row.pattern.search(text)):
            return row, found
    return None


def _fits(where: str, reason: str) -> bool:
    return reason.startswith(where[:-1]) if where.endswith("*") else reason == where
