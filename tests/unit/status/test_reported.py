"""What engines say they run with, and how long it is known."""

import dataclasses

import pytest

from sglang_operator.observed.model import EngineReport, Resolved
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import reported
from tests.builders import a_pool, all_pods, planned, with_config

RESOLVED = Resolved(version="0.5.7", max_total_tokens=1000)


def up(pool: Pool) -> Plan:
    return planned(pool, all_pods(pool, container_id="containerd://1"))


def said_by(plan: Plan, rank: int, resolved: Resolved = RESOLVED) -> dict[str, EngineReport]:
    instance = plan.engines[rank].instance or ""
    return {instance: EngineReport(instance=instance, resolved=resolved)}


def test_the_first_engine_that_has_told_speaks_for_all():
    pool = a_pool()
    plan = up(pool)
    reports = said_by(plan, 3) | said_by(plan, 1, Resolved(version="0.5.9"))
    assert reported.reported(pool, plan.engines, reports, {}) == {"engineVersion": "0.5.9"}


def test_what_was_told_is_kept_while_the_revision_stays():
    pool = a_pool()
    before = {"revision": pool.revision, "reported": {"engineVersion": "0.5.7"}}
    assert reported.reported(pool, (), {}, before) == {"engineVersion": "0.5.7"}
    assert reported.reported(pool, (), {}, {**before, "revision": "older"}) == {}


def test_an_engine_of_another_version_than_it_was_started_as_is_a_warning():
    pool = a_pool(image="lmsysorg/sglang:v0.5.7")
    assert not list(reported.warnings(pool, {"engineVersion": "0.5.7"}, ()))
    assert not list(reported.warnings(pool, {}, ()))
    (warning,) = reported.warnings(pool, {"engineVersion": "0.5.9"}, ())
    assert warning.reason == "EngineVersionReported"
    assert "SGLang 0.5.9, and were started as 0.5.7" in warning.message
    assert "set engineVersion: 0.5.9" in warning.message
    assert "no trainer may sync" not in warning.message


def test_a_release_is_the_same_whoever_built_it():
    pool = a_pool(image="lmsysorg/sglang:v0.5.7")
    assert not list(reported.warnings(pool, {"engineVersion": "0.5.7+cu129"}, ()))


def test_what_is_no_release_is_not_advised_as_one():
    (warning,) = reported.warnings(a_pool(), {"engineVersion": "0.5.8.dev3+g1a"}, ())
    assert "set engineVersion: " not in warning.message
    assert "set engineVersion to the release" in warning.message


def test_a_version_that_forbids_syncs_is_told_with_the_reason():
    raw = with_config(tokenizer_worker_num=4) | {"image": "registry.example.com/sglang:prod"}
    (warning,) = reported.warnings(a_pool(raw), {"engineVersion": "0.5.10"}, ())
    assert "no trainer may sync them: tokenizer_worker_num is 4" in warning.message


@pytest.mark.parametrize(
    ("host", "address", "told"),
    [
        ("0.0.0.0", "10.0.0.1", []),
        ("::", "fd00::1", []),
        ("0.0.0.0", "fd00::1", ["AddressFamilyMismatch"]),
        ("::", "10.0.0.1", ["AddressFamilyMismatch"]),
        ("0.0.0.0", None, []),
    ],
)
def test_engines_that_do_not_listen_where_their_pods_are_reached_are_a_warning(host, address, told):
    pool = dataclasses.replace(a_pool(), host=host)
    plan = planned(pool, all_pods(pool, ip=address, containers_ready=False))
    found = list(reported.warnings(pool, {}, plan.engines))
    assert [warning.reason for warning in found] == told
    assert all(f"--pod-address={address}" in warning.message for warning in found)
