"""What keeps revisions from being stored: told as a warning, tried ever later."""

import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.cluster.outcome import Outcome
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import history
from sglang_operator.controller.memory import Memory
from sglang_operator.controller.rewrites import Rewrites
from sglang_operator.kube.errors import ApiError, ApiUnreachableError
from sglang_operator.status import history as told
from sglang_operator.status.history import Hindrance
from tests.builders import a_pool

KEY = PoolKey("rl", "pool")
REVISION = ("ControllerRevision", "pool-0123456789")
FORBIDDEN = ApiError(403, "Forbidden", "no", None)


def test_one_that_others_have_is_no_trouble_but_a_word():
    memory = Memory(uid=names.Uid("u"))
    assert not memory.troubles([REVISION], KEY)
    hindrance = memory.unstored([REVISION], {REVISION}, KEY)
    assert hindrance is not None
    assert (
        hindrance.advice == "delete that (kubectl delete -n rl controllerrevision/pool-0123456789)"
    )
    assert memory.unstored([REVISION], set(), KEY) is None, "it is not wanted any more"


def test_where_other_names_are_taken_too_one_command_clears_all():
    (trouble,) = Memory(uid=names.Uid("u")).troubles([REVISION, ("Service", "pool")], KEY)
    assert "controllerrevision/pool-0123456789 service/pool" in trouble.message


def test_a_refusal_is_tried_again_ever_later_and_forgotten_once_it_is_over():
    writing = history.Writing()
    waits = []
    for now in (0.0, 100.0, 200.0):
        writing.learn(Outcome(failed=FORBIDDEN), now)
        waits.append(writing.until - now)
    assert waits == [1.0, 2.0, 4.0]
    hindrance = writing.hindrance([], Rewrites(), "rl", "pool")
    assert hindrance is not None
    assert "controllerrevisions of this pool could not be written (" in hindrance.why
    writing.learn(Outcome(), 300.0)
    assert writing.hindrance([], Rewrites(), "rl", "pool") is None


@pytest.mark.parametrize(
    "error", [ApiError(409, "Conflict", "", None), ApiUnreachableError("away")]
)
def test_what_passes_is_told_only_if_it_stays(error):
    writing = history.Writing()
    said = []
    for now in range(3):
        writing.learn(Outcome(failed=error), float(now))
        said.append(bool(writing.refused))
    assert said == [False, False, True]


def test_who_changes_them_back_is_told_and_is_no_trouble():
    memory = Memory(uid=names.Uid("u"))
    kind, name = REVISION
    update = actions.UpdateChild(kind=kind, name=name, uid=names.Uid("x"), body={}, reason="")
    for _ in range(8):
        memory.rewrites.wrote([update])
    assert not memory.troubles((), KEY)
    hindrance = memory.unstored((), (), KEY)
    assert hindrance is not None
    assert "somebody changes controllerrevision pool-0123456789 back" in hindrance.why


def test_the_warning_says_why_and_what_to_do():
    (warning,) = told.warnings(a_pool(), (), Hindrance(why="W", advice="A"))
    assert warning.message.startswith("W, so revisions are not stored")
    assert "; A, or set rollout.revisionHistoryLimit: 0" in warning.message
    assert not [*told.warnings(a_pool(), (), None)]


def test_what_pools_do_without_is_stored_revisions_alone():
    assert [kind.kind for kind in kinds.CHILDREN if kinds.is_spare(kind.kind)] == [REVISION[0]]
    assert not kinds.is_spare("Pod")
