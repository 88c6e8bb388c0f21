"""SGLang's own parser reads back what was meant: a part of ``python -m tests.proof``."""

import itertools

import pytest

from sglang_operator.engine.combination_rules import RULES, terms
from sglang_operator.engine.schemas import index
from tests.proof import cases, judge, oracle, together
from tests.unit.engine.wheels import sglang_or_skip

RANDOM_CONFIGURATIONS = 40
COMMAND_LINES = 60  # of arguments together
FORMS_STRIDE = 60  # of the values of every form each 60th case


@pytest.fixture(params=index.VERSIONS)
def sglang(request):
    return sglang_or_skip(request.param)


def test_each_argument_is_read_back_as_it_was_meant(sglang):
    verdicts = [judge.judge(sglang, case) for case in cases.singles(sglang, most=1)]
    assert verdicts.count(judge.ACCEPTED) > 0.85 * len(sglang.names)


def test_a_value_of_any_form_is_read_back_or_refused_by_whom_the_row_says(sglang):
    for case in itertools.islice(cases.anything(sglang), 0, None, FORMS_STRIDE):
        judge.judge(sglang, case)


def test_names_of_other_versions_are_refused_or_stand_for_what_has_replaced_them(sglang):
    others = [sglang_or_skip(version) for version in (index.VERSIONS[0], index.VERSIONS[-1])]
    for case in cases.foreign(sglang, others):
        judge.judge(sglang, case)


def test_rolls_own_examples_are_read_back(sglang):
    found = list(cases.examples(sglang))
    assert len(found) == 3
    assert all(judge.judge(sglang, case) == judge.ACCEPTED for case in found)


def test_random_configurations_are_read_back(sglang):
    for case in itertools.islice(cases.chance(sglang, seed=1), RANDOM_CONFIGURATIONS):
        judge.judge(sglang, case)


def test_of_arguments_together_nothing_is_refused_that_sglang_takes(sglang):
    found = itertools.islice(together.chance(sglang, seed=1), COMMAND_LINES)
    assert together.ACCEPTED in {together.judge(sglang, case) for case in found}


def test_a_rule_that_sglang_does_not_have_is_disproved(monkeypatch):
    sglang = sglang_or_skip("0.5.7")
    monkeypatch.setitem(RULES, "swa-ratio", terms.rule("page_size>1", "1", "lower it"))
    with pytest.raises(judge.Disproved, match="SGLang takes it"):
        together.judge(sglang, cases.case(sglang, {**cases.BASE, "page_size": 2}))


def test_the_proof_can_fail(monkeypatch):
    """An oracle that means something else is contradicted."""
    sglang = sglang_or_skip("0.5.7")
    monkeypatch.setitem(oracle.DTYPES, "bf16", "float16")
    with pytest.raises(judge.Disproved, match="dtype is 'bfloat16', not 'float16'"):
        judge.judge(sglang, cases.case(sglang, cases.BASE))


def test_a_default_that_is_not_sglangs_would_be_noticed(monkeypatch):
    sglang = sglang_or_skip("0.5.7")
    monkeypatch.setitem(sglang.defaults, "page_size", 64)
    with pytest.raises(judge.Disproved, match="page_size is None, not the default 64"):
        judge.judge(sglang, cases.case(sglang, cases.BASE))


def test_what_the_kubelet_would_expand_would_be_noticed():
    with pytest.raises(judge.Disproved):
        judge.kubelet("--a=$(HOME)")
    assert judge.kubelet("--a=$$(HOME)") == "--a=$(HOME)"
