"""The one redactor: what of a text is never repeated, whoever wrote it.

Standard library only: the trainer's client is built on it.
"""

import functools
import re

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(?i)(^|[_.-])(TOKEN|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|PAT)([_.-]|$)"
    r"|(^|[_.-])(API|ACCESS|SECRET|PRIVATE|AUTH|LICENSE|ENCRYPTION|SIGNING|ACCOUNT)[_.-]?KEY([_.-]|$)"
    r"|_KEY$|(?i:PASSWORD|PASSWD)"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # secretAccessKey
# In what engines say, most tokens are numbers of a model: pad_token_id, --speculative-token-map.
_OF_A_MODEL = re.compile(r"(?i)token[_.-]\w")

# A password before the host, with or without a scheme; of an image, a digest stands there.
_IN_URL = re.compile(
    r"(?<=://)(?:[^\s/@:]{0,256}:\S{0,1024}|[^\s/@]{1,1024})@"
    r"|(?<![^\s\"'=(])[^\s/@:]{1,256}:[^\s/@]{1,1024}@(?!sha[0-9]+:)"
)
# A name and what stands between it and its value.
_PAIR = re.compile(r"(?<![\w.-])([\w.-]{1,128})\\{0,4}[\"']?\s{0,4}([=:])\s{0,4}(?=\S)")
_FLAG = re.compile(r"(?<!\S)(--?[\w.-]{1,128})()\s+(?=\S)")
_QUOTED = re.compile(r"\\{0,4}\"[^\"\n]*\"?|\\{0,4}'[^'\n]*'?")
_WORD, _LINE = re.compile(r"\S+"), re.compile(r"[^\n]*")
_EXPECTED = "expected "  # argparse of a flag without its value
_NOTHING = re.compile(r"(?:None|null|True|False|\"\"|'')(?![^\s,;)}\]])")
# Sentences, headers and queries of URLs, in which a secret stands under no name of its own.
_SPOKEN = re.compile(
    r"(?i)(\b(?:api|access|secret|private) key\b(?: \w{1,20}){0,3} {0,4}[:=] {0,4})[^\n]+"
)
_PEM = re.compile(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)[\s\S]+")
_BEARER = re.compile(
    r"(?i)(\bbearer\s{1,4}|\bauthorization\\{0,4}[\"']?\s{0,4}[:=]\s{0,4}\\{0,4}[\"']?basic\s{1,4})"
    r"[^\s\"',\\]+"
)
_SIGNED = re.compile(r"(?i)(?<=[?&])((?:x-(?:amz|goog)-)?(?:sig|signature|credential)=)[^\s&\"']+")
# Keys that are known by their form.
_FORM = re.compile(
    r"(?<![\w-])(?:hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|xox[abeoprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)


def is_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret."""
    return _SECRET_NAME.search(_HUMP.sub("_", name)) is not None


def without_passwords(text: str) -> str:
    """Text without the passwords of URLs."""
    if "@" not in text:
        return text  # without a look from each place in it
    return _IN_URL.sub(f"{HIDDEN}@", text)


def without_secrets(text: str) -> str:
    """A value that somebody wrote, without a URL's password, and cut at a secret's value."""
    text = without_passwords(text)
    for pattern in (_PAIR, _FLAG):
        for pair in pattern.finditer(text):
            if is_secret(pair[1]):
                text = text[: pair.end()] + HIDDEN
                break
    return text


@functools.lru_cache(maxsize=256)  # an abort is told of each engine
def in_words(text: str) -> str:
    """What a program said, with secrets hidden and the rest as it is."""
    text = _SPOKEN.sub(rf"\1{HIDDEN}", _known(text))
    return _hidden(_FLAG, _hidden(_PAIR, text))


def in_clusters_words(text: str) -> str:
    """The same of Kubernetes, which says the names of Secrets and of their keys before colons."""
    return _hidden(_FLAG, _hidden(_PAIR, _known(text), of_cluster=True))


def _known(text: str) -> str:
    text = _SIGNED.sub(rf"\1{HIDDEN}", _FORM.sub(HIDDEN, without_passwords(text)))
    return _PEM.sub(rf"\1{HIDDEN}", _BEARER.sub(rf"\1{HIDDEN}", text))


def _hidden(pattern: re.Pattern[str], text: str, *, of_cluster: bool = False) -> str:
    """With the values of secret names hidden; after a colon, the line may hold one anywhere."""
    parts, start = [], 0
    for pair in pattern.finditer(text):
        end = pair.end()
        if end < start or not is_secret(pair[1]) or _OF_A_MODEL.search(pair[1]):
            continue
        if pair[2] and "\n" in pair[0]:
            continue  # a prompt, and what was said next
        value = _QUOTED.match(text, end)
        is_name = of_cluster and pair[2] == ":" and value is None
        if is_name or text.startswith((HIDDEN, _EXPECTED), end) or _NOTHING.match(text, end):
            continue
        parts.append(text[start:end] + HIDDEN)
        value = value or (_LINE if pair[2] == ":" else _WORD).match(text, end)
        start = value.end() if value else end
    return "".join((*parts, text[start:]))
