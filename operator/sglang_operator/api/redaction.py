"""The one redactor: what of a text is never repeated, whoever wrote it.

Standard library only: the trainer's client is built on it.
"""

import functools
import re
from collections.abc import Callable

from sglang_operator.api import quoted_values
from sglang_operator.api.patterns import Pattern

HIDDEN = quoted_values.HIDDEN
# Who tells the first so many characters of a text looks through so many more: a secret that begins
# in what is told is known by what stands behind it.
MARGIN = 4096

_SECRET_NAME = Pattern(
    r"(?i)(^|[_.-])(TOKEN|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|PAT)([_.-]|$)"
    r"|(^|[_.-])(API|ACCESS|SECRET|PRIVATE|AUTH|LICENSE|ENCRYPTION|SIGNING|ACCOUNT)[_.-]?KEY([_.-]|$)"
    r"|_KEY[_.-]?[0-9]*$|PASSWORD|PASSWD|[_.-]PWD$"
    # Short names of variables, which in small letters are words of their own.
    r"|(?-i:(^|_|PG|DB|SQL)PASS$|(^|_)(PASSCODE|PASSPHRASE|PSK|SK|AK|AUTH|CREDS?|JWT|DSN|COOKIE"
    r"|BEARER|SAS|CONN(ECTION)?_?STR(ING)?)$|[A-Z]TOKEN$|(?<!^)(?<!^OLD)PWD$)"
)
_BLANKS = Pattern(r"\s+")
_HUMP = Pattern(r"(?<=[a-z0-9])(?=[A-Z])")  # secretAccessKey
# Of what programs say, these too; who writes a variable of that name may mean something else.
_SAID_SECRET = Pattern(
    r"(?i)(^|[_.-])(authorization|bearer|cookie|passwords|secretaccesskey|api[_.-]?keys)$"
    r"|(^|[_.-])sk$|[_.-]pwd$"
)
# No name without one of these is any of the above.
_HINT = Pattern(
    r"(?i)token|secret|passw|passphrase|credential|key|pat|auth|bearer|cookie|\bsk\b"
    r"|[_.-](?:sk|pwd|pass)\b"
)
# In what engines say, most tokens are numbers of a model: pad_token_id, --speculative-token-map.
_TOKEN_AND_MORE = Pattern(r"(?i)token[_.-]\w")
_OF_A_MODEL = Pattern(
    r"(?i)token[_.-](?:ids?|map|nums?|counts?|usages?|distribution|latency|types?|len|lengths?|limits?"
    r"|budgets?|sizes?|pools?|to|per|levels?|ratios?|drop|ind(?:ex|ices)|idx|pos|positions?|embed[a-z]*"
    r"|logprobs?|throughput|steps?|masks?|capacity|shift)(?![a-z])"
)

# What parsers say: their own words, single characters and kinds of tokens ('<stream end>').
_UNQUOTED = Pattern(r"(?:[^'\"]|'(?:\\?.|<[a-z ]+>)')*+")
# An image has its digest where a host would be.
_DIGEST = Pattern(r"sha[0-9]+:")
_AFTER_SCHEME = Pattern(r"[/@:]")
_OPENS = Pattern(r"[\"'=(]")
_WORDS = Pattern(r"\S+")
_OBJECT_NAME = Pattern(r"[A-Za-z0-9._-]{1,253}")

# How a name and its value are written: with what stands between them, whatever language it is.  No
# part of a text is tried twice: what was taken of it is not given back.
_NAME, _QUOTE = r"(?<![\w.-])([\w.-]++)", r"\\{0,15}[\"']"
_BARS = ("|", "\u2502", "\u2503")
_SIGN = r"[?+]?[=:\uff1a\uff1d]{1,2}>?|->|<-|[\u2192\u21d2]|[|\u2502\u2503](?=[ \t])"
_PAIR = Pattern(
    rf"{_NAME}(?:"
    # name=value, 'name': 'value', environ['name'] = 'value', | name | value |, name (str): value
    rf"(?:{_QUOTE}\s?[\])]{{0,2}}|\])?(?:\s?\((?:str|string|text|bytes|SecretStr)\))?"
    rf"(?:\[\d{{0,6}}\])?[\s\u200b\ufeff]*+(?P<sign>{_SIGN})\s*+"
    r"|(?P<gap>\t[ \t]*+|[ ]{2}[ \t]*+)"  # columns
    # Variables: name: NAME, value: VALUE
    rf"|(?:{_QUOTE})?[\s,]++[bu]?(?:{_QUOTE})?[Vv]alue(?:{_QUOTE})?\s*+(?P<of>[=:])\s*+"
    rf"|{_QUOTE}\s*+,\s*+(?=[bBuUrRfF]{{0,2}}{_QUOTE})"  # ('name', 'value')
    r")(?=\S)"
)
_FLAG = Pattern(
    rf"(?<![\w.-])(-[\w.-]++)(?:{_QUOTE})?(?P<sign>)(?:\s*+,\s*+|\s++)(?P<of>-\s++)?(?=\S)"
)
_TYPED = Pattern(r"\w[\w.]{0,64}(?:\[[\w.]{1,64}\])?(?: \| None)? = (?=\S)")  # name: str = value
_OPENING = Pattern(r"(?:[bBuUrRfF]{1,2}|\$|\w{1,32}\()?(\\{0,15})([\"'])")
_REST = {quote: Pattern(rf"(?:[^{quote}\\\n]|\\.)*+{quote}?") for quote in "\"'"}
_MORE = Pattern(r"\\?[\"']|[\w$]+")  # what a shell puts together with what it follows
_IS_KEY = Pattern(r"\s*+[:=]\s*+")
_CELL = Pattern(r"(?:(?! [|\u2502\u2503])[^\n])*+")
_COLUMN = Pattern(r"(?:(?!  )[^\t\n])*+")
_WORD, _LINE = Pattern(r"(?:[^\s\\]|\\[^\n]|\\)+"), Pattern(r"[^\n]*")
_EXPECTED = "expected "  # argparse of a flag without its value
_NOTHING = Pattern(r"(?:None|null|True|False|\"\"|'')(?![^\s,;:)}\]])")
_NUMBER = Pattern(r"[\"']?[-+]?[\d.]++(?:e[-+]?\d++)?[\"']?(?![^\s,;)}\]])")
# Sentences, headers and queries of URLs, in which a secret stands under no name of its own.
_SPOKEN = Pattern(
    r"(?i)(\b(?:api|access|secret|private) key\b(?: \w{1,20}){0,3} {0,4}[:=] {0,4})[^\n]+"
)
_USER = Pattern(  # curl -u user:password, also as a list
    rf"(?<![\w-])(?:-[uU]|--(?:proxy-)?user|--(?:src-|dest-)?creds|--auth)"
    rf"(?:[ \t]*+=|(?:{_QUOTE})?\s*+,)?\s*+(?:{_QUOTE})?[^\s:'\"=,]{{1,256}}+:(?=[^\s'\"])"
)
_GROUP = Pattern(r"[0-9]{1,10}\b")
_SHORT_FLAG = Pattern(  # mysql -ppassword
    r"(?i)\b(?:(?:mysql|mariadb|mongo)[\w-]{0,16}|sshpass|(?:docker|podman|nerdctl|az) login)\b"
    r"[^\n|;&]{0,256}?\s-p[ \t]*+(?=[^\s-])|\bredis-cli\b[^\n|;&]{0,256}?\s-a[ \t]++(?=\S)"
)
_ELEMENT = Pattern(r"<([\w.:-]++)(?:\s[^<>\n]{0,256}+)?>(?=[^<\s])")
_WITHIN = Pattern(r"[^<\n]*")
# In sentences: how a secret is spoken of, and so many words until it comes.
_TOLD = Pattern(r"[A-Za-z0-9_+=~.-]+")
_NEAR = 4
_SPOKEN_OF = Pattern(r"(?i)(?:jwt|login|basic|bearer|pwd|passwords?|tokens?|_?auth)")
_KINDS_OF_KEYS = frozenset({"api", "access", "secret", "private", "auth", "license", "account"})
_MIXED = Pattern(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9_+=~]{8,}")
_RANDOM = Pattern(r"(?=.*[A-Za-z])(?=.*[0-9])[A-Za-z0-9_+=~]{20,}")
_RUNS, _CAPITAL = Pattern(r"[A-Za-z0-9_+=~]{8,}"), Pattern(r"[A-Z]")
_NOTHING_ELSE = Pattern("")
_OF_A_CLASS = Pattern(r"(?:[A-Z][a-z]+[0-9]{0,5})+[A-Z]*(?:_\w*)?")  # Qwen3ForCausalLM
_PROSE = Pattern(r"(?i)(?:tokens?|secrets?|credentials?|keys?|pat|cookies?)")
_IN_QUOTES = Pattern(
    r"(?i)(\b(?:(?:api|access|secret|private|auth|license|account)[ _-]?key|password|passphrase)\b"
    r"(?: {1,4}\w{1,20}+){0,4}(?: {0,4}:)? {1,4}\\{0,4}([\"'`]))(?!\*\*\*)[^\n]+?(?=\\{0,4}\2|$|\n)"
)
# A sentence about a variable or an argument says what it was: api_key must be str, got 'x'.
_SPELLED = Pattern(r"[\w.-]+")
_ITS_VALUE = Pattern(r"[\"'\])]{0,3} ?(?:[=:]|->)")  # follows at once, and was looked at
_COMPOUND = Pattern(r"\w[_.-]\w|[a-z0-9][A-Z]")
_TOKEN_OF_A_MODEL = Pattern(
    r"(?i)(?:pad|bos|eos|unk|mask|stop|cls|sep|image|video|audio|special|added|draft|next|new|first"
    r"|last|end|start|begin|think|tool)[_.-]?token"
)
_GOT = Pattern(
    r"(?i)(\b(?:got|received|not|was|is|be|given|found|value|input):? {1,4}"
    r"[bru]?[\[({]{0,2}([\"'`]))"
    r"(?!\*\*\*)[^\"'`\n]+"
)
_QUOTED = Pattern(r"([\"'`])([^\"'`\s]{8,512})(?=\1)")
# pydantic names a field, and quotes its value in the next line.
_INPUT = Pattern(r"(^|\n)([^\n]*)(\n[^\n]*?\binput_value=)(?!\*\*\*)((?:(?!, input_type=)[^\n])+)")
_INPUT_VALUE = Pattern(r"(\binput_value=[\"']?)([^\"'\s,\]]{8,512})")
_PEM = Pattern(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)[\s\S]+")
_BEARER = Pattern(
    r"(?i)(\bbearer\s{1,4}|\bauthorization\\{0,4}[\"']?\s{0,4}[:=]\s{0,4}\\{0,4}[\"']?basic\s{1,4})"
    r"[^\s\"',\\]+"
)
_SIGNED = Pattern(
    r"(?i)((?:(?<=[?&])|(?<![\w-])x-(?:amz|goog)-)(?:sig|signature|credential)=)[^\s&\"']+"
)
# Addresses that are a secret themselves: whoever knows them may write there.
_HOOK = Pattern(
    r"(?i)(https?://(?:hooks\.slack\.com/(?:services|workflows|triggers)"
    r"|(?:[\w-]{1,63}\.)?discord(?:app)?\.com/api/webhooks"
    r"|[\w-]{1,63}\.webhook\.office\.com|api\.telegram\.org/bot[0-9]{0,20}+:?+)/?+)"
    r"(?!\*\*\*)[^\s\"'<>\\]+"
)
# Keys that are known by their form.
_FORM = Pattern(
    r"(?<![\w-])(?:hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}"
    r"|gl(?:pat|rt|dt|cbt|ptt|ft|soat|agent)-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"
    r"|(?:api_org|npm|gsk|r8|dckr_(?:pat|oat)|do[oprt]_v1|wandb_v1|[srp]k_(?:live|test))_\w{20,}"
    r"|pypi-[\w-]{20,}|nvapi-[\w-]{20,}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|hv[sbr]\.[\w-]{20,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|AGE-SECRET-KEY-1[0-9A-Z]{20,})"
)


def is_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret, however it is spelled.

    Of an annotation's key it is what stands behind the domain that counts.
    """
    name = name.rpartition("/")[2]
    return _SECRET_NAME.search(_HUMP.sub("_", _BLANKS.sub("_", name.strip()))) is not None


def unquoted(text: str) -> str:
    """What a parser says is wrong, up to where it repeats more than a character of it."""
    said = _UNQUOTED.match(text)
    assert said is not None  # nothing is something too
    return said[0].rstrip(" ,;:")


def without_passwords(text: str) -> str:
    """Text without the passwords of URLs."""
    if "@" not in text:
        return text  # without a look from each place in it
    return _WORDS.sub(_word_without_passwords, text)


def _word_without_passwords(found: re.Match[str]) -> str:
    """A word without what stands before hosts: ``scheme://…@`` and ``user:password@``.

    It is gone through once.
    """
    word = found[0]
    last = word.rfind("@")
    parts: list[str] = []
    start = before = 0
    scheme = word.find("://") if last >= 0 else -1
    # Whatever is hidden stands behind a colon: one that no @ follows hides nothing.
    while 0 <= (colon := word.find(":", before)) < last:
        at = word.find("@", colon)
        before = word.rfind("@", before, colon) + 1 or before
        while 0 <= scheme < at:
            begin = scheme + 3
            mark = _AFTER_SCHEME.search(word, begin)
            assert mark is not None  # there is an @
            if mark[0] == ":":  # a password may hold anything
                return "".join((*parts, word[start:begin], HIDDEN, word[last:]))
            if mark[0] == "@":
                if begin < at:
                    parts += (word[start:begin], HIDDEN)
                    start = at
                break
            scheme = word.find("://", begin)
        else:
            user = _user(word, max(before, word.rfind("/", before, at) + 1), at)
            if user is not None:
                parts += (word[start:user], HIDDEN)
                start = at
        before = at + 1
        if 0 <= scheme < before:
            scheme = word.find("://", before)
    return "".join((*parts, word[start:]))


def _user(word: str, begin: int, at: int) -> int | None:
    """Where ``user:password`` begins that ends at this ``@``, and not before ``begin``."""
    if _DIGEST.match(word, at + 1):
        return None
    starts = (mark.end() for mark in _OPENS.finditer(word, begin, at))
    for start in (*([begin] if begin == 0 else []), *starts):
        colon = word.find(":", start, at)
        if colon < 0 or colon == at - 1:
            return None  # and none of the later ones has another
        if colon > start:
            return start
    return None


def without_secrets(text: str) -> str:
    """A value that somebody wrote, without a URL's password, and cut at a secret's value."""
    text = _FORM.sub(HIDDEN, without_passwords(text))
    if (user := _USER.search(text)) and not _is_group(text, user.end()):
        text = text[: user.end()] + HIDDEN
    for pattern in (_PAIR, _FLAG):
        for pair in pattern.finditer(text):
            if _HINT.search(pair[1]) and is_secret(pair[1]) and not _is_prose(pair):
                text = text[: pair.end()] + HIDDEN
                break
    return text


@functools.lru_cache(maxsize=256)  # an abort is told of each engine
def in_words(text: str) -> str:
    """What a program said, with secrets hidden and the rest as it is."""
    text = _SPOKEN.sub(rf"\1{HIDDEN}", _known(text))
    text = _hidden(_FLAG, _hidden(_PAIR, text))
    return _beside(_nearby(_IN_QUOTES.sub(rf"\1{HIDDEN}", text)))


def in_clusters_words(text: str) -> str:
    """The same of Kubernetes, which says the names of Secrets and of their keys before colons."""
    text = quoted_values.hidden(_known(text), is_secret)
    return _nearby(_hidden(_FLAG, _hidden(_PAIR, text, of_cluster=True)))


def _known(text: str) -> str:
    text = _SIGNED.sub(rf"\1{HIDDEN}", _FORM.sub(HIDDEN, without_passwords(text)))
    text = _HOOK.sub(rf"\1{HIDDEN}", text)
    text = _PEM.sub(rf"\1{HIDDEN}", _BEARER.sub(rf"\1{HIDDEN}", text))
    text = _without(_USER, text, lambda found: not _is_group(text, found.end()), _end_of_word)
    text = _without(_SHORT_FLAG, text, lambda _: True, _end_of_word)
    return _without(_ELEMENT, text, _is_secrets, _end_of_element)


def _without(
    pattern: Pattern,
    text: str,
    holds: Callable[[re.Match[str]], bool],
    end: Callable[[str, int], int],
) -> str:
    """With what follows each match hidden, where one holds."""
    parts, start = [], 0
    for found in pattern.finditer(text):
        if found.end() >= start and not text.startswith(HIDDEN, found.end()) and holds(found):
            parts.append(text[start : found.end()] + HIDDEN)
            start = end(text, found.end())
    return "".join((*parts, text[start:]))


def _is_group(text: str, at: int) -> bool:
    """Whether a user's group stands there, as a number: docker run -u 1000:1000."""
    return _GROUP.match(text, at) is not None


def _is_secrets(found: re.Match[str]) -> bool:
    return _HINT.search(found[1]) is not None and _is_said_secret(found[1])


def _end_of_word(text: str, at: int) -> int:
    """Where a word of a shell ends, which may be in quotes that began before."""
    before = text[max(0, at - 256) : at]
    for quote in "\"'":
        if before.rpartition(" ")[2].count(quote) % 2:
            end = _after(_REST[quote].match, text, at)
            return end - text.startswith(quote, end - 1)
    return _end(text, at, "=")


def _end_of_element(text: str, at: int) -> int:
    return _after(_WITHIN.match, text, at)


def _nearby(text: str) -> str:
    """With words hidden that look like keys, where a secret was spoken of shortly before."""
    parts, start, left, said = [], 0, 0, ""
    for word in _TOLD.finditer(text):
        last, said = said, word[0].strip("=.-")
        if left and looks_like_a_key(said):
            parts.append(text[start : word.start()] + HIDDEN)
            start = word.end()
        said = said.rpartition("=")[2]  # body=token%3D…
        left = _NEAR if _speaks_of_a_secret(said, last) else max(0, left - 1)
    return "".join((*parts, text[start:]))


def _beside(text: str) -> str:
    """With what a sentence says of a secret's value hidden, where it stands before its name too."""
    if "input_value=" in text:
        text = _INPUT.sub(_without_input, text)
        text = _INPUT_VALUE.sub(lambda found: found[1] + _unless_a_key(found[2]), text)
    if not _HINT.search(text):
        return text
    return "\n".join(map(_line_without_what_it_is_of, text.split("\n")))


def _without_input(found: re.Match[str]) -> str:
    name = found[2].strip()
    hidden = len(name) <= 256 and bool(_HINT.search(name)) and is_secret(name)
    return f"{found[1]}{found[2]}{found[3]}{HIDDEN if hidden else found[4]}"


def _unless_a_key(word: str) -> str:
    return HIDDEN if looks_like_a_key(word) else word


def _line_without_what_it_is_of(line: str) -> str:
    names = [found for found in _SPELLED.finditer(line) if _is_spoken_of(found, line)]
    if not names:
        return line
    begins, ends = names[0].start(), names[0].end()
    after = _GOT.sub(rf"\1{HIDDEN}", line[ends:])
    # Of what comes before, the last words, as ``_nearby`` looks at the next ones.
    near = [0, *(word.start() for word in _TOLD.finditer(line, 0, begins))][-_NEAR:][0]
    before = line[:near] + _TOLD.sub(lambda word: _unless_a_key(word[0]), line[near:begins])
    line = before + line[begins:ends] + after
    return _QUOTED.sub(lambda found: found[1] + _unless_a_key(found[2]), line)


def _is_spoken_of(found: re.Match[str], line: str) -> bool:
    """Whether this is the name of a secret that is not followed by its value at once."""
    name = found[0].strip(".-")
    if len(name) > 256 or not _HINT.search(name) or not _COMPOUND.search(name):
        return False
    if _TOKEN_OF_A_MODEL.fullmatch(name) or _OF_A_MODEL.search(name) or not is_secret(name):
        return False
    return _ITS_VALUE.match(line, found.end()) is None


def looks_like_a_key(word: str) -> bool:
    """Whether letters of both kinds and digits, or many of them, make no word that people write."""
    if len(word) < 8 or _OF_A_CLASS.fullmatch(word):
        return False
    return bool(_MIXED.fullmatch(word) or _RANDOM.fullmatch(word))


def without_keys(text: str, *, but: Pattern = _NOTHING_ELSE) -> str:
    """Text of names and versions without words that look like keys, but for such parts of words."""

    def told(word: re.Match[str]) -> str:
        parts = (part for part in word[0].split("_") if not but.fullmatch(part))
        return HIDDEN if any(map(looks_like_a_key, parts)) else word[0]

    return _RUNS.sub(told, text)


def is_a_key(text: str) -> bool:
    """Whether there is a key in it beyond doubt, by its form: capitals are in no ordinary name."""
    return any(_CAPITAL.search(found[0]) for found in _FORM.finditer(text))


def _speaks_of_a_secret(word: str, last: str) -> bool:
    if len(word) > 256:
        return False
    if word.lower() in ("key", "keys"):
        return last.lower() in _KINDS_OF_KEYS
    if _SPOKEN_OF.fullmatch(word):
        return True
    return _HINT.search(word) is not None and _is_said_secret(word)


def _is_prose(pair: re.Match[str]) -> bool:
    """Whether a word that may mean something else stands before a gap, or an index of a list."""
    name = pair[1].strip(".-")
    if not name.isalpha() or name.isupper() or not _PROSE.fullmatch(name):
        return False
    is_index = pair[0].startswith("]", len(pair[1]))
    return is_index or pair["gap"] is not None or pair["sign"] in _BARS


def _hidden(pattern: Pattern, text: str, *, of_cluster: bool = False) -> str:
    """With the values of secret names hidden; after a colon, the line may hold one anywhere."""
    if not _HINT.search(text):
        return text
    parts, start = [], 0
    for pair in pattern.finditer(text):
        end, sign = pair.end(), pair["sign"]
        if end < start or not _HINT.search(pair[1]) or not _is_said_secret(pair[1]):
            continue
        if pattern is _PAIR and _is_prose(pair):
            continue
        if sign and "\n" in pair[0]:
            continue  # a prompt, and what was said next
        typed = _TYPED.match(text, end) if sign == ":" else None
        end, sign = (typed.end(), "=") if typed else (end, sign)
        if text.startswith((HIDDEN, _EXPECTED), end) or _NOTHING.match(text, end):
            continue
        opening = _OPENING.match(text, end)
        is_name = of_cluster and sign == ":" and not opening and _may_be_a_name(text, end)
        if is_name or _is_of_a_model(pair[1], text, end, opening):
            continue
        parts.append(text[start:end] + HIDDEN)
        start = _end(text, end, sign or pair["of"] or pair.groupdict().get("gap") or "")
    return "".join((*parts, text[start:]))


def _is_said_secret(name: str) -> bool:
    return is_secret(name) or _SAID_SECRET.search(name) is not None


def _may_be_a_name(text: str, at: int) -> bool:
    """Whether what stands there may be the name of a Secret or of a key in it."""
    word = _after(_WORDS.match, text, at)
    said = text[at:word].rstrip(".,;:!?)]}\"'")
    return _OBJECT_NAME.fullmatch(said) is not None and not looks_like_a_key(said)


def _is_of_a_model(name: str, text: str, at: int, opening: re.Match[str] | None) -> bool:
    """Whether a token is one that a model reads, by what is said of it; text in quotes is none."""
    if not _TOKEN_AND_MORE.search(name) or is_secret(_TOKEN_AND_MORE.sub("", name)):
        return False
    if opening or not _OF_A_MODEL.search(name):
        return _NUMBER.match(text, at) is not None
    return True


def _end(text: str, at: int, sign: str) -> int:
    """Where a value ends that begins here."""
    opening = _OPENING.match(text, at)
    if sign.startswith((" ", "\t")):
        return _after(_COLUMN.match, text, at)
    if sign in _BARS:
        return _after(_CELL.match, text, at)
    if opening is None:
        pattern = _LINE if sign.startswith((":", "-")) or text[at] in "[({" else _WORD
        return _after(pattern.match, text, at)
    if opening[1]:
        closing = Pattern(rf"(?<!\\){re.escape(opening[1] + opening[2])}|(?=\n)|$")
        at = _after(closing.search, text, opening.end())
        return _after(_LINE.match, text, at) if _MORE.match(text, at) else at
    at = _after(_REST[opening[2]].match, text, opening.end())
    while more := _MORE.match(text, at):
        at = more.end()
        if more[0] in _REST:
            at = _after(_REST[more[0]].match, text, at)
    # Of a list of names and values this was a name, and its value is next.
    key = None if sign else _IS_KEY.match(text, at)
    return _end(text, key.end(), "=") if key and key.end() < len(text) else at


def _after(find: Callable[[str, int], re.Match[str] | None], text: str, at: int) -> int:
    found = find(text, at)
    return found.end() if found else at
