"""The many spellings of one argument (explanation/roll.md, rule 1).

``strategy_config`` takes names of ServerArgs fields; people also write the names of flags and,
in ROLL files, the long names of the parallel sizes.
"""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sglang_operator.api import errors, spelling
from sglang_operator.engine import habits
from sglang_operator.engine.schema import Schema

FIELD = "spec.strategy_args.strategy_config"

# Other spellings of a field.  The long parallel sizes are ROLL's and the first flags of SGLang up
# to 0.5.9; the rest are flags with two names.
ALIASES = {
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size",
    "expert_parallel_size": "ep_size",
    "ep": "ep_size",
    "attention_context_parallel_size": "attn_cp_size",
    "moe_data_parallel_size": "moe_dp_size",
    "model": "model_path",
    "nccl_init_addr": "dist_init_addr",
    "speculative_draft_model": "speculative_draft_model_path",
    "fp8_gemm_backend": "fp8_gemm_runner_backend",
    "fp4_gemm_backend": "fp4_gemm_runner_backend",
    "elastic_ep_join_mode": "ep_join_mode",
    "elastic_ep_join_rank_offset": "ep_join_rank_offset",
}
# The names of sizes that ROLL itself reads.
_OF_ROLL = frozenset({"tensor_parallel_size", "pipeline_parallel_size"})
# Fields whose flag is not their name; the same in every version that has them.
_FLAGS = {
    "fp8_gemm_runner_backend": "--fp8-gemm-backend",
    "fp4_gemm_runner_backend": "--fp4-gemm-backend",
    "ep_join_mode": "--elastic-ep-join-mode",
    "ep_join_rank_offset": "--elastic-ep-join-rank-offset",
}
_LONGEST_NAME = 80  # comparing words takes time with the square of their length
EXPECTED_KEY = "the name of an SGLang ServerArgs field, for example mem_fraction_static"
_SECRET = re.compile(r"(^|_)(api_key|password|secret|watermark_config)$")
_NUMBER = re.compile(r"[-+]?[0-9]{1,20}(\.[0-9]{0,20})?", re.ASCII)
_KEY = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(kw_only=True)
class Given:
    """The arguments still to be rendered, by the name of their field.

    The rules of ``arguments`` take out what they answer for and put in what they decide.
    """

    values: dict[str, object] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)  # field -> as the user wrote it
    meant: set[str] = field(default_factory=set)  # fields that names which are refused stand for

    def spelling(self, key: str) -> str:
        """An argument's name in the user's spelling, for messages."""
        return self.spelled.get(key, key)

    def path(self, key: str) -> str:
        """Where in the object the user wrote the argument."""
        return f"{FIELD}.{self.spelling(key)}"


def canonical(name: str, schema: Schema | None = None) -> str:
    """The field behind a spelling: as the version has it, else of two names the short one."""
    underscored = name.replace("-", "_")
    known = schema.key(underscored) if schema else None
    return known or ALIASES.get(underscored, underscored)


def flag(key: str) -> str:
    """The flag of a field that no schema knows."""
    return _FLAGS.get(key, "--" + key.replace("_", "-"))


def normalise(config: Mapping[str, object], schema: Schema) -> tuple[Given, list[errors.Problem]]:
    """A ``strategy_config`` under canonical names; null counts as absent, as in ROLL."""
    given, problems = Given(), list[errors.Problem]()
    named = [(canonical(n, schema) if isinstance(n, str) else "", n) for n in config]
    # A field's own name before its other spellings: what is said does not hang on the order in
    # which a file, or the API server, has the keys.
    for key, name in sorted(named, key=lambda pair: (pair[0], pair[0] != pair[1], str(pair[1]))):
        value = config[name]
        if value is None:
            continue
        if not _KEY.fullmatch(key):
            problems.append(_impossible(given, name, schema))
        elif key not in given.values:
            given.values[key], given.spelled[key] = value, name
        elif not same(given.values[key], value):
            problems.append(conflict(given, key, name, value))
    return given, problems


def _impossible(given: Given, name: object, schema: Schema) -> errors.Problem:
    """What a name is that no argument can have."""
    shown_name = errors.shown(name)
    if not isinstance(name, str):
        return errors.ARGUMENT_KEY(FIELD, key=shown_name, expected=EXPECTED_KEY)
    is_short = 0 < len(name) <= _LONGEST_NAME and name.isprintable()
    path = f"{FIELD}.{name}" if is_short else FIELD
    if key := _by_letters(schema).get(spelling.bare(name)):
        given.meant.add(key)
        return errors.ARGUMENT_KEY(path, key=shown_name, expected=f"{key}; write it so")
    if habits.is_variable(name):
        advice = habits.OF_VLLM if habits.is_vllm_variable(name) else habits.OF_OTHERS
        return errors.ARGUMENT_ENVIRONMENT(FIELD, key=shown_name, advice=advice)
    for spelled in habits.spellings(name[:_LONGEST_NAME]):
        if advice_ := habits.advice(spelled, schema):
            given.meant.update(filter(None, (habits.meant(spelled),)))
            version = schema.version
            return errors.ARGUMENT_UNKNOWN(path, key=shown_name, version=version, advice=advice_)
    return errors.ARGUMENT_KEY(FIELD, key=shown_name, expected=EXPECTED_KEY)


@functools.lru_cache(maxsize=32)
def _by_letters(schema: Schema) -> Mapping[str, str]:
    """The arguments of a version by the letters that all spellings of a name share."""
    return {spelling.bare(name): key for name, key in schema.keys.items()}


def respelt(given: Given) -> Iterator[errors.Problem]:
    """What is said of names with dashes, which are understood all the same."""
    for key, name in given.spelled.items():
        if "-" in name and key in given.values:
            underscored = name.replace("-", "_")
            right = underscored if underscored in _OF_ROLL else key
            yield errors.ARGUMENT_SPELLING(given.path(key), key=name, name=right)


def same(one: object, other: object) -> bool:
    """Equal, and not only to Python, for which True is 1."""
    return isinstance(one, bool) is isinstance(other, bool) and one == other


def conflict(given: Given, key: str, name: str, value: object) -> errors.Problem:
    """Two spellings with different values: that of ``key``, and ``name`` with ``value``."""
    return errors.ARGUMENT_CONFLICT(
        f"{FIELD}.{name}",
        first=given.spelling(key),
        first_value=shown(key, given.values[key]),
        second=name,
        second_value=shown(key, value),
    )


def correction(value: object, advice: str) -> str:
    """What to do about a value that should have been a number: take its quotes off, if it is."""
    is_quoted = isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None
    return "write it without quotes" if is_quoted else advice


def wrong_value(given: Given, key: str, expected: str, advice: str) -> errors.Problem:
    """What is said of an argument whose value is none that it can have."""
    return errors.ARGUMENT_VALUE(
        given.path(key),
        key=given.spelling(key),
        found=errors.typed(given.values[key]),
        expected=expected,
        advice=correction(given.values[key], advice),
    )


def shown(key: str, value: object, *, is_word: bool = False) -> str:
    """A value as messages quote it; one that may be a secret is not repeated.

    ``is_word``: a number, or one of a few words, is expected there.
    """
    if _SECRET.search(key):
        return "a value"
    return errors.word(value) if is_word else errors.typed(value)


def either(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def close(word: str, candidates: Sequence[str]) -> list[str]:
    """The candidates that look most like a word, the likeliest first."""
    return difflib.get_close_matches(word[:_LONGEST_NAME], candidates, n=3, cutoff=0.6)
