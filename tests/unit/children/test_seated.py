"""The pod of an engine on its trainer's GPUs, as it is rendered."""

import msgspec

from sglang_operator.api import device_variables, names
from sglang_operator.children import engine_pod, origin
from sglang_operator.observed import wire
from sglang_operator.observed.moment import Moment
from sglang_operator.placement import entry
from sglang_operator.placement.seats import Seen
from tests.builders import a_pool
from tests.unit.placement.claims import a_claim, a_slot_pool, inventory, seated
from tests.unit.placement.trainers import SHARED, THREE, a_shared_pool, gpu, pods, published

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ON_GPU_1 = {"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}


def rendered(pool, rank=5, node_rank=0):
    engine = pool.engines[rank]
    found = pool.seating(Seen(published=published(*THREE), trainers=pods(*THREE)))
    assert found is not None
    seat = found.seats[engine.name][node_rank]
    return engine_pod.pod(
        pool, engine_pod.template(pool), engine, 0, node_rank=node_rank, seat=seat
    )


def container(body):
    (found,) = body["spec"]["containers"]
    return found


def variables(body):
    return {each["name"]: each.get("value") for each in container(body)["env"]}


def test_it_asks_for_no_gpu():
    resources = container(rendered(a_shared_pool()))["resources"]
    assert resources == {"limits": {}, "requests": {}}


def test_it_sees_the_gpus_of_its_device_group_by_their_uuids_in_order():
    assert variables(rendered(a_shared_pool()))["NVIDIA_VISIBLE_DEVICES"] == (
        f"{gpu(1, 2)},{gpu(1, 3)}"
    )


def test_the_scheduler_puts_it_on_its_trainers_node_or_nowhere():
    body = rendered(a_shared_pool())
    wanted = body["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert wanted == [{"matchFields": [ON_GPU_1]}]
    assert "nodeName" not in body["spec"]


def test_what_the_user_asks_of_nodes_holds_beside_that():
    """Of several terms one is enough."""
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "ab"
    ]
    preferred = [{"weight": 1, "preference": terms[0]}]
    affinity = {
        "nodeAffinity": {
            REQUIRED: {"nodeSelectorTerms": terms},
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        }
    }
    body = rendered(a_shared_pool(podTemplate={"spec": {"affinity": affinity}}))
    found = body["spec"]["affinity"]["nodeAffinity"]
    assert found[REQUIRED]["nodeSelectorTerms"] == [
        {**term, "matchFields": [ON_GPU_1]} for term in terms
    ]
    assert found["preferredDuringSchedulingIgnoredDuringExecution"] == preferred


def test_it_may_be_on_nodes_that_are_kept_for_gpus():
    """The API server lets in who asks for the resource, and it does not."""
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in rendered(a_shared_pool())["spec"][
        "tolerations"
    ]


def test_it_has_a_folder_in_common_with_its_trainer_and_may_write_there():
    body = rendered(a_shared_pool())
    (volume,) = [each for each in body["spec"]["volumes"] if each["name"] == "dshm"]
    assert volume["hostPath"] == {
        "path": "/dev/shm/sglang-operator.rl",
        "type": "DirectoryOrCreate",
    }
    (mount,) = [each for each in container(body)["volumeMounts"] if each["name"] == "dshm"]
    assert mount == {"name": "dshm", "mountPath": "/dev/shm"}


def test_the_engine_is_started_with_process_numbers_of_its_own():
    command = container(rendered(a_shared_pool()))["command"]
    assert command == [*entry.COMMAND, "python3", "-m", "sglang.launch_server"]


def test_it_remembers_its_seat_and_the_revision_does_not():
    pool = a_shared_pool()
    body = rendered(pool)
    slot = body["metadata"]["annotations"][names.ANNOTATION_SLOT]
    assert slot.endswith(".uid-trainer-1")
    assert body["metadata"]["labels"][names.LABEL_REVISION] == pool.revision


def test_the_runtime_s_class_and_the_user_are_those_that_are_told():
    placement = {**SHARED, "shared": {"runtimeClassName": "nvidia"}}
    body = rendered(a_shared_pool(placement=placement, security={"runAsUser": 1000}))
    assert body["spec"]["runtimeClassName"] == "nvidia"
    assert body["spec"]["securityContext"]["runAsUser"] == 1000
    assert "hostIPC" not in body["spec"]
    assert "hostPID" not in body["spec"]


def test_each_pod_of_an_engine_across_nodes_has_a_seat_of_its_own():
    pool = a_shared_pool(num_gpus_per_worker=12, num_gpus_per_node=6)
    leader, follower = (rendered(pool, 0, node_rank) for node_rank in range(2))
    assert variables(leader)["NVIDIA_VISIBLE_DEVICES"] == ",".join(THREE[0].gpus[:6])
    assert variables(follower)["NVIDIA_VISIBLE_DEVICES"] == ",".join(THREE[1].gpus[:6])
    assert container(follower)["args"] != container(leader)["args"]


def test_a_pod_in_another_mode_has_none_of_it():
    pool = a_pool()
    body = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 0)
    assert "affinity" not in body["spec"]
    assert "NVIDIA_VISIBLE_DEVICES" not in variables(body)
    assert names.ANNOTATION_SLOT not in body["metadata"]["annotations"]


def test_an_engine_refers_to_its_claim_and_to_its_own_requests_of_it():
    pool = a_slot_pool(device_mapping="list(range(0,8))", num_gpus_per_worker=4)
    seats = seated(pool, inventory(a_claim(pool, 0))).seats
    shared = engine_pod.template(pool)
    for engine in pool.engines:
        (seat,) = seats[engine.name]
        pod = engine_pod.pod(pool, shared, engine, 0, seat=seat)
        (container,) = pod["spec"]["containers"]
        (claim,) = pod["spec"]["resourceClaims"]
        assert claim["resourceClaimName"] == f"{pool.owner.name}-node-0"
        asked = container["resources"]["claims"]
        assert {each["name"] for each in asked} == {claim["name"]}
        assert [each["request"] for each in asked] == [f"gpu-{each}" for each in engine.devices]
        assert "affinity" not in pod["spec"], "the scheduler knows where its devices are"
        assert not [each for each in container["env"] if each["name"] == device_variables.NVIDIA]
        seen = wire.observed_pod(msgspec.convert(pod, wire.Pod), Moment(0.0, 0.0))
        assert seen.gpus_seen == seat.gpus, "by which nobody is put beside it"
    assert "resourceClaims" not in shared["spec"]


def test_what_the_api_server_refuses_of_a_claim_is_told_of_the_section():
    pool = a_slot_pool()
    for path in ("spec.resourceClaims[0].name", "spec.containers[0].resources.claims[1].request"):
        assert origin.field(pool, path) == "spec.placement.slot"
