"""What the API server and webhooks quote of an object that they refuse, value for value.

A variable's value is told after its field (``env[3].value: Invalid value: "…"``), in a sentence
(``env HF_TOKEN with value …``), and in the ways in which Go prints a map or a struct.  The name of
the field or of the variable says that it is none to repeat, whatever it looks like.

Standard library only: ``redaction`` is built on it.
"""

from collections.abc import Callable

from sglang_operator.api.patterns import Pattern

HIDDEN = "***"
_QUOTES = r"\\{0,4}[\"'`]"
# The path of a field, as the API server, its definitions and JSON patches write it.
_FIELD = Pattern(
    r"(?<![\w./\]\[-])(?P<name>[\w./\[\]~-]++)(?:: |\s)\s*+"
    r"(?:(?:Invalid|Unsupported|Duplicate|unexpected|has|with|got|found|the) ){0,3}"
    r"value:?\s++(?=\S)"
)
_STEPS = Pattern(r"[./\[\]]+")
_WHOLE = frozenset({"args", "command", "extraArgs", "system_envs"})  # fields of values
_OF_A_FIELD = Pattern(r"[A-Z][A-Z0-9_]*|[\w~]*[_-][\w~-]*")  # no field of Kubernetes' own
# In a sentence: a variable, a few words, and its value.
_NAME = r"(?<![\w.-])(?P<name>[A-Za-z][\w.-]{2,252}+)"
_OF = rf"(?:{_QUOTES})?[\])]{{0,2}},?"
_SENTENCE = Pattern(
    rf"{_NAME}{_OF} (?:(?!value)[a-z]{{1,16}}+,? ){{0,5}}?"
    r"(?:values? ?[:=]?|(?:(?:is|was|has been) )?(?:set|changed|equal) to|is|was) (?=\S)"
)
# A variable in capitals has its value after a colon, also in Go's map[NAME:value] ...
_COLON = Pattern(r"(?<![\w.-])(?P<name>[A-Z][A-Z0-9_]{2,252}+): ?(?=\S)")
# ... and after a blank in a struct: {NAME value nil}.
_STRUCT = Pattern(r"\{(?P<name>[A-Z][A-Z0-9_]{2,252}+) (?=\S++ (?:nil|<nil>|&))")
# Of a policy that looks for secrets which are written out.
_FOUND = Pattern(
    r"(?i)\b(?P<name>literal|inline|(?:plain|clear)[ -]?text|plain|hard-?coded) "
    r"(?:[a-z]{1,16} ){0,2}?"
    r"(?:secret|token|password|passphrase|credential|key|value)s?(?: found)?:? (?=\S)"
)
_PASSWORD = Pattern(
    r"(?i)\b(?P<name>password|passphrase|passwd):? (?=\w*[A-Za-z]\w*[0-9])(?=\w{6})"
)
_VALUE = Pattern(r"[^\s,;)}\]]+")
_CLOSED = {quote: Pattern(rf"(?:[^{quote}\\\n]|\\.)*+") for quote in "\"'`"}
_OPENS = Pattern(_QUOTES)
# How a sentence goes on that names no value, and what a server says of a field.
_GOES_ON = Pattern(
    r"(?i)(?:a|an|and|any|are|as|at|be|been|by|cannot|can|does|empty|expected|false|for|forbidden"
    r"|found|from|given|has|in|into|invalid|is|it|may|missing|must|no|none|not|null|of|on|only|or"
    r"|required|set|should|that|the|this|to|too|true|unset|unsupported|unknown|duplicate|was|which"
    r"|will|with|without|detected|defined|referenced|allowed|denied|required|secretkeyref\S*"
    r"|valuefrom\S*|via)(?![\w.-])"
)


def hidden(text: str, is_secret: Callable[[str], bool]) -> str:
    """With such values hidden; ``is_secret``: whether a variable of that name holds a secret."""

    def is_variable(name: str) -> bool:
        return ("_" in name or "-" in name) and is_secret(name)

    def is_field(name: str) -> bool:
        return _is_field(name, is_secret)

    def is_spoken_of(_: str) -> bool:
        return True

    for pattern, holds in (
        (_FIELD, is_field),
        (_SENTENCE, is_variable),
        (_COLON, is_variable),
        (_STRUCT, is_secret),
        (_FOUND, is_spoken_of),
        (_PASSWORD, is_spoken_of),
    ):
        text = _without(pattern, holds, text, is_secret)
    return text


def _without(
    pattern: Pattern,
    holds: Callable[[str], bool],
    text: str,
    is_secret: Callable[[str], bool],
) -> str:
    parts, start = [], 0
    for found in pattern.finditer(text):
        at = found.end()
        if at < start or text.startswith(HIDDEN, at) or not holds(found["name"]):
            continue
        begin, end = _value(text, at)
        if text[begin:end] == HIDDEN or (begin == at and _is_word(text[begin:end], is_secret)):
            continue
        parts.append(text[start:begin] + HIDDEN)
        start = end
    return "".join((*parts, text[start:]))


def _value(text: str, at: int) -> tuple[int, int]:
    """Where a value begins and ends, without the quotes around it."""
    opening = _OPENS.match(text, at)
    pattern = _CLOSED[opening[0][-1]] if opening else _VALUE
    begin = opening.end() if opening else at
    found = pattern.match(text, begin)
    end = found.end() if found else begin
    return begin, end


def _is_word(value: str, is_secret: Callable[[str], bool]) -> bool:
    """Whether the sentence goes on, or names another variable."""
    return _GOES_ON.match(value) is not None or ("_" in value and is_secret(value.rstrip(".:")))


def _is_field(path: str, is_secret: Callable[[str], bool]) -> bool:
    """Whether a field holds a variable's value, an argument, or what its name says is secret."""
    steps = [step for step in _STEPS.split(path) if step]
    if not steps:
        return False
    is_env = "env" in steps and steps[-1] == "value"
    named = (step for step in steps if _OF_A_FIELD.fullmatch(step))
    return is_env or not _WHOLE.isdisjoint(steps) or any(map(is_secret, named))
