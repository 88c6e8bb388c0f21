"""One case: render it, let SGLang read it, compare; or see who would have refused it."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from generators.schema.sglang import ParserError, SGLang
from sglang_operator.api import errors
from sglang_operator.engine import arguments, versions
from tests.proof import oracle

ACCEPTED = "accepted"
_NAMES = {id(row): name for name, row in errors.rows()}
# Rows whose authority says these words: what SGLang answers to the value as it is.
_UNEXPECTED = "unexpected keyword argument"


class Disproved(AssertionError):
    """A case that comes out otherwise than it should."""


def judge(sglang: SGLang, case: oracle.Case) -> str:
    """``accepted``, or the names of the rows that refuse it; raises Disproved."""
    with _rows() as told:
        rendered = arguments.render(request(case))
    refused = [(row, problem) for row, problem in told if row.severity is errors.Severity.ERROR]
    if not refused:
        _compare(sglang, case, list(rendered.argv))
        return ACCEPTED
    for row, problem in refused:
        _confirm(sglang, case, row, problem)
    return " ".join(sorted({_NAMES[id(row)] for row, _ in refused}))


def request(case: oracle.Case) -> arguments.EngineRequest:
    """The case as the planner asks for it."""
    return arguments.EngineRequest(
        model=oracle.MODEL,
        dtype=case.dtype,
        strategy_config=case.config,
        gpus=case.gpus,
        seed=case.seed,
        router_replay_mode=case.replay,
        sampling=case.sampling,
        extra_args=(),
        port=case.port,
        version=versions.parse(case.version),
        has_api_key=False,
        has_admin_api_key=False,
    )


@contextlib.contextmanager
def _rows() -> Iterator[list[tuple[errors.Row, errors.Problem]]]:
    """The rows of the table that are used meanwhile."""
    told: list[tuple[errors.Row, errors.Problem]] = []
    make = errors.Row.__call__

    def remember(row: errors.Row, field: str, /, **values: object) -> errors.Problem:
        told.append((row, make(row, field, **values)))
        return told[-1][1]

    errors.Row.__call__ = remember  # type: ignore[method-assign]
    try:
        yield told
    finally:
        errors.Row.__call__ = make  # type: ignore[method-assign]


def _compare(sglang: SGLang, case: oracle.Case, argv: list[str]) -> None:
    wanted = oracle.arguments(case)
    unknown = wanted.keys() - set(sglang.names)
    if unknown:
        raise Disproved(f"{case}: accepted, but ServerArgs has no {sorted(unknown)}")
    try:
        found = sglang.parse([kubelet(token) for token in argv])
    except Exception as error:
        raise Disproved(f"{case}: SGLang does not read {argv}: {error!r}") from error
    for name, default in sglang.defaults.items():
        if name in wanted:
            if not oracle.same(name, wanted[name], found[name], default):
                raise Disproved(f"{case}: {name} is {found[name]!r}, not {wanted[name]!r}")
        elif found[name] != default and name not in oracle.OTHER_DEFAULTS:
            raise Disproved(f"{case}: {name} is {found[name]!r}, not the default {default!r}")


def kubelet(token: str) -> str:
    """What a container gets for an argument without references: ``$$`` is ``$``."""
    if "$" in token.replace("$$", ""):
        raise Disproved(f"the kubelet would expand {token}")
    return token.replace("$$", "$")


def _confirm(sglang: SGLang, case: oracle.Case, row: errors.Row, problem: errors.Problem) -> None:
    """See that whoever a row names as its authority refuses the value."""
    name = problem.field.rpartition(".")[2]
    if name not in case.config:
        return
    value = case.config[name]
    key = name.replace("-", "_")
    if _UNEXPECTED in row.authority:
        refuses = _unexpected(sglang, key)
    elif row.authority.startswith(errors.SERVER_PARSER):
        answer = row.authority.removeprefix(errors.SERVER_PARSER).removesuffix(" value")
        refuses = answer in _answer(sglang, key, value)
    else:
        return  # policy, or a rule that its authority places
    if not refuses:
        raise Disproved(f"{case}: {problem} but {row.authority} does not refuse {value!r}")


def _unexpected(sglang: SGLang, key: str) -> bool:
    """Whether ServerArgs itself has no such keyword, as ROLL would find out."""
    return key not in sglang.names


def _answer(sglang: SGLang, key: str, value: Any) -> str:
    """What SGLang's parser says to a value written down without any thought."""
    action = sglang.action(key)
    flag = action.option_strings[0] if action else "--" + key.replace("_", "-")
    if isinstance(value, list) and action and action.nargs in ("+", "*"):
        argv = [flag, *map(_text, value)]
    else:
        argv = [f"{flag}={_text(value)}"]
    try:
        sglang.parse(["--model-path=x", *argv])
    except ParserError as error:
        return _invalid(str(error))
    except Exception as error:
        return f"invalid: {error!r}"
    return "nothing"


def _invalid(message: str) -> str:
    """argparse's words; a type may have words of its own instead of ``invalid int value``."""
    known = ("invalid choice", "invalid ", "ignored explicit argument", "unrecognized arguments")
    if any(words in message for words in known):
        return message
    return f"invalid: {message}" if message.startswith("argument ") else message


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
