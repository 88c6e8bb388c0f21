"""``rollout undo``, over a cluster of the test's own."""

import json
from typing import Any

import pytest

from sglang_operator.cli import options as cli_options
from sglang_operator.cli import rollout_history, rollout_undo
from sglang_operator.cli.cluster.kubectl import ClusterError
from tests.builders import a_pool, guide_spec
from tests.unit.cli.fake_kubectl import FakeCluster
from tests.unit.cli.runner import run
from tests.unit.cli.test_rollout_history import OLD, a_cluster, seen, stored


def undone(fake: FakeCluster, number: int | None = None, **how: Any) -> tuple[str, list[Any]]:
    """What is said, and the patch that was written."""
    pool = seen(fake)
    known = rollout_history.stored(fake, pool)
    how.setdefault("confirmed", lambda: True)
    said = "\n".join(rollout_undo.undo(fake, pool, known, number, **how))
    patches = [json.loads(ran[-1]) for ran in fake.ran if ran[0] == "patch"]
    return said, patches[-1] if patches else []


def test_undo_writes_the_revision_before_back_and_only_over_what_was_read():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()), replicas=3)
    said, (test, replace) = undone(fake)
    assert test == {"op": "test", "path": "/metadata/resourceVersion", "value": "77"}
    assert (replace["op"], replace["path"]) == ("replace", "/spec")
    assert replace["value"] == {**OLD, "replicas": 3}
    back = a_pool(replace["value"])
    assert back.revision == a_pool(OLD).revision
    assert f"revision 1 ({back.revision})" in said
    assert "paused" not in said


def test_undo_takes_away_what_the_revision_did_not_have():
    fake = a_cluster(
        stored(1, guide_spec()),
        stored(2, OLD),
        seed=7,
        image="lmsysorg/sglang:v0.5.6.post2",
        podTemplate={"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}},
    )
    _, (_, replace) = undone(fake, 1)
    assert replace["value"] == guide_spec()


def test_undo_goes_to_the_revision_that_is_named():
    third = guide_spec(seed=9)
    fake = a_cluster(stored(1, OLD), stored(2, third), stored(3, guide_spec()))
    assert undone(fake)[1][1]["value"]["seed"] == 9
    assert undone(fake, 1)[1][1]["value"]["seed"] == 7


def test_undo_of_what_the_spec_is_already_writes_nothing():
    said, patches = undone(a_cluster(stored(1, OLD), stored(2, guide_spec())), 2)
    assert "already" in said
    assert not patches


@pytest.mark.parametrize(
    ("revisions", "number", "words"),
    [
        ([], None, "nothing to go back to"),
        ([stored(2, guide_spec())], None, "nothing to go back to"),
        ([stored(1, OLD), stored(2, guide_spec())], 7, "no revision 7 is stored; there are 2, 1"),
    ],
)
def test_undo_says_what_there_is(revisions, number, words):
    with pytest.raises(ClusterError, match=words):
        undone(a_cluster(*revisions), number)


def test_undo_writes_nothing_that_would_be_refused():
    """GPUs of an engine and its mapping were changed together; only one of them reaches pods."""
    old = guide_spec(num_gpus_per_worker=5, device_mapping="list(range(0,5))")
    fake = a_cluster(stored(1, old), stored(2, guide_spec()))
    with pytest.raises(ClusterError, match=r"would be refused: .*device_mapping"):
        undone(fake)
    assert not [ran for ran in fake.ran if ran[0] == "patch"]


def test_undo_of_a_paused_pool_says_that_it_waits():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()), rollout={"paused": True})
    assert "rollout.paused keeps the engines" in undone(fake)[0]


def test_of_a_pool_that_is_refused_the_last_good_revision_comes_back():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()), seed=-1)
    assert "seed" not in undone(fake)[1][1]["value"]


def forged() -> dict[str, Any]:
    """What somebody wrote who may write ControllerRevisions, and nothing else."""
    secret = {"prefix": "STOLEN_", "secretRef": {"name": "db-password"}}
    container = {"name": "engine", "envFrom": [secret]}
    entry = stored(
        7,
        guide_spec(
            image="e.example/sglang:v0.5.9", podTemplate={"spec": {"containers": [container]}}
        ),
    )
    entry["metadata"]["name"] = "actor-infer-0123456789"
    return entry


def test_what_does_not_hash_to_its_name_is_refused_in_words():
    fake = a_cluster(stored(1, OLD), stored(8, guide_spec()), forged())
    for number in (None, 7):
        with pytest.raises(ClusterError, match=r"what is stored makes .*--to-revision 7 --force"):
            undone(fake, number)
    assert not [ran for ran in fake.ran if ran[0] == "patch"]


def test_it_can_be_written_all_the_same_and_is_shown_before():
    fake = a_cluster(stored(1, OLD), stored(8, guide_spec()), forged())
    said, (_, replace) = undone(fake, 7, force=True)
    assert "  image: (not set) -> e.example/sglang:v0.5.9" in said
    assert "envFrom[0].secretRef.name: (not set) -> db-password" in said
    assert "by this version's rules" in said
    assert replace["value"]["image"] == "e.example/sglang:v0.5.9"


def test_what_changes_is_told_before_it_is_written():
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()))
    pool = seen(fake)
    known = rollout_history.stored(fake, pool)
    lines = rollout_undo.undo(fake, pool, known, None, confirmed=lambda: True)
    told = [next(lines) for _ in range(3)]
    assert {line.strip() for line in told[1:]} == {
        "image: (not set) -> lmsysorg/sglang:v0.5.6.post2",
        "seed: (not set) -> 7",
    }
    assert not [ran for ran in fake.ran if ran[0] == "patch"]
    assert "goes back to revision 1" in "".join(lines)
    assert [ran for ran in fake.ran if ran[0] == "patch"]


def written_by_another() -> dict[str, Any]:
    """What somebody wrote who may write ControllerRevisions, and can compute a hash."""
    return stored(50, guide_spec(image="evil.example/sglang:v0.5.6.post2"))


@pytest.mark.parametrize("number", [None, 50])
def test_what_another_wrote_under_its_own_hash_is_shown_and_asked_for(number):
    fake = a_cluster(stored(1, OLD), stored(51, guide_spec()), written_by_another())
    pool = seen(fake)
    known = rollout_history.stored(fake, pool)
    lines = rollout_undo.undo(fake, pool, known, number, confirmed=lambda: False)
    told = [next(lines), next(lines)]
    assert "  image: (not set) -> evil.example/sglang:v0.5.6.post2" in told
    with pytest.raises(ClusterError, match="nobody confirmed the changes"):
        next(lines)
    assert not [ran for ran in fake.ran if ran[0] == "patch"]


@pytest.mark.parametrize(
    ("options", "answer", "writes"),
    [
        ([], "y\n", True),
        ([], "n\n", False),
        ([], "\n", False),
        ([], "", False),  # of a script, which nobody can answer for
        (["--yes"], "", True),
        (["--to-revision", "1"], "", False),
        (["--to-revision", "1", "--yes"], "", True),
        (["--to-revision", "1", "--force"], "", False),
        (["--yes", "--dry-run"], "", False),
    ],
)
def test_only_a_yes_writes(options, answer, writes, monkeypatch):
    fake = a_cluster(stored(1, OLD), stored(2, guide_spec()))
    monkeypatch.setattr(cli_options, "cluster", lambda _: fake)
    told = run("rollout", "undo", "actor-infer", *options, stdin=answer)
    assert "  seed: (not set) -> 7" in told.stdout
    assert bool([ran for ran in fake.ran if ran[0] == "patch"]) is writes
    if "--dry-run" not in options:
        assert told.exit_code == (0 if writes else 2)
        assert ("--yes writes them without asking" in told.stderr) is not writes


def test_a_dry_run_asks_nobody_and_writes_nothing():
    def asked() -> bool:
        raise AssertionError

    said, patch = undone(
        a_cluster(stored(1, OLD), stored(2, guide_spec())), dry_run=True, confirmed=asked
    )
    assert "  seed: (not set) -> 7" in said
    assert "nothing was written" in said
    assert not patch


def test_no_secret_is_told():
    old = guide_spec(seed=7, system_envs={"HF_TOKEN": "hf_abcdefghijklmnop"})
    said, patch = undone(a_cluster(stored(1, old), stored(2, guide_spec())))
    assert "system_envs.HF_TOKEN: (not set) -> " in said
    assert "hf_abc" not in said
    assert patch[1]["value"]["system_envs"]["HF_TOKEN"] == "hf_abcdefghijklmnop"


SECRET = "kept-by-nobody-41"
TOKEN, LOG = {"name": "WANDB_API_KEY", "value": SECRET}, {"name": "LOG", "value": "1"}


def with_env(*variables: dict[str, Any]) -> dict[str, Any]:
    return guide_spec(
        podTemplate={"spec": {"containers": [{"name": "engine", "env": list(variables)}]}}
    )


def told_of(present: dict[str, Any], before: dict[str, Any]) -> str:
    """What an undo says that goes from the one to the other."""
    fake = a_cluster(
        stored(1, before), stored(2, present), podTemplate=present.get("podTemplate", {})
    )
    return undone(fake, 1, dry_run=True)[0]


@pytest.mark.parametrize(
    ("present", "before"),
    [
        ([TOKEN], [LOG, TOKEN]),
        ([LOG, TOKEN], [TOKEN]),
        ([TOKEN], [LOG]),
        ([LOG], [TOKEN]),
        ([TOKEN, LOG], [LOG, TOKEN]),
        ([TOKEN, LOG, LOG], [LOG, TOKEN, LOG]),  # by their places: names come twice
        ([LOG, TOKEN, LOG], [TOKEN, LOG, LOG]),
    ],
)
def test_a_secret_stays_one_when_a_list_shifts_by_one(present, before):
    said = told_of(with_env(*present), with_env(*before))
    assert "podTemplate.spec.containers" in said
    assert SECRET not in said


def test_variables_are_held_against_those_of_their_name():
    other = {"name": "LOG", "value": "2"}
    said = told_of(with_env(LOG), with_env({"name": "A", "value": "x"}, other))
    where = "podTemplate.spec.containers[engine].env"
    assert [line.strip() for line in said.splitlines() if where in line] == [
        f"{where}[LOG].value: 1 -> 2",
        f"{where}[A].name: (not set) -> A",
        f"{where}[A].value: (not set) -> x",
    ]


def test_another_order_of_variables_is_a_change_that_is_told_and_written():
    other = {"name": "A", "value": "x"}
    fake = a_cluster(
        stored(1, with_env(other, LOG)), stored(2, with_env(LOG, other)), **with_env(LOG, other)
    )
    said, (_, replace) = undone(fake, 1)
    assert 'containers[engine].env (order): ["LOG", "A"] -> ["A", "LOG"]' in said
    assert replace["value"] == with_env(other, LOG)


def test_an_annotation_of_a_secret_is_one_behind_its_domain():
    annotations = {"example.com/token": SECRET}
    said = told_of(guide_spec(podTemplate={"metadata": {"annotations": annotations}}), guide_spec())
    assert "annotations.example.com/token: *** -> (not set)" in said


def test_a_weights_gate_of_before_does_not_come_back_with_an_undo():
    """It was stored with the revision, and edited since: that restarts nothing."""
    old = stored(1, guide_spec(seed=7, weights={"gate": "Versioned"}))
    fake = a_cluster(old, stored(2, guide_spec()), weights={"gate": "Committed"})
    said, (_, replace) = undone(fake)
    assert replace["value"]["weights"] == {"gate": "Committed"}
    assert "gate" not in said


def test_a_weights_gate_that_belongs_to_the_revision_comes_back_with_a_word():
    old = stored(1, guide_spec(weights={"gate": "Off"}))
    fake = a_cluster(old, stored(2, guide_spec()), weights={"gate": "Committed"})
    said, (_, replace) = undone(fake)
    assert replace["value"]["weights"] == {"gate": "Off"}
    assert "  weights.gate: Committed -> Off" in said
    assert "the weights gate is Committed now, and would be Off" in said


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["history", "actor-infer", "--dry-run"], "belong to undo"),
        (["status", "actor-infer", "--force"], "belong to undo"),
        (["restart", "actor-infer", "--yes"], "belong to undo"),
        (["status", "actor-infer", "--to-revision", "2"], "belong to undo"),
        (["undo", "actor-infer", "--force"], "--force needs --to-revision"),
    ],
)
def test_options_of_undo_are_refused_elsewhere(asked, words):
    told = run("rollout", *asked)
    assert told.exit_code == 2
    assert words in told.output
