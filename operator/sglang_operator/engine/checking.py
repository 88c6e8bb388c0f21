"""What a version's schema says about the arguments that a user gives (explanation/roll.md, rule 6).

Only arguments that a user wrote are judged, and only those that no rule of ours decides.  Where
the version is exactly known, a finding is an error and the argument is taken out; where another
version's schema stands in, it is a warning, and the argument is passed on as it is.  A name that is
the beginning of another's is an error under every version: SGLang's parser takes ``--api-ke`` for
``--api-key``, and the rules of the operator, which go by whole names, would not see it.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence

from sglang_operator.api import errors
from sglang_operator.engine import aliases, extra_arguments, habits, typos, value_checks
from sglang_operator.engine.schema import Argument, Schema, replacement, versions_with


def check(
    given: aliases.Given, schema: Schema, exact: bool, decided: Collection[str]
) -> Iterator[errors.Problem]:
    """Judge what the user wrote, except ``decided`` keys, which have rules of their own."""
    suggestions = typos.MOST_SUGGESTED
    for key in [key for key in given.spelled if key in given.values and key not in decided]:
        argument = schema.argument(key)
        problem = None
        if argument is None:
            problem = _unknown(given, key, schema, look=suggestions > 0)
            suggestions -= 1
        if argument is not None:
            problem = _wrong(given, argument)
            yield from _deprecated(given, argument, schema)
        if problem is not None and (exact or (argument is None and _is_beginning(key, schema))):
            if problem.severity is errors.Severity.ERROR:
                del given.values[key]
            yield problem
        elif problem is not None:
            yield _softened(problem, schema)
    yield from _conflicts(given, schema, decided)


def _softened(problem: errors.Problem, schema: Schema) -> errors.Problem:
    text = (
        f"{problem.message} (by the arguments of SGLang {schema.version}, the nearest version "
        "that is known; it is passed on as it is)"
    )
    return dataclasses.replace(problem, severity=errors.Severity.WARNING, message=text)


# --- names


def _is_beginning(key: str, schema: Schema) -> bool:
    """Whether a name that this version does not have may be taken for that of another argument."""
    if extra_arguments.owned_key(key) is not None:
        return True
    return not versions_with(key) and schema.begins(aliases.flag(key))


def _unknown(given: aliases.Given, key: str, schema: Schema, *, look: bool) -> errors.Problem:
    """Why a version does not have a name: too old, too new, for Python only, or no such name."""
    path, spelling = given.path(key), given.spelling(key)
    having = versions_with(key)
    if key in schema.fields_without_flag:
        return errors.ARGUMENT_PYTHON_ONLY(path, key=spelling, version=schema.version)
    if having and having[-1] > schema.version:
        first = next(version for version in having if version > schema.version)
        return errors.ARGUMENT_LATER(
            path, key=spelling, first=first, version=schema.version, advice=_older(key, schema)
        )
    if having:
        return errors.ARGUMENT_REMOVED(
            path, key=spelling, last=having[-1], version=schema.version, advice=_newer(key)
        )
    names = typos.similar(schema.version, key) if look and key not in habits.NAMES else ()
    others = habits.misspelt(key) if look and not names and key not in habits.NAMES else None
    given.meant.update(filter(None, (*names, habits.meant(others or key))))
    return errors.ARGUMENT_UNKNOWN(
        path, key=spelling, version=schema.version, advice=_instead(key, schema, names, look=look)
    )


def _older(key: str, schema: Schema) -> str:
    """What an older version calls it, if it was only renamed."""
    flag = "--" + key.replace("_", "-")
    old = [name for name in sorted(schema.arguments) if replacement(name) == flag]
    return f"use {old[0]}, or a newer image" if old else "remove it, or use a newer image"


def _newer(key: str) -> str:
    instead = replacement(key)
    return f"use {_as_key(instead)} instead" if instead else "remove it, or use an older image"


def _as_key(flag: str) -> str:
    """A replacement in the words of strategy_config, where it is no more than a name."""
    name = flag.partition(" ")[0].removeprefix("--").replace("-", "_")
    return name if re.fullmatch("[a-z0-9_]+", name) else flag


def _instead(key: str, schema: Schema, names: Sequence[str], *, look: bool) -> str:
    """What was meant: somebody else's name, the opposite, or a slip."""
    if advice := habits.advice(key, schema):
        return advice
    if other := typos.opposite(schema, key):
        if other.startswith("enable_"):
            return f"SGLang does it with {other}: true alone: remove it"
        return f"SGLang does it anyway: for true remove it, for false write {other}: true"
    if not names and look and (others := habits.misspelt(key)):
        return f"did you mean {others}? {habits.advice(others, schema)}"
    if not names:
        return "correct its name, or remove it"
    return f"did you mean {aliases.either(names)}?"


def _deprecated(
    given: aliases.Given, argument: Argument, schema: Schema
) -> Iterator[errors.Problem]:
    if argument.deprecated and given.values[argument.key] is not False:
        if argument.action == "refused":
            return  # said as an error
        advice = f"use {_as_key(argument.replacement)}" if argument.replacement else "remove it"
        yield errors.ARGUMENT_DEPRECATED(
            given.path(argument.key),
            key=given.spelling(argument.key),
            version=schema.version,
            advice=advice,
        )


def _conflicts(
    given: aliases.Given, schema: Schema, decided: Collection[str]
) -> Iterator[errors.Problem]:
    """An old name and a new one of the same field: the last on the command line would win."""
    setting: dict[str, str] = {}
    for key in given.spelled:
        argument = schema.argument(key)
        if argument is None or key not in given.values or key in decided or not argument.field:
            continue
        if argument.action == "store_const" and given.values[key] is False:
            continue  # it means one value of the field, or nothing
        first = setting.setdefault(argument.field, key)
        if first != key and not _agree(given, schema, first, key):
            yield aliases.conflict(given, first, given.spelling(key), given.values[key])


def _agree(given: aliases.Given, schema: Schema, one: str, other: str) -> bool:
    meant = []
    for key in (one, other):
        argument, value = schema.arguments[key], given.values[key]
        use_const = argument.const is not None and not argument.nargs
        meant.append(argument.const if use_const else value)
    return aliases.same(*meant)


# --- values


def _wrong(given: aliases.Given, argument: Argument) -> errors.Problem | None:
    """What is wrong with a value for this argument."""
    value = given.values[argument.key]
    fault = value_checks.fault(argument, value)
    if fault is None:
        return None
    row, words = fault
    key = given.spelling(argument.key)
    is_word = argument.type != "str" or argument.is_flag or bool(argument.choices)
    found = aliases.shown(argument.key, value, is_word=is_word)
    return row(given.path(argument.key), key=key, found=found, **words)
