"""What a rule over arguments is, and the conditions that many of them share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Settings = Mapping[str, object]
Condition = Callable[[Settings], bool]
EAGLE = ("EAGLE", "EAGLE3", "NEXTN")  # SGLang takes NEXTN for EAGLE
DRAFTING = (*EAGLE, "STANDALONE")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule over fields of ServerArgs."""

    reads: tuple[str, ...]  # the fields that it depends on, the one to tell of first
    broken: Condition
    expected: str
    advice: str


def rule(reads: str, broken: Condition, expected: str, advice: str) -> Rule:
    """A row of the table; the fields are words of one text."""
    return Rule(reads=tuple(reads.split()), broken=broken, expected=expected, advice=advice)


def is_on(s: Settings, *fields: str) -> bool:
    """Whether all of these flags are set."""
    return all(s[field] is True for field in fields)


def number(value: object) -> float | None:
    """A number, or nothing."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def size(s: Settings, field: str) -> int:
    """How many there are of something of which there is one without a word; 0: not to be told."""
    value = s[field]
    if value is None:
        return 1
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def below(field: str, least: float) -> Condition:
    """A number is too small."""

    def broken(s: Settings) -> bool:
        found = number(s[field])
        return found is not None and found < least

    return broken


def more(s: Settings, field: str, than: str) -> bool:
    """Whether both are numbers and the first is the larger."""
    one, other = number(s[field]), number(s[than])
    return one is not None and other is not None and one > other


def together(*fields: str) -> Condition:
    """Flags that exclude each other."""
    return lambda s: is_on(s, *fields)


def alone(field: str, *needed: str) -> Condition:
    """A flag without any of those that it needs."""
    return lambda s: is_on(s, field) and not any(s[other] for other in needed)


def spreads_attention(s: Settings) -> bool:
    """Whether data parallelism lies within tensor parallelism; one copy is none."""
    return is_on(s, "enable_dp_attention") and size(s, "dp_size") > 1


def speculates(*algorithms: str) -> Condition:
    """Speculative decoding with one of these algorithms, or with any."""
    return lambda s: (
        s["speculative_algorithm"] in algorithms
        if algorithms
        else s["speculative_algorithm"] is not None
    )


def attends_with(s: Settings, *backends: str, phases: str = "prefill decode") -> bool:
    """Whether attention is told to be one of these, for all or in one of these phases."""
    fields = ("attention_backend", *(f"{phase}_attention_backend" for phase in phases.split()))
    return any(s[field] in backends for field in fields)
