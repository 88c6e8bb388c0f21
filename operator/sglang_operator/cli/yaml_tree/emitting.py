"""Nodes as YAML in block style, each value with a comment on where it came from."""

from collections.abc import Callable, Iterator

from sglang_operator.cli.yaml_tree import scalars
from sglang_operator.cli.yaml_tree.nodes import Key, Scalar, YamlNode

Comment = Callable[[YamlNode], str]

_INDENT = "  "
_PLAIN_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_.$")
_PLAIN_REST = _PLAIN_START | frozenset("-+@=()")
_IN_LIST = frozenset(",:[]{}")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def lines(node: YamlNode, comment: Comment) -> Iterator[str]:
    """A mapping, line by line."""
    yield from _mapping(node, comment, "")


def _mapping(node: YamlNode, comment: Comment, indent: str) -> Iterator[str]:
    for key, child in node.mapping.items():
        yield from _entry(f"{indent}{_key(key)}:", child, comment, indent)


def _entry(head: str, node: YamlNode, comment: Comment, indent: str) -> Iterator[str]:
    flow = _flow(node)
    if flow is not None:
        yield _commented(f"{head} {flow}", comment(node))
    elif isinstance(node.value, dict):
        yield head
        yield from _mapping(node, comment, indent + _INDENT)
    else:
        yield head
        for item in node.items:
            yield from _list_item(item, comment, indent)


def _list_item(node: YamlNode, comment: Comment, indent: str) -> Iterator[str]:
    """One item behind its dash; nested values begin on the dash's line."""
    flow = _flow(node)
    if flow is not None:
        yield _commented(f"{indent}- {flow}", comment(node))
        return
    inner = indent + _INDENT
    if isinstance(node.value, dict):
        written = [*_mapping(node, comment, inner)]
    else:
        written = [line for item in node.items for line in _list_item(item, comment, inner)]
    yield f"{indent}- {written[0].removeprefix(inner)}"
    yield from written[1:]


def _flow(node: YamlNode) -> str | None:
    """A value on one line; None for what takes several."""
    if isinstance(node.value, dict):
        return None if node.value else "{}"
    if isinstance(node.value, list):
        simple = [_in_list(item.value) for item in node.value if not _nested(item)]
        if len(simple) < len(node.value):
            return None
        text = f"[{', '.join(simple)}]"
        return text if len(text) <= 60 or not simple else None
    return _scalar(node.value)


def _nested(node: YamlNode) -> bool:
    return isinstance(node.value, (dict, list))


def _commented(line: str, text: str) -> str:
    return f"{line}  # {text}" if text else line


def _key(key: Key) -> str:
    return _scalar(key)


def _scalar(value: object) -> str:
    """A scalar so that every YAML 1.1 and 1.2 reader gives it back."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return _float(value)
    return _text(str(value))


def _in_list(value: object) -> str:
    """A scalar between the brackets of a list, where commas, colons and brackets say something."""
    if isinstance(value, str) and not _IN_LIST.isdisjoint(value):
        return _quoted(value)
    return _scalar(value)


def _float(value: float) -> str:
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")  # YAML 1.1 knows no number like 1e-06
    return text


def _text(text: str) -> str:
    plain = (
        text[:1] in _PLAIN_START
        and text[:1] != ""
        and all(char in _PLAIN_REST or char in " ,[]:" for char in text)
        and not any(bad in text for bad in (": ", " #", "[ ", "  "))
        and text[-1] not in " :"
        and _reads_as_text(text)
    )
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    return f'"{"".join(map(_escaped, text))}"'


def _reads_as_text(text: str) -> bool:
    """Whether no reader takes the word for a number, a date, true, false or null."""
    value: Scalar = scalars.plain(text)
    looks = text.lower() in ("y", "n") or text[0].isdecimal() or text[0] in ".="
    return isinstance(value, str) and not looks


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    code = ord(char)
    if char.isprintable() and code != 0xFEFF:
        return char
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
