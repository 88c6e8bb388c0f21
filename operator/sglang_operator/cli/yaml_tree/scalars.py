"""What an unquoted word means: YAML 1.1 as ROLL's loader reads it.

OmegaConf takes PyYAML's rules, but knows ``1e-6`` as a number and knows no dates.  kubectl agrees
on everything that occurs in a pool.  A test compares with OmegaConf.
"""

import re

from sglang_operator.cli.yaml_tree.nodes import Scalar

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"yes|Yes|YES|true|True|TRUE|on|On|ON")
_FALSE = re.compile(r"no|No|NO|false|False|FALSE|off|Off|OFF")
_INTEGER = re.compile(
    r"[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+"
    r"|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"
)
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"  # PyYAML
    r"|[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)"
    r"|\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_MOST_DIGITS = 400  # beyond any number; Python refuses to read very long ones

TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))


def plain(text: str) -> Scalar:
    """The value of a word without quotes."""
    if len(text) > _MOST_DIGITS:
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if not (text[0].isdecimal() or text[0] in "+-."):
        return text
    try:
        if _INTEGER.fullmatch(text):
            return _integer(text.replace("_", ""))
        return _float(text.replace("_", "").lower()) if _FLOAT.fullmatch(text) else text
    except ValueError:
        return text


def tagged(text: str, tag: str) -> Scalar:
    """The value of a word under one of ``TAGS``."""
    return text if tag.endswith(":str") else plain(text)


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.removeprefix("+"))
    if digits.startswith("0b"):
        return sign * int(digits[2:], 2)
    if digits.startswith("0x"):
        return sign * int(digits[2:], 16)
    if ":" in digits:
        return sign * int(_sixties(digits))
    return sign * int(digits, 8 if digits[0] == "0" and digits != "0" else 10)


def _float(text: str) -> float:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.removeprefix("+"))
    if ":" in digits:
        return sign * _sixties(digits)
    return sign * float(digits.removeprefix(".") if digits[1:] in ("inf", "nan") else digits)


def _sixties(digits: str) -> float:
    """1:30 is 90, to YAML 1.1."""
    total = 0.0
    for part in digits.split(":"):
        total = total * 60 + float(part)
    return total
