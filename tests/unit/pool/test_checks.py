"""The chain of checks that a spec goes through: all of them, in their order, whatever they find."""

from collections.abc import Iterator
from typing import Any

import pytest

from sglang_operator.api import errors
from sglang_operator.pool import checks
from sglang_operator.pool.draft import Draft
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER, a_pool, guide_spec, refused

WRONG_EVERYWHERE: dict[str, Any] = {
    "num_gpus_per_worker": 5000,
    "device_mapping": "[0,0]",
    "extra_args": ["--tp-size=3"],
    "rollout": {"maxSurge": 5000},
}


def no_odd_ports(draft: Draft) -> Iterator[errors.Problem]:
    if draft.spec.network.port % 2:
        yield errors.FIELD_RANGE(
            "spec.network.port", found=draft.spec.network.port, expected="even", advice="add one"
        )


@pytest.fixture
def with_another_check(monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", (*checks.CHECKS, no_odd_ports))


@pytest.mark.usefixtures("with_another_check")
def test_a_check_that_is_appended_decides_like_the_others():
    assert isinstance(resolve_pool(OWNER, guide_spec(network={"port": 30000})), Pool)
    found = resolve_pool(OWNER, guide_spec(network={"port": 30001}))
    assert isinstance(found, Refused)
    assert [problem.field for problem in found.errors] == ["spec.network.port"]


@pytest.mark.usefixtures("with_another_check")
def test_a_later_check_is_asked_though_an_earlier_one_found_errors():
    found = resolve_pool(OWNER, guide_spec(**WRONG_EVERYWHERE, network={"port": 30001}))
    assert isinstance(found, Refused)
    assert found.errors[-1].field == "spec.network.port"
    assert len(found.errors) > 3


def test_problems_come_in_the_order_of_the_checks():
    fields = [problem.field for problem in refused(**WRONG_EVERYWHERE).errors]
    assert fields.index("spec.num_gpus_per_worker") < fields.index("spec.rollout.maxSurge")
    assert fields.index("spec.rollout.maxSurge") < fields.index("spec.device_mapping")


def test_what_is_odd_without_being_wrong_is_kept_as_a_warning():
    pool = a_pool(guide_spec(image="registry.example/own:latest"))
    assert pool.warnings
    assert not any(map(checks.is_error, pool.warnings))
