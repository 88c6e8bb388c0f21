"""What SGLang refuses of arguments together, against the versions' own checks in their wheels."""

import random

import pytest

from generators.schema import checks, examples, rules
from sglang_operator.api import errors
from sglang_operator.engine import schema
from sglang_operator.engine.combination_rules import RULES
from tests.unit.engine.requests import only_problem, problems
from tests.unit.engine.wheels import sglang_or_skip

PROVED = [str(known) for known in schema.KNOWN if schema.load(str(known)).rules]
MARK = "does not start"
SEED = 14
CASES = 80  # random configurations of each version


def broken(config, version, **changes):
    found = problems({**rules.BASE, **config}, version=version, **changes)
    return [p.message for p in found if MARK in p.message]


def test_each_rule_has_its_examples():
    assert set(examples.EXAMPLES) <= set(RULES)


@pytest.mark.parametrize("version", PROVED)
def test_each_rule_refuses_what_breaks_it_and_takes_what_just_holds(version):
    sglang = sglang_or_skip(version)
    for name in schema.load(version).rules:
        breaks, holds = examples.of(sglang, name)
        expected = RULES[name].expected
        assert any(expected in message for message in broken(breaks, version)), name
        assert not any(expected in message for message in broken(holds, version)), name


@pytest.mark.parametrize("version", ["0.5.20", "0.5.23"])
def test_what_a_flag_sets_by_itself_counts_as_set(version):
    """SGLang makes moe_a2a_backend deepep where enable_waterfill is on; found by make proof."""
    overlap = {"enable_two_batch_overlap": True}
    assert broken(overlap, version)
    assert not broken({**overlap, "enable_waterfill": True}, version)
    assert not broken(overlap, version, extra_args=("--enable-waterfill",))
    for ground in checks.GROUNDS:
        config = {**overlap, "enable_waterfill": True}
        assert not rules.verdict(sglang_or_skip(version), config, ground).place


@pytest.mark.parametrize("version", PROVED)
def test_the_places_are_those_of_the_wheel(version):
    assert rules.places(sglang_or_skip(version)) == schema.load(version).rules


@pytest.mark.parametrize(
    "version", ["0.5.2", "0.5.4.post2", "0.5.7", "0.5.9", "0.5.14", "0.5.20", "0.5.23"]
)
def test_nothing_is_refused_that_sglang_takes(version):
    """Any mixture of the examples: what a rule refuses, the version's own check refuses too."""
    sglang, rng, refused = sglang_or_skip(version), random.Random(SEED), 0
    configs = [config for pair in examples.EXAMPLES.values() for config in pair]
    fields = [item for config in configs for item in config.items() if item[0] in sglang.names]
    for _ in range(CASES):
        config = dict(rng.sample(fields, rng.randrange(1, 6)))
        if broken(config, version):
            refused += 1
            for ground in checks.GROUNDS:
                said = rules.verdict(sglang, config, ground)
                assert said.place, (config, broken(config, version))
    assert refused > CASES // 50


def test_what_is_broken_is_told_with_what_was_found_and_where():
    problem = only_problem({"enable_hierarchical_cache": True, "disable_radix_cache": True})
    assert problem.reason == "ArgumentConflict"
    assert problem.severity is errors.Severity.ERROR
    assert problem.message == (
        "disable_radix_cache is true and enable_hierarchical_cache is true, with which SGLang "
        "0.5.7 does not start (server_args:2272); expected one of the two: the hierarchical cache "
        "is the radix cache with more room; remove disable_radix_cache, or "
        "enable_hierarchical_cache"
    )


def test_extra_arguments_may_say_otherwise():
    config = {"enable_prefix_mm_cache": True}
    assert broken(config, "0.5.7")
    assert not broken(config, "0.5.7", extra_args=("--encoder-only",))
    assert not broken(config, "0.5.7", extra_args=("--encoder",))


def test_of_a_version_that_is_only_assumed_nothing_is_said():
    assert not broken({"max_loras_per_batch": 0}, "0.5.7", version_known=False)
    assert not broken({"max_loras_per_batch": 0}, "0.5.8")


def test_for_a_model_that_sglang_checks_nothing_of_nothing_is_refused():
    assert not broken({"max_loras_per_batch": 0}, "0.5.7", model="dummy")
