"""The mode Shared: engines on the GPUs that a trainer's pods have."""

import pytest

from sglang_operator.api import conditions, errors
from sglang_operator.children import slots_map
from sglang_operator.placement import colocated
from sglang_operator.placement.base import Placed
from sglang_operator.placement.seats import Seen
from tests.builders import OWNER, a_pool, guide_spec, refused, with_config
from tests.unit.placement.trainers import SHARED, THREE, a_shared_pool, a_slot, by_hand, published

SAVER = "--enable-memory-saver"


def only(spec):
    (problem,) = refused(spec).errors
    return problem


def test_an_engine_asks_for_no_gpu():
    pool = a_shared_pool()
    assert pool.placement.requests(pool.spec, pool.gpus_per_pod) == {}


def test_engines_can_release_their_memory_unless_that_is_switched_off_by_hand():
    assert SAVER in a_shared_pool().argv
    assert SAVER not in a_pool().argv
    spec = with_config(enable_memory_saver=False) | {"placement": SHARED}
    problem = only(spec)
    assert problem.reason == "MemorySaverOff"
    assert problem.field == "spec.strategy_args.strategy_config.enable_memory_saver"


@pytest.mark.parametrize(
    "config",
    [
        {"enable-memory-saver": False},
        {"enable_memory_saver": "false"},
        {"enable_memory_saver": 0},
        {"--enable-memory-saver": False},
        {"no_enable_memory_saver": True},
        {"enable_sleep_mode": False},
        {"config": "/arguments.yaml"},
    ],
)
def test_there_is_no_way_around_that_in_the_arguments(config):
    assert refused(with_config(**config) | {"placement": SHARED}).errors


@pytest.mark.parametrize("own", [{"args": ["--port=1"]}, {"command": ["python3", "-m", "mine"]}])
def test_nor_in_the_template_of_the_pod(own):
    template = {"spec": {"containers": [{"name": "engine", **own}]}}
    problem = only(guide_spec(placement=SHARED, podTemplate=template))
    assert problem.field == f"spec.podTemplate.spec.containers[0].{next(iter(own))}"


def test_ids_are_places_so_that_there_have_to_be_some():
    problem = only(guide_spec(placement=SHARED, device_mapping=None, replicas=2))
    assert problem.field == "spec.device_mapping"


@pytest.mark.parametrize(
    "path", ["/dev/shm/sglang-operator.rl", "/dev/shm/sglang-operator.rl.one-job", None]
)
def test_engines_and_trainer_have_a_folder_of_their_namespace_in_common(path):
    memory = {} if path is None else {"sharedMemory": {"hostPath": path}}
    pool = a_shared_pool(placement={**SHARED, "shared": memory})
    wanted = {"path": path or colocated.folder("rl"), "type": "DirectoryOrCreate"}
    assert pool.parts.shm == {"hostPath": wanted}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "/dev/shm",
        "/dev/shm/sglang-operator.other",
        "/dev/shm/sglang-operator.rlx",
        "/dev/shm/sglang-operator.rl/x",
        "/dev/shm/sglang-operator.rl/../../etc",
        "/dev/shm/sglang-operator.rl..",
        "/dev/shm/sglang-operator.rl.x\n",
    ],
)
def test_no_other_folder_of_a_node_is_written_to(path):
    """Below a folder that others see, a name may be a link of theirs to anywhere."""
    placement = {**SHARED, "shared": {"sharedMemory": {"hostPath": path}}}
    problem = only(guide_spec(placement=placement))
    assert problem.field == "spec.placement.shared.sharedMemory.hostPath"
    assert "expected /dev/shm/sglang-operator.NAMESPACE" in problem.message


def test_a_claim_takes_the_place_of_the_folder():
    memory = {"sharedMemory": {"claimName": "memory"}}
    pool = a_shared_pool(placement={**SHARED, "shared": memory})
    assert pool.parts.shm == {"persistentVolumeClaim": {"claimName": "memory"}}
    both = {"sharedMemory": {"claimName": "memory", "hostPath": colocated.folder("rl")}}
    assert only(guide_spec(placement={**SHARED, "shared": both})).reason == "SharedMemoryInvalid"


def test_a_template_cannot_take_the_folder_s_place():
    mount = {"name": "engine", "volumeMounts": [{"name": "own", "mountPath": "/dev/shm"}]}
    volumes = [{"name": "own", "emptyDir": {"medium": "Memory"}}]
    template = {"spec": {"containers": [mount], "volumes": volumes}}
    problem = only(guide_spec(placement=SHARED, podTemplate=template))
    assert "a mount at /dev/shm" in problem.message
    a_pool(podTemplate=template)


def test_a_runtime_class_is_named_once():
    placement = {**SHARED, "shared": {"runtimeClassName": "nvidia"}}
    assert a_shared_pool(placement=placement).parts.spec == {"runtimeClassName": "nvidia"}
    template = {"spec": {"runtimeClassName": "kata"}}
    problem = only(guide_spec(placement=placement, podTemplate=template))
    assert problem.field == "spec.podTemplate.spec.runtimeClassName"
    a_shared_pool(podTemplate=template)


def test_who_asks_for_no_gpu_waits_in_no_queue_for_any():
    problem = only(guide_spec(placement=SHARED, scheduling={"gang": "Kueue", "queueName": "gpus"}))
    assert problem.reason == "SharedUnqueued"


def test_of_another_mode_the_section_is_refused():
    problem = only(guide_spec(placement={"shared": {"runtimeClassName": "nvidia"}}))
    assert problem.reason == "PlacementSectionUnused"


# --- slots


def test_a_trainer_that_has_yet_to_speak_is_given_a_place_to_do_it():
    """So that it needs no right to create one."""
    (body,) = slots_map.slots_maps(a_shared_pool())
    assert body["metadata"]["name"] == "actor-infer-slots"
    assert not slots_map.slots_maps(a_pool())
    assert not slots_map.slots_maps(a_shared_pool(placement=by_hand(*THREE)))


def test_slots_by_hand_are_judged_before_any_pod_is_made():
    a_shared_pool(placement=by_hand(*THREE))
    problem = only(guide_spec(placement=by_hand(*THREE[:2])))
    assert problem.reason == "SlotsDisagree"
    assert "no slot for node rank 2" in problem.message
    few = a_slot(0, gpus=THREE[0].gpus[:3])
    assert "found 3 GPUs" in only(guide_spec(placement=by_hand(few, *THREE[1:]))).message


def test_slots_by_hand_have_no_pod_to_wait_for():
    pool = a_shared_pool(placement=by_hand(*THREE))
    found = pool.seating(Seen(trainers={}, nodes={slot.node for slot in THREE}))
    assert found is not None
    assert len(found.seats) == 12


@pytest.mark.parametrize(
    ("own", "told"), [(1000, False), (None, True), (2000, True)], ids=["same", "unset", "another"]
)
def test_it_is_said_when_trainer_and_engines_are_not_one_user(own, told):
    pool = a_shared_pool(security={} if own is None else {"runAsUser": own})
    found = pool.seating(Seen(published=published(a_slot(0, user=1000))))
    assert found is not None
    assert bool(found.warnings) is told
    if told:
        (warning,) = found.warnings
        assert warning.severity is errors.Severity.WARNING
        assert "set security.runAsUser: 1000" in warning.message


def test_nothing_is_said_of_the_user_of_a_trainer_that_is_gone():
    pool, before = a_shared_pool(security={"runAsUser": 1}), a_slot(0, user=1000)
    found = pool.seating(Seen(published=published(before), trainers={}))
    assert found is not None
    assert not found.warnings


def test_what_is_achieved_is_said_of_places():
    pool = a_shared_pool()
    found = pool.placement.achieved(Placed(engines=12, of=12, nodes=3, gpus=2))
    assert (found.complete, found.reason) == (True, conditions.SHARED)
    assert found.message.startswith("24 GPUs of the trainer on 3 nodes, by UUID")
    found = pool.placement.achieved(Placed(engines=11, of=12, nodes=3, gpus=2))
    assert (found.complete, found.reason) == (False, conditions.ENGINES_UNPLACED)


def test_namespaces_have_folders_of_their_own():
    assert colocated.folder(OWNER.namespace) != colocated.folder("other")
