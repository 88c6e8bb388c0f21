"""What SGLang refuses of arguments together, where nothing but the arguments is needed for it.

A rule holds for the versions whose schema names its place: ``make schema`` has run the version's
own check on arguments that break the rule, and on others that just hold.  What depends on the
machine, the model or the environment is no rule here: nothing is refused that SGLang takes.
"""

from collections.abc import Iterator, Sequence

from sglang_operator.api import errors
from sglang_operator.engine import aliases
from sglang_operator.engine.combination_rules import RULES, Rule, Settings
from sglang_operator.engine.schema import Schema

_NO_MODEL = ("none", "dummy")  # for these SGLang checks nothing
# A flag that sets another field before SGLang checks anything, unless that has one of these values
# (arg_groups/overrides.py of 0.5.20 and 0.5.23): the flag, the field, what it becomes, the values.
_SETS = (("enable_waterfill", "moe_a2a_backend", "deepep", ("deepep", "megamoe")),)


def check(
    given: aliases.Given, schema: Schema, exact: bool, extra: Sequence[str]
) -> Iterator[errors.Problem]:
    """Every rule of the version that the arguments break; of a version not known, nothing."""
    if not exact or str(given.values.get("model_path", "")).lower() in _NO_MODEL:
        return
    settings, names = _Settings(given, schema), _begun(extra)
    for name, place in schema.rules.items():
        rule = RULES[name]
        if not _is_open(rule, names) and rule.broken(settings):
            yield _problem(given, schema, rule, settings, place)


def _problem(
    given: aliases.Given, schema: Schema, rule: Rule, settings: Settings, place: str
) -> errors.Problem:
    written = [field for field in rule.reads if field in given.spelled]
    found = [
        f"{given.spelling(field)} is {errors.typed(settings[field])}"
        for field in written or rule.reads[:1]
    ]
    return errors.ARGUMENT_COMBINATION(
        given.path(written[0] if written else rule.reads[0]),
        found=" and ".join(found),
        expected=rule.expected,
        advice=rule.advice,
        version=schema.version,
        place=place,
    )


def _begun(extra: Sequence[str]) -> frozenset[str]:
    """The flags of ``extraArgs``, as fields or as beginnings of their names."""
    flags = (item[2:].partition("=")[0] for item in extra if item[:2] == "--")
    return frozenset(flag.replace("-", "_") for flag in flags)


def _is_open(rule: Rule, names: frozenset[str]) -> bool:
    """Whether ``extraArgs`` may say otherwise: argparse takes unique beginnings of flags too.

    However many there are, only a field's own beginnings are looked up.
    """
    setters = (flag for flag, field, _, _ in _SETS if field in rule.reads)
    return bool(names) and any(
        field[:length] in names
        for field in (*rule.reads, *setters)
        for length in range(len(field) + 1)
    )


class _Settings(dict[str, object]):
    """The fields of ServerArgs as they will be; one that nobody sets is the version's default."""

    def __init__(self, given: aliases.Given, schema: Schema) -> None:
        super().__init__(schema.defaults)
        for key, value in given.values.items():
            argument = schema.argument(key)
            if argument is None or argument.const is not None or value is None:
                continue
            self[argument.field] = value
        for flag, field, value, kept in _SETS:
            if self[flag] is True and self[field] not in kept:
                self[field] = value

    def __missing__(self, key: str) -> object:
        return None
