"""ControllerRevisions: one for each revision, numbered, and no more than the spec says."""

import json
from dataclasses import replace

import pytest

from sglang_operator import actions
from sglang_operator.api import errors, names
from sglang_operator.children import kinds, stored_revisions
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.pool import revision, tuning
from sglang_operator.pool.resolve import Pool, resolve_pool
from sglang_operator.status import compute
from tests.builders import (
    NOW,
    OWNER,
    a_pod,
    a_pool,
    all_pods,
    guide_spec,
    planned,
    refused,
    weighed,
)

OLDER = [f"{number:010x}" for number in range(20)]


def seen(numbers, owner=OWNER.uid):
    """ControllerRevisions with these numbers, by revision."""
    found = {}
    for digest, number in numbers.items():
        name = names.revision_name(OWNER.name, digest)
        labels = {
            "app.kubernetes.io/name": "sglang",
            "app.kubernetes.io/instance": OWNER.name,
            "app.kubernetes.io/component": "revision",
            "app.kubernetes.io/managed-by": "sglang-operator",
            "sglang-operator.dev/pool": OWNER.name,
            "sglang-operator.dev/revision": digest,
        }
        body = {"metadata": {"name": name, "labels": labels}, "revision": number}
        child = ObservedChild(uid=names.Uid(f"uid-{name}"), owner=owner, body=body)
        found["ControllerRevision", name] = child
    return found


def asked(pool, numbers=None, pods=(), **observed):
    """What is asked of the API server for them: the action, the revision, and its number."""
    seen_now = Observed(children=seen(numbers or {}), pods=tuple(pods), **observed)
    bodies = kinds.children(pool, weighed(pool, list(pods)), seen_now)
    batch = actions.child_actions(pool, bodies, seen_now)
    return sorted(
        (
            type(action).__name__.removesuffix("Child"),
            names.revision_of(action.name, OWNER.name),
            0 if isinstance(action, actions.DeleteChild) else action.body["revision"],
        )
        for action in batch
        if action.kind == "ControllerRevision"
    )


def test_a_new_pool_stores_its_first_revision():
    pool = a_pool()
    assert asked(pool) == [("Create", pool.revision, 1)]


def test_a_changed_pool_stores_the_next():
    pool = a_pool(seed=7)
    assert asked(pool, {OLDER[0]: 4}) == [("Create", pool.revision, 5)]


def test_at_rest_nothing_is_asked_for():
    pool = a_pool()
    assert asked(pool, {OLDER[0]: 1, pool.revision: 2}) == []


def test_a_revision_that_comes_back_takes_the_next_number():
    """As a StatefulSet's does: the one before it is the one to undo to."""
    pool = a_pool()
    assert asked(pool, {pool.revision: 1, OLDER[0]: 2}) == [("Update", pool.revision, 3)]


def test_the_oldest_go_beyond_the_limit():
    pool = a_pool(rollout={"revisionHistoryLimit": 2})
    numbers = {**{OLDER[n]: n + 1 for n in range(4)}, pool.revision: 5}
    assert asked(pool, numbers) == [("Delete", OLDER[0], 0), ("Delete", OLDER[1], 0)]


def test_ten_are_kept_where_nothing_is_said():
    pool = a_pool()
    numbers = {**{OLDER[n]: n + 1 for n in range(12)}, pool.revision: 13}
    assert asked(pool, numbers) == [("Delete", OLDER[0], 0), ("Delete", OLDER[1], 0)]


def test_what_engines_still_run_is_kept_beside_the_limit():
    pool = a_pool(rollout={"revisionHistoryLimit": 1})
    pods = [a_pod(pool, pool.engines[0], revision=OLDER[0])]
    numbers = {OLDER[0]: 1, OLDER[1]: 2, OLDER[2]: 3, pool.revision: 4}
    assert asked(pool, numbers, pods) == [("Delete", OLDER[1], 0)]


def test_a_limit_of_none_stores_none():
    pool = a_pool(rollout={"revisionHistoryLimit": 0})
    assert asked(pool) == []
    assert asked(pool, {pool.revision: 1}) == [("Delete", pool.revision, 0)]


@pytest.mark.parametrize("odd", [2**63 - 1, stored_revisions.MOST + 1, 0, -1])
def test_a_number_that_is_none_of_ours_does_not_count(odd):
    """Else who may write ControllerRevisions has the operator write what is refused."""
    pool = a_pool()
    assert asked(pool, {OLDER[0]: 4, OLDER[1]: odd}) == [
        ("Create", pool.revision, 5),
        ("Delete", OLDER[1], 0),
    ]
    assert asked(pool, {OLDER[0]: 4, pool.revision: odd}) == [("Update", pool.revision, 5)]


def test_what_engines_run_is_kept_whatever_its_number():
    pool = a_pool()
    pods = [a_pod(pool, pool.engines[0], revision=OLDER[0])]
    assert asked(pool, {OLDER[0]: 2**63 - 1, pool.revision: 5}, pods) == [("Update", OLDER[0], 1)]


def test_after_the_last_number_all_are_numbered_anew():
    pool = a_pool()
    last = stored_revisions.MOST
    found = asked(pool, {OLDER[0]: last - 1, OLDER[1]: last})
    assert found == sorted(
        [("Create", pool.revision, 3), ("Update", OLDER[0], 1), ("Update", OLDER[1], 2)]
    )
    assert asked(pool, {OLDER[0]: 1, OLDER[1]: 2, pool.revision: 3}) == []


def test_what_is_known_by_name_alone_is_neither_written_nor_deleted():
    """A namespace holds more of them than there is room for."""
    pool = a_pool(rollout={"revisionHistoryLimit": 1})
    found = seen({OLDER[0]: 1, OLDER[1]: 2, pool.revision: 3})
    for key, child in found.items():
        body = {"metadata": {**child.body["metadata"], "labels": {}}}
        found[key] = replace(child, body=body, whole=False)
    observed = Observed(children=found)
    bodies = kinds.children(pool, weighed(pool, []), observed)
    batch = actions.child_actions(pool, bodies, observed)
    assert not [action for action in batch if action.kind == "ControllerRevision"]


def test_what_engines_run_tuned_is_kept_by_the_label_that_says_so():
    auto = {"autoTune": {"mem_fraction_static": {"min": 0.5, "max": 0.8}}}
    plain = a_pool(restart=auto)
    change = tuning.Tuning(
        base=plain.base_revision,
        start=0.7,
        value=0.68,
        changes=1,
        reason="CUDAOutOfMemory",
        engine=plain.engines[0].name,
    )
    tuned = resolve_pool(OWNER, guide_spec(restart=auto), tuned=change)
    assert isinstance(tuned, Pool)
    (body,) = stored_revisions.revisions(tuned, Observed())
    label = names.LABEL_TUNED + tuned.revision
    assert tuned.revision != tuned.base_revision
    assert body["metadata"]["labels"][label] == ""

    pods = [a_pod(tuned, each, revision=tuned.revision) for each in tuned.engines]
    limits = {"revisionHistoryLimit": 1, "paused": True}
    later = a_pool(restart=auto, seed=7, rollout=limits)
    found = seen({tuned.base_revision: 1, OLDER[0]: 2, later.revision: 3})
    name = names.revision_name(OWNER.name, tuned.base_revision)
    found["ControllerRevision", name].body["metadata"]["labels"][label] = ""
    observed = Observed(children=found, pods=tuple(pods))
    bodies = kinds.children(later, weighed(later, pods), observed)
    batch = actions.child_actions(later, bodies, observed)
    assert not [action for action in batch if action.kind == "ControllerRevision"]


@pytest.mark.parametrize("value", [-1, 101])
def test_a_limit_has_bounds(value):
    (problem,) = refused(rollout={"revisionHistoryLimit": value}).errors
    assert problem.field == "spec.rollout.revisionHistoryLimit"


def test_those_of_somebody_else_do_not_count():
    pool = a_pool()
    others = seen({OLDER[0]: 9}, owner=names.Uid("another"))
    bodies = kinds.children(pool, weighed(pool, []), Observed(children=others))
    assert [body["revision"] for body in bodies if body["kind"] == "ControllerRevision"] == [1]


def test_what_is_stored_is_what_reaches_pods():
    pool = a_pool(seed=7, replicas=3, rollout={"maxUnavailable": 2})
    (body,) = stored_revisions.revisions(pool, Observed())
    part = stored_revisions.part(body["data"])
    assert part is not None
    assert part["seed"] == 7
    assert part["num_gpus_per_worker"] == 2
    assert not {"replicas", "rollout", "device_mapping", "image"} & part.keys()


@pytest.mark.parametrize(
    "data",
    [{}, {"spec": "x"}, {"spec": "[]"}, {"spec": None}, {"spec": 7}, {"spec": "[" * 100_000}],
)
def test_data_of_anybody_else_is_none(data):
    assert stored_revisions.part(data) is None


def test_engines_run_on_whatever_is_stored():
    """The hash is of what pods are made of, and of nothing that is written for people."""
    assert a_pool(rollout={"revisionHistoryLimit": 3}).revision == a_pool().revision
    assert json.loads(json.dumps(revision.reaching_pods(a_pool().spec, spans=False)))


# --- an operator that may not

WITHOUT = frozenset({"ControllerRevision"})


def told(pool, without):
    return compute.compute(
        pool,
        planned(pool, all_pods(pool)),
        weighed(pool, all_pods(pool)),
        ignored=(),
        troubles=(),
        previous={},
        now=NOW,
        without=without,
    )


def test_an_operator_without_the_right_to_read_them_goes_on_and_says_so():
    pool = a_pool()
    assert asked(pool, absent_kinds=WITHOUT) == []
    status = told(pool, WITHOUT)
    (warning,) = [w for w in status["warnings"] if w["reason"] == errors.HISTORY_NOT_KEPT.reason]
    assert "may not read controllerrevisions" in warning["message"]
    assert not told(pool, ()).get("warnings")


def test_who_wants_none_is_not_told():
    pool = a_pool(rollout={"revisionHistoryLimit": 0})
    assert not told(pool, WITHOUT).get("warnings")
