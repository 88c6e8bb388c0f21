"""Why engines end or do not start, from everything that Kubernetes tells of their pods."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.children import engine_pod
from sglang_operator.diagnosis import causes, pod_signatures
from sglang_operator.observed.model import ObservedPod, PodEvent, Sightings, Termination
from tests.builders import NOW, a_failed_start, a_pod, a_pool, an_ended_pod

POOL = a_pool()
ABOUT = causes.context(POOL)
IMAGE = "lmsysorg/sglang:v0.5.7"


def waiting(reason: str, message: str = "") -> ObservedPod:
    return a_pod(
        POOL,
        POOL.engines[0],
        containers_ready=False,
        waiting_reason=reason,
        waiting_message=message,
    )


def ended(reason: str = "Error", message: str = "", code: int = 137, **changes: Any) -> ObservedPod:
    end = Termination(
        exit_code=code, reason=reason, message=message, finished=NOW, started=NOW - 100
    )
    values = {"termination": end, "containers_ready_changed": NOW, **changes}
    return an_ended_pod(POOL, POOL.engines[0], **values)


def pull(cause: str) -> str:
    """As kubelet 1.31 and later says it while it waits for the next try."""
    return (
        f'Back-off pulling image "{IMAGE}": ErrImagePull: failed to pull and unpack image '
        f'"docker.io/{IMAGE}": {cause}'
    )


@pytest.mark.parametrize(
    ("reason", "said", "expected", "message"),
    [
        pytest.param(
            "ErrImagePull",
            f"rpc error: code = NotFound desc = failed to resolve image: docker.io/{IMAGE}: "
            "not found",
            "ImageNotFound",
            f"there is no image {IMAGE}",
            id="not found",
        ),
        pytest.param(
            "ImagePullBackOff",
            pull("failed to resolve reference: unexpected status: 403 Forbidden"),
            "ImageAccessDenied",
            f"the registry refuses access to image {IMAGE}",
            id="forbidden",
        ),
        pytest.param(
            "ErrImagePull",
            "pull access denied, repository does not exist or may require authorization: server "
            "message: insufficient_scope: authorization failed",
            "ImageAccessDenied",
            f"the registry refuses access to image {IMAGE}",
            id="denied",
        ),
        pytest.param(
            "ErrImagePull",
            "failed to do request: dial tcp: lookup registry.example on 10.0.0.10:53: no such host",
            "RegistryUnreachable",
            f"the registry of image {IMAGE} does not answer the node: failed to do request: dial "
            "tcp: lookup registry.example on 10.0.0.10:53: no such host",
            id="no such host",
        ),
        pytest.param(
            "ErrImagePull",
            "429 Too Many Requests - toomanyrequests: You have reached your pull rate limit",
            "RegistryRateLimited",
            f"the registry lets image {IMAGE} be pulled only so often",
            id="rate limit",
        ),
        pytest.param(
            "ErrImagePull",
            "no match for platform in manifest: not found",
            "ImagePlatformMismatch",
            f"image {IMAGE} is not built for the node's platform",
            id="platform",
        ),
        pytest.param(
            "ErrImagePull",
            "failed to extract layer: write /var/lib/x: no space left on device",
            "NodeDiskFull",
            f"the node has no disk left for image {IMAGE}",
            id="disk",
        ),
        pytest.param(
            "ImagePullBackOff",
            f'Back-off pulling image "{IMAGE}"',
            "ImagePullFailed",
            f'image {IMAGE} cannot be pulled: Back-off pulling image "{IMAGE}"',
            id="no cause",
        ),
        pytest.param(
            "ImagePullBackOff",
            f'Back-off pulling image "{IMAGE}": ErrImagePull: no route to host',
            "ImagePullFailed",
            f"image {IMAGE} cannot be pulled: no route to host",
            id="as before the back-off",
        ),
        pytest.param(
            "InvalidImageName",
            "Failed to apply default image tag: couldn't parse image name",
            "ImageNameInvalid",
            f"{IMAGE} is no name of an image",
            id="name",
        ),
        pytest.param(
            "ErrImageNeverPull",
            "Container image is not present with pull policy of Never",
            "ImageNotOnNode",
            f"image {IMAGE} is not on the node, and podTemplate's imagePullPolicy is Never",
            id="never",
        ),
        pytest.param(
            "CreateContainerConfigError",
            'secret "hub-token" not found',
            "SecretMissing",
            "there is no Secret hub-token in the pool's namespace",
            id="secret",
        ),
        pytest.param(
            "CreateContainerConfigError",
            "couldn't find key token in Secret rl/hub-token",
            "SecretKeyMissing",
            "Secret hub-token has no key token",
            id="key",
        ),
        pytest.param(
            "CreateContainerConfigError",
            'configmap "settings" not found',
            "ConfigMapMissing",
            "there is no ConfigMap settings in the pool's namespace",
            id="config map",
        ),
        pytest.param(
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root (pod: ..., container: engine)",
            "UserNotAllowed",
            f"security.runAsNonRoot is true, and image {IMAGE} runs as root or as a named user",
            id="root",
        ),
        pytest.param(
            "RunContainerError",
            'failed to create containerd task: exec: "python3": executable file not found in $PATH',
            "PythonMissing",
            f"image {IMAGE} holds no python3",
            id="python",
        ),
        pytest.param(
            "CreateContainerError",
            "failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=3",
            "GPURuntimeFailed",
            "the node's container runtime cannot give the engine its GPUs: failed to inject CDI "
            "devices: unresolvable CDI devices nvidia.com/gpu=3",
            id="gpu runtime",
        ),
        pytest.param(
            "SomethingNew", "of a later version", "SomethingNew", "of a later version", id="new"
        ),
    ],
)
def test_a_container_that_cannot_start_says_why(reason, said, expected, message):
    told = causes.of_wait(waiting(reason, said), ABOUT)
    assert told is not None
    assert (told.reason, told.message) == (expected, message)
    assert told.advice


@pytest.mark.parametrize("reason", ["", "ContainerCreating", "PodInitializing", "CrashLoopBackOff"])
def test_a_container_on_its_way_has_no_cause(reason):
    assert causes.of_wait(waiting(reason), ABOUT) is None


@pytest.mark.parametrize(
    ("said", "expected", "message"),
    [
        pytest.param(
            'MountVolume.SetUp failed for volume "models" : persistentvolumeclaim "models" not '
            "found",
            "VolumeMissing",
            "the persistentvolumeclaim models, which podTemplate mounts, does not exist in the "
            "pool's namespace",
            id="claim",
        ),
        pytest.param(
            'MountVolume.SetUp failed for volume "m" : hostPath type check failed: /models is not '
            "a directory",
            "VolumeMissing",
            "/models is not on the node",
            id="host path",
        ),
        pytest.param(
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) trainer-0',
            "VolumeNotMounted",
            'a volume is in use on another node: Multi-Attach error for volume "pvc-1" Volume is '
            "already used by pod(s) trainer-0",
            id="attached elsewhere",
        ),
    ],
)
def test_a_volume_that_cannot_be_mounted_is_told_by_events(said, expected, message):
    pod = waiting("ContainerCreating")
    pod = dataclasses.replace(pod, events=(PodEvent(reason="FailedMount", message=said),))
    told = causes.of_wait(pod, ABOUT)
    assert told is not None
    assert (told.reason, told.message) == (expected, message)


@pytest.mark.parametrize(
    ("reason", "disruption", "said", "expected"),
    [
        pytest.param(
            "Evicted",
            "TerminationByKubelet",
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi.",
            "NodeMemoryPressure",
            id="memory",
        ),
        pytest.param(
            "Evicted",
            "TerminationByKubelet",
            "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi.",
            "NodeDiskPressure",
            id="disk",
        ),
        pytest.param(
            "Evicted",
            "",
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi.",
            "NodeDiskPressure",
            id="own disk",
        ),
        pytest.param(
            "Evicted",
            "",
            'Usage of EmptyDir volume "dshm" exceeds the limit "12Gi". ',
            "SharedMemoryExceeded",
            id="shm",
        ),
        pytest.param(
            "Evicted",
            "",
            'Usage of EmptyDir volume "big" exceeds the limit "64Gi". ',
            "VolumeLimitExceeded",
            id="the user's own volume",
        ),
        pytest.param("Evicted", "", "something else", "Evicted", id="evicted"),
        pytest.param("", "PreemptionByScheduler", "", "Preempted", id="scheduler"),
        pytest.param("Preempting", "TerminationByKubelet", "", "Preempted", id="kubelet"),
        pytest.param("", "DeletionByTaintManager", "", "NodeLost", id="taint"),
        pytest.param("", "DeletionByPodGC", "PodGC: node no longer exists", "NodeLost", id="gc"),
        pytest.param("", "EvictionByEvictionAPI", "", "EvictionByEvictionAPI", id="api"),
        pytest.param(
            "UnexpectedAdmissionError",
            "",
            "Pod was rejected: Allocate failed due to requested number of devices unavailable for "
            "nvidia.com/gpu. Requested: 2, Available: 1, which is unexpected",
            "GPUNotAllocated",
            id="device plugin",
        ),
        pytest.param("OutOfnvidia.com/gpu", "", "no room", "GPUNotAllocated", id="out of gpus"),
        pytest.param("OutOfcpu", "", "no room", "NodeRefused", id="out of cpu"),
        pytest.param("NodeShutdown", "", "Pod was rejected", "NodeShutdown", id="shutdown"),
    ],
)
def test_a_pod_that_was_taken_away_says_by_whom(reason, disruption, said, expected):
    pod = ended(reason="", termination=None) if not disruption else ended()
    pod = dataclasses.replace(
        pod,
        reason=reason,
        disruption=disruption,
        message=said,
        termination=None if not disruption else pod.termination,
    )
    told = causes.of_end(pod, ABOUT)
    assert told.reason == expected
    assert told.message
    assert told.advice


def test_the_volume_at_dev_shm_is_told_by_the_way_that_makes_it_larger():
    """The advice named a volume that no pod has; what it says now is what a pool may say."""
    (volume,) = (v for v in engine_pod.template(a_pool())["spec"]["volumes"] if "dshm" in v["name"])
    limit = volume["emptyDir"]["sizeLimit"]
    said = f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
    pod = dataclasses.replace(
        ended(reason="", termination=None), reason="Evicted", disruption="", message=said
    )
    told = causes.of_end(pod, ABOUT)
    assert (told.reason, told.message) == (
        "SharedMemoryExceeded",
        f"the engine filled /dev/shm beyond its {limit}",
    )
    assert "mount an emptyDir at /dev/shm in podTemplate, with medium: Memory" in told.advice
    template = {
        "spec": {
            "volumes": [{"name": "x", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}}],
            "containers": [
                {"name": "engine", "volumeMounts": [{"name": "x", "mountPath": "/dev/shm"}]}
            ],
        }
    }
    body = engine_pod.template(a_pool(podTemplate=template))["spec"]
    (mount,) = (m for m in body["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm")
    assert mount["name"] == "x"


def test_a_killed_tree_is_told_from_a_pod_at_its_memory_limit():
    assert causes.of_end(ended("OOMKilled", "SIGQUIT received"), ABOUT).reason == "OOMKilled"
    assert causes.of_end(ended("Error", "SIGQUIT received"), ABOUT).reason == "SchedulerDied"
    assert causes.of_end(ended("Error"), ABOUT).reason == "EngineKilled"


def test_a_container_that_kubelet_could_not_start_is_no_engine_that_failed():
    said = 'exec: "python3": executable file not found in $PATH: unknown'
    assert causes.of_end(ended("StartError", said, 128), ABOUT).reason == "PythonMissing"
    assert causes.of_end(ended("StartError", "strange", 128), ABOUT).reason == "EngineStartFailed"


def killing(probe: str) -> tuple[PodEvent, ...]:
    said = f"Container engine failed {probe} probe, will be restarted"
    return (PodEvent(reason="Killing", message=said),)


def test_an_engine_that_never_answered_in_its_time_is_a_timeout():
    pod = a_failed_start(POOL, POOL.engines[0], message="loading")
    assert causes.of_end(pod, ABOUT).reason == "EngineKilled"
    told = causes.of_end(dataclasses.replace(pod, events=killing("startup")), ABOUT)
    assert told.reason == "StartupTimeout"
    assert told.message == "the engine gave no healthy answer in 60 s (it may take 1800 s)"
    # Without the event, by the time it took.
    assert pod.termination is not None
    slow = dataclasses.replace(pod.termination, started=NOW - 1801)
    late = dataclasses.replace(pod, termination=slow, containers_ready_changed=NOW - 1802)
    assert causes.of_end(late, ABOUT).reason == "StartupTimeout"


def test_an_engine_that_stopped_answering_is_told_by_the_event():
    pod = ended(events=killing("liveness"))
    assert causes.of_end(pod, ABOUT).reason == "EngineUnresponsive"


def test_a_text_that_is_known_needs_no_event():
    pod = ended(message="CUDA error: out of memory", events=killing("liveness"))
    assert causes.of_end(pod, ABOUT).reason == "CUDAOutOfMemory"


@pytest.mark.parametrize(
    ("message", "changed", "at_startup"),
    [
        pytest.param("CUDA error: out of memory", NOW - 101, True, id="never up"),
        pytest.param("CUDA error: out of memory", NOW, False, id="had been up"),
        pytest.param("CUDA error: out of memory", 0.0, False, id="not told"),
        pytest.param("error: unrecognized arguments: --x", NOW, True, id="by its nature"),
    ],
)
def test_a_failure_at_the_start_is_one_before_the_first_answer(message, changed, at_startup):
    pod = ended(message=message, containers_ready_changed=changed)
    assert pod.termination is not None
    told = causes.of_end(pod, ABOUT)
    assert causes.at_startup(pod, pod.termination, told) is at_startup


def test_every_row_can_fill_its_texts():
    for row in pod_signatures.SIGNATURES:
        values = dict.fromkeys((*row.pattern.compiled.groupindex, "image", "said"), "x")
        assert row.message.format(**values)
        assert row.advice.format(**values)


def test_a_memory_limit_that_pod_template_does_not_give_is_named_with_its_source():
    killed = ended("OOMKilled", memory_limit="1Gi")
    told = causes.of_end(killed, ABOUT)
    assert "(now 1Gi, which a LimitRange of the namespace gives)" in told.advice
    own = {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"memory": "2Gi"}}}]}}
    told = causes.of_end(killed, causes.context(a_pool(podTemplate=own)))
    assert "(now 2Gi)" in told.advice


def test_a_clock_that_was_set_makes_no_crash_a_start_that_took_too_long():
    ended = Termination(
        exit_code=1, reason="Error", message="", finished=NOW, started=NOW - 3 * 3600
    )
    pod = an_ended_pod(
        POOL,
        POOL.running[0],
        termination=ended,
        containers_ready_changed=NOW - 3 * 3600 - 1,
        seen=Sightings(ended=500.0, alive=495.0, most=65.0),
    )
    assert causes.of_end(pod, ABOUT).reason != causes.STARTUP_TIMEOUT
    believed = dataclasses.replace(pod, seen=Sightings(ended=500.0, alive=495.0))
    assert causes.of_end(believed, ABOUT).reason == causes.STARTUP_TIMEOUT
