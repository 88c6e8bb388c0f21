"""CEL, made from the table of errors and what ``words`` knows.

Only what Kubernetes 1.34 has: no ``sort``, ``slice`` or ``lists.range``, which came with 1.35.
"""

import re
import string
import textwrap
from collections.abc import Iterable, Mapping

from generators.policies import nearest, words
from sglang_operator.api import errors
from sglang_operator.engine import aliases, habits, versions

_STRATEGY = "object.spec.strategy_args"
_SHOWN = 80  # characters of a found value, as in errors.shown
_LOOKS_OTHERWISE = "^([-+]?[0-9.]{1,20}(e[-+]?[0-9]{1,3})?|(?i:true|false|null|yes|no))$"
_VARIABLE = f"^{habits.VARIABLE}$"
_PRINTABLE = r"^[\pL\pM\pN\pP\pS ]$"
_WIDTH = 96


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def texts(values: Iterable[str]) -> str:
    """A list of string literals, over several lines."""
    return "[" + _wrapped(", ".join(map(text, values))) + "]"


def table(values: Mapping[str, str]) -> str:
    """A map of string literals."""
    return "{" + ",\n".join(f"{text(key)}: {text(value)}" for key, value in values.items()) + "}"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH, break_long_words=False, break_on_hyphens=False)


# --- which policy


def is_version(version: str) -> str:
    """Whether an object's engines are of this version: as ``versions.detect`` has it."""
    release = _release(versions.parse(version))
    tagged = f"^([^@]*/)?[^@/:]*:{release}(-[A-Za-z0-9_.-]+)?(@(.|\\n)*)?$"
    default = versions.detect(versions.DEFAULT_IMAGE, None).version
    return (
        "has(object.spec.engineVersion)\n"
        f"? object.spec.engineVersion.matches({text(f'^{release}$')})\n"
        ": has(object.spec.image)\n"
        f"? object.spec.image.matches({text(tagged)})\n"
        f": {str(str(default) == version).lower()}"
    )


def _release(version: versions.Version) -> str:
    numbers = [_number(part) for part in (version.major, version.minor, version.patch)]
    post = f"[.]post{_number(version.post)}" if ".post" in str(version) else ""
    return "v?" + "[.]".join(numbers) + post


def _number(value: int) -> str:
    """Of at most four digits, zeros before it included."""
    return f"0{{0,{4 - len(str(value))}}}{value}"


# --- variables


def variables(names: words.Names) -> dict[str, str]:
    """The variables of one policy; the API server evaluates each when it is first used."""
    return {
        "config": (
            f"has({_STRATEGY}) && {_STRATEGY} != null\n"
            f"&& has({_STRATEGY}.strategy_config) && {_STRATEGY}.strategy_config != null\n"
            f"? dyn({_STRATEGY}.strategy_config) : dyn({{}})"
        ),
        "given": "variables.config.map(k, variables.config[k] != null, string(k))",
        "names": texts(names.similar),
        "accepted": texts(names.accepted),
        "owned": table(names.owned),
        "elsewhere": _elsewhere(names.elsewhere),
        "environment": _keys(f"k.matches({text(_VARIABLE)})"),
        "impossible": _keys(
            f"!k.replace('-', '_').matches('^[a-z][a-z0-9_]*$') && !k.matches({text(_VARIABLE)})"
        ),
        "refused": _keys("k.replace('-', '_') in variables.owned"),
        "unknown": _keys(
            "k.replace('-', '_').matches('^[a-z][a-z0-9_]*$')\n"
            "&& !(k.replace('-', '_') in variables.names)\n"
            "&& !(k.replace('-', '_') in variables.accepted)\n"
            "&& !(k.replace('-', '_') in variables.owned)\n"
            f"&& [variables.config[k]].all(v, {_writable('v')})"
        ),
        "word": f"{_first('unknown')}.replace('-', '_')",
        "reasons": (
            "variables.elsewhere.filter(group, variables.word in group.names)"
            ".map(group, group.says)"
        ),
        **_similar(),
        "found": _found(names),
        "environmentText": _first("environment"),
        "environmentLine": line("variables.environmentText"),
        "impossibleText": _first("impossible"),
        "impossibleLine": line("variables.impossibleText"),
        "foundLine": line("variables.found"),
    }


def _keys(condition: str) -> str:
    return f"variables.given.filter(k, {condition})"


def _first(keys: str) -> str:
    """The key that the operator names: the first of these in their order."""
    return f"variables.{keys}.min()"


def _sorted(variable: str, most: int) -> str:
    """A list of different strings in their order, of which there are at most so many."""
    found = f"variables.{variable}"
    return (
        f"{list(range(most))}.filter(i, i < {found}.size())\n"
        f".map(i, {found}.filter(s, {found}.filter(t, t < s).size() == i)[0])"
    )


def _elsewhere(groups: Mapping[str, tuple[str, ...]]) -> str:
    entries = [
        f"{{'says': dyn({text(tail)}),\n'names': dyn({texts(group)})}}"
        for tail, group in groups.items()
    ]
    return "[" + ",\n".join(entries) + "]"


def _writable(value: str) -> str:
    """Whether the operator gets as far as the name: some values it turns down before."""
    broken = r"[$][{]|[\x00\n\r]"
    return (
        f"type({value}) == string ? !{value}.matches({text(broken + '|^(?i:true|false)$')})\n"
        f": type({value}) == list ? {value}.all(i, type(i) == string\n"
        f"? !i.matches({text(broken + '|^-')})\n"
        ": type(i) != bool && type(i) != list && i != null) : true"
    )


def _similar() -> dict[str, str]:
    """``nearest.nearest`` in CEL."""
    mark, width = text(nearest.MARK), nearest.WIDTH
    longest = nearest.LONGEST
    return {
        "marked": (
            f"{mark} + (variables.word.size() > {longest}\n"
            f"? variables.word.substring(0, {longest}) : variables.word) + {mark}"
        ),
        "pairs": (
            _wrapped(f"{list(range(longest + 1))}")
            + f"\n.filter(i, i <= variables.marked.size() - {width})"
            f".map(i, variables.marked.substring(i, i + {width}))"
        ),
        "scored": (
            "variables.names.map(n, {'name': dyn(n),\n"
            f"'share': dyn(200 * variables.pairs.filter(p, ({mark} + n + {mark}).contains(p))"
            f".size()\n/ (variables.pairs.size() + n.size() + {3 - width}))}})\n"
            f".filter(s, int(s.share) >= {nearest.SHARE})\n"
            ".map(s, '%d'.format([100 + 100 - int(s.share)]) + string(s.name))"
        ),
        "best": (
            f"variables.scored.filter(s, variables.scored.filter(t, t < s).size() < {nearest.MOST})"
        ),
        "nearest": f"{_sorted('best', nearest.MOST)}.map(s, s.substring(3))",
        "advice": (
            "variables.nearest.size() == 0 ? 'correct its name, or remove it'\n"
            ": 'did you mean ' + (variables.nearest.size() == 1 ? variables.nearest[0]\n"
            ": [variables.nearest[variables.nearest.size() - 1]].map(last,\n"
            "variables.nearest.filter(n, n != last).join(', ') + ' or ' + last)[0]) + '?'"
        ),
    }


def _found(names: words.Names) -> str:
    """The value of the first owned key, as text; CEL cannot write lists and maps as JSON."""
    first = _first("refused")
    return (
        f"{first}.replace('-', '_') in {texts(names.secret)} ? 'a value'\n"
        f": [variables.config[{first}]].map(v,\n"
        f"type(v) == string ? (v.matches({text(_LOOKS_OTHERWISE)}) ? '\"' + string(v) + '\"'"
        " : string(v))\n"
        ": type(v) == map ? 'a map' : type(v) == list ? 'a list' : string(v))[0]"
    )


def line(name: str) -> str:
    """``errors.shown``: on one line, and not too long."""
    cut = f"({name}.size() > {_SHOWN + 1} ? {name}.substring(0, {_SHOWN + 1}) : {name})"
    clean = f"{cut}.split('').map(c, c.matches({text(_PRINTABLE)}) ? c : ' ').join('')"
    return (
        f"[{clean}].map(t,\n"
        f"t.matches('^ *$') ? '\"' + (t.size() > {_SHOWN} ? t.substring(0, {_SHOWN}) : t) + '\"'\n"
        f": t.size() > {_SHOWN} ? t.substring(0, {_SHOWN - 1}) + '…' : t)[0]"
    )


# --- what is said


def said(row: errors.Row, field: str, **values: str) -> str:
    """A row's text as the operator prints the problem, with CEL where its values go.

    ``field`` is what ``%s`` in the field's path stands for, if it is not empty.
    """
    path = aliases.FIELD + (".%s" if field else "")
    literal, arguments = path + ": ", [field] if field else []
    for before, name, _, _ in string.Formatter().parse(row.text):
        literal += before.replace("%", "%%")
        if name is not None:
            literal += "%s"
            arguments.append(values[name])
    return f"{text(literal)}\n.format([{', '.join(arguments)}])"


def validations(names: words.Names) -> list[dict[str, str]]:
    """What is refused, in the operator's order: only the first that fails is told."""
    key, owned = _first("unknown"), _first("refused")
    advice = f"variables.owned[{owned}.replace('-', '_')]"
    unknown = said(
        errors.ARGUMENT_UNKNOWN,
        key,
        key=key,
        version=text(names.version),
        advice="variables.advice",
    )
    elsewhere = f"'{aliases.FIELD}.%s: %s%s'.format([{key}, {key}, variables.reasons[0]])"
    ours = f"variables.environmentText.startsWith({text(habits.VLLM)})"
    others = f"variables.environmentText in {texts(habits.READ_BY_SGLANG)}"
    return [
        _validation(
            "environment",
            said(
                errors.ARGUMENT_ENVIRONMENT,
                "",
                key="variables.environmentLine",
                advice=f"{ours} && !({others}) ? {text(habits.OF_VLLM)} : {text(habits.OF_OTHERS)}",
            ),
            "a key of strategy_config is the name of a variable of the environment",
        ),
        _validation(
            "impossible",
            said(
                errors.ARGUMENT_KEY,
                "",
                key="variables.impossibleLine",
                expected=text(aliases.EXPECTED_KEY),
            ),
            "a key of strategy_config is not a possible argument name",
        ),
        _validation(
            "refused",
            said(
                errors.ARGUMENT_OWNED, owned, key=owned, found="variables.foundLine", advice=advice
            ),
            "strategy_config sets an argument that the operator sets",
        ),
        _validation(
            "unknown",
            f"variables.reasons.size() > 0\n? {elsewhere}\n: {unknown}",
            f"strategy_config has a key that is not an argument of SGLang {names.version}",
        ),
    ]


def _validation(variable: str, message: str, plain: str) -> dict[str, str]:
    return {
        "expression": f"variables.{variable}.size() == 0",
        "messageExpression": message,
        "message": plain,
        "reason": "Invalid",
    }


def is_name(value: str) -> bool:
    """Whether a schema's name is one that the policies take for possible."""
    return re.fullmatch("[a-z][a-z0-9_]*", value) is not None
