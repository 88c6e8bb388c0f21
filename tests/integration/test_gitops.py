"""Pools under Argo CD and Flux, as these tools apply and judge them."""

import contextlib
import json

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.testing.errors import CommandError
from sglang_operator.testing.installed import InstalledOperator, manifests
from tests.argocd import health
from tests.builders import guide_spec
from tests.gitops import flux_complaints, kstatus
from tests.integration.pools import PoolUnderTest

# Room for each test's pool, until garbage collection knows their kind, 30 s after the first.
pytestmark = pytest.mark.plane("8x8", operator=False)

ARGO, FLUX = "argocd-controller", "kustomize-controller"


@pytest.fixture(scope="module")
def operator(plane):
    operator = InstalledOperator(plane)
    operator.install()
    yield operator
    operator.stop()


@pytest.fixture
def running(operator):
    if operator.pid is None:
        operator.start()
    return operator


def manifest(pool, **changes):
    spec = {**guide_spec(device_mapping="list(range(0,4))"), **changes}
    return json.dumps(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": pool.name, "namespace": pool.namespace},
            "spec": spec,
        }
    )


def server_side(pool, manager, *more, **changes):
    arguments = ("--server-side", f"--field-manager={manager}", *more, "-f", "-")
    return pool.kubectl("apply", *arguments, input=manifest(pool, **changes))


def judged(pool):
    """What Argo CD and Flux say of it."""
    found = pool.object()
    return health(found)[0], kstatus(found)


def test_without_an_operator_nothing_new_and_nothing_changed_is_healthy(plane, operator):
    pool = PoolUnderTest(plane, plane.namespace("unseen"))
    server_side(pool, FLUX)
    assert judged(pool) == ("Progressing", "InProgress")
    operator.start()
    pool.wait_ready()
    assert judged(pool) == ("Healthy", "Current")
    operator.stop()
    server_side(pool, FLUX, replicas=1)
    assert judged(pool) == ("Progressing", "InProgress")
    operator.start()
    pool.wait_ready()
    assert judged(pool) == ("Healthy", "Current")
    pool.delete()


def test_a_pool_is_healthy_before_any_trainer_has_come(plane, running):
    pool = PoolUnderTest(plane, plane.namespace("wave"))
    server_side(pool, ARGO, "--force-conflicts")
    pool.wait_ready()
    assert pool.status["syncedSummary"] == "0/2"  # gated, and waiting for its trainer
    assert judged(pool) == ("Healthy", "Current")
    pool.delete()


@pytest.mark.parametrize("way", ["argo-server-side", "flux-server-side", "three-way"])
def test_nothing_drifts_whatever_the_operator_does(plane, running, way):
    pool = PoolUnderTest(plane, plane.namespace(f"drift-{way}"))
    manager = {"argo-server-side": ARGO, "flux-server-side": FLUX}.get(way)

    def apply(**changes):
        if manager:
            server_side(pool, manager, "--force-conflicts", **changes)
        else:
            pool.kubectl("apply", "-f", "-", input=manifest(pool, **changes))
        pool.wait_ready()

    def no_drift(**changes):
        more = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
        given = manifest(pool, **changes)

        def agrees() -> bool:  # kubectl reads twice: the status may have changed in between
            with contextlib.suppress(CommandError):
                pool.kubectl("diff", *(more if manager else ()), "-f", "-", input=given)
                return True
            return False

        pool.wait(agrees, "no difference", 10)
        assert not list(flux_complaints(pool.object()))

    apply()
    no_drift()
    before = pool.uids()
    pool.kubectl("delete", "pod", f"{pool.name}-g0-1-0", "--wait=false")
    pool.wait(lambda: pool.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod")
    pool.wait_ready()
    no_drift()
    apply(replicas=1)
    no_drift(replicas=1)
    apply(network={"headlessService": True})
    no_drift(network={"headlessService": True})
    pool.delete()


def test_who_changes_what_git_owns_is_told_whose_it_is(plane, running):
    pool = PoolUnderTest(plane, plane.namespace("conflict"))
    server_side(pool, FLUX, replicas=2)
    with pytest.raises(CommandError) as refused:
        server_side(pool, "somebody", replicas=1)
    assert f'conflict with "{FLUX}"' in str(refused.value)
    assert ".spec.replicas" in str(refused.value)
    pool.delete()


def test_the_example_tree_comes_up_and_is_removed_whole(plane, running):
    tree = manifests() / "samples" / "gitops"
    plane.kubectl("apply", "--server-side", f"--field-manager={FLUX}", "-k", str(tree / "pools"))
    pool = PoolUnderTest(plane, "rl")
    assert len(pool.wait_ready()) == 12
    pool.delete()  # as a prune does
    pool.wait(lambda: not pool.all_pods(), "the pods to go", 60)


def test_the_example_of_the_operator_is_the_base_with_the_definition_kept_from_pruning(plane):
    def objects(folder):
        found = yaml.safe_load_all(plane.kubectl("kustomize", str(folder)).stdout)
        return {(o["kind"], o["metadata"]["name"]): o for o in found}

    example = objects(manifests() / "samples" / "gitops" / "operator")
    kept = example["CustomResourceDefinition", names.CRD_NAME]["metadata"].pop("annotations")
    assert kept == {
        "argocd.argoproj.io/sync-options": "Prune=false",
        "kustomize.toolkit.fluxcd.io/prune": "disabled",
    }
    assert example == objects(manifests())
