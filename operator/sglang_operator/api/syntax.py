"""What Kubernetes takes for a name, a label or an amount, as its API server has it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Context, Decimal
from typing import Any

from sglang_operator.api import errors

_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PATTERNS = {
    "label": re.compile(_LABEL, re.ASCII),
    "dns label": re.compile(_DNS, re.ASCII),
    "subdomain": re.compile(rf"{_DNS}(\.{_DNS})*", re.ASCII),
    "key": re.compile(r"[-._a-zA-Z0-9]+", re.ASCII),
    "variable": re.compile(r"[ -<>-~]+", re.ASCII),  # printable, and no "="
}
_QUANTITY = re.compile(
    r"[+]?([0-9]+(?:[.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?", re.ASCII
)
_LABEL_LENGTH = 63
_NAME_LENGTH = 253

LABEL_KEY = (
    'a label\'s key: at most 63 letters, digits, "-", "_" and ".", with a letter or digit at both '
    "ends, and before it at most a DNS name and a slash"
)
LABEL_VALUE = (
    'a label\'s value: empty, or at most 63 letters, digits, "-", "_" and ".", with a letter or '
    "digit at both ends"
)
DNS_LABEL = 'at most 63 small letters, digits and "-", with a letter or digit at both ends'
SUBDOMAIN = 'a DNS name: small letters, digits, "-" and ".", with a letter or digit at both ends'
CONFIG_KEY = 'a key: at most 253 letters, digits, "-", "_" and "."'
VARIABLE = 'the name of an environment variable: printable ASCII without "="'
QUANTITY = "a quantity such as 8, 500m or 64Gi"


def is_label_key(text: str) -> bool:
    """Whether it may be the key of a label; an annotation's is looked at in small letters."""
    prefix, slash, name = text.rpartition("/")
    return (not slash or is_subdomain(prefix)) and _is("label", name, _LABEL_LENGTH)


def is_label_value(text: str) -> bool:
    """Whether it may be the value of a label, or be compared with one."""
    return not text or _is("label", text, _LABEL_LENGTH)


def is_dns_label(text: str) -> bool:
    """Whether it may be the name of a volume or a namespace."""
    return _is("dns label", text, _LABEL_LENGTH)


def is_subdomain(text: str) -> bool:
    """Whether it may be the name of a Secret, a class, and most other objects."""
    return _is("subdomain", text, _NAME_LENGTH)


def is_config_key(text: str) -> bool:
    """Whether it may be a key in a ConfigMap or a Secret."""
    is_up = text in (".", "..") or text.startswith("..")
    return _is("key", text, _NAME_LENGTH) and not is_up


def is_variable(text: str) -> bool:
    """Whether it may be the name of an environment variable, by Kubernetes 1.30 and newer."""
    return _PATTERNS["variable"].fullmatch(text) is not None


def _is(pattern: str, text: str, most: int) -> bool:
    return len(text) <= most and _PATTERNS[pattern].fullmatch(text) is not None


_POWERS = {
    **{unit: Decimal(1000) ** power for power, unit in enumerate("num", -3)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
_MOST = Decimal(2**63 - 1)  # a larger amount counts as this one
_EXACT = Context(prec=60, Emax=10**9, Emin=-(10**9), traps=[])


def quantity(value: object) -> Decimal | None:
    """An amount of a resource; None if it is none, or is below zero."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = str(value) if isinstance(value, str) or is_number else ""
    found = _QUANTITY.fullmatch(text) if len(text) <= _NAME_LENGTH else None
    if found is None:
        return None
    digits, unit = found[1], found[2] or ""
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit[1:].lstrip("+-").isdecimal():
        exponent = max(-99, min(99, int(unit[1:])))
        return min(_MOST, _EXACT.multiply(Decimal(digits), Decimal(10) ** exponent))
    return min(_MOST, _EXACT.multiply(Decimal(digits), _POWERS.get(unit, Decimal(1))))


# --- how faults are told


def wrong(where: str, found: object, expected: str, advice: str = "correct it") -> errors.Problem:
    """A value that the API server, or the kubelet after it, would refuse."""
    return told(where, errors.quoted(where, found), expected, advice)


def told(where: str, found: str, expected: str, advice: str = "correct it") -> errors.Problem:
    """The same where what was found is said in our own words."""
    return errors.POD_FIELD(where, found=found, expected=expected, advice=advice)


def object_name(
    found: Mapping[str, Any], field: str, at: str, kind: str
) -> Iterator[errors.Problem]:
    """The name of another object, which the API server often takes as it is: without a check a pod
    would wait for what cannot exist."""
    name = found.get(field)
    if not name:
        yield missing(f"{at}.{field}", f"the name of {kind}")
    elif not is_subdomain(name):
        yield wrong(f"{at}.{field}", name, f"the name of {kind}, {SUBDOMAIN}")


def not_one_of(where: str, found: object, choices: Iterable[str]) -> errors.Problem:
    """A word that is none of those there are."""
    return mistyped(where, found, f"one of {', '.join(choices)}")


def mistyped(where: str, found: object, expected: str) -> errors.Problem:
    """A value where another type is expected, or one of a few words."""
    return told(where, errors.quoted(where, found, is_word=True), expected)


def missing(where: str, what: str) -> errors.Problem:
    """A field that has to be there; ``what`` comes after "write ": "the name of a claim"."""
    return errors.FIELD_MISSING(where, advice=f"write {what}")
