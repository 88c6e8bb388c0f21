"""The rules of SGLang over arguments together, one row each, by subject."""

from collections.abc import Mapping

from sglang_operator.engine.combination_rules import (
    kernels,
    parallel,
    plain,
    serving,
    speculative,
)
from sglang_operator.engine.combination_rules.base import Rule, Settings

__all__ = ("RULES", "Rule", "Settings")

RULES: Mapping[str, Rule] = {
    **parallel.RULES,
    **serving.RULES,
    **speculative.RULES,
    **kernels.RULES,
    **plain.RULES,
}
