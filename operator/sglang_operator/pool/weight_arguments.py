"""Arguments of engines that do not go together with weights that change while they run.

A commit vouches for what an engine answers.  With these SGLang may answer from a cache that the
weights of before have filled, or from nowhere, and says nothing of it: so a pool with a gate is
refused, and a trainer may not sync one without.  From the wheels of 0.4.6.post5 to 0.5.23.
"""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.engine import aliases, schema, versions

_OFF = frozenset(("", "none", "null", "false"))
_MOST_DIGITS = 100
_SHARED_WEIGHTS, _SAVER = "weight_cache_mode", "enable_memory_saver"
_UNGATED = "or set weights.gate: Off, where nobody changes the weights of running engines"


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """One argument, from which value on it is meant, and what is wrong with it."""

    key: str
    why: str
    advice: str = f"remove it, {_UNGATED}"
    is_meant: Callable[[str], bool] = lambda text: text.lower() not in _OFF
    holds: Callable[[versions.Features], bool] = lambda features: True


def _number(text: str) -> int:
    """What the engine's parser makes of it: also of +4 and 1_0.  0 if it is no number."""
    try:
        return int(text[:_MOST_DIGITS])
    except ValueError:
        return 0


def _above_one(text: str) -> bool:
    return _number(text) > 1


def _above_zero(text: str) -> bool:
    return _number(text) > 0


_OUTLIVES = (
    "what engines compute is kept there by the prompt alone, out of the reach of /flush_cache, so "
    "that weights of before a commit answer after it"
)
_RUNS_ON = (
    "a pause that takes requests off the GPU does not stop schedulers of this kind, which answer "
    "while weights are written"
)
_RULES = (
    *(
        _Rule(key=key, why=_OUTLIVES)
        for key in (
            "hicache_storage_backend",
            "enable_lmcache",
            "enable_flexkv",
            "radix_cache_backend",
            "enable_unified_cache_external_linker",
            "enable_mm_global_cache",
            "enable_prefix_mm_cache",
        )
    ),
    _Rule(
        key="tokenizer_worker_num",
        why="until 0.5.12 a pause reaches one of these processes and its end another, so that "
        "requests hang behind an open gate, or are answered while weights are written",
        advice=f"set it to 1, use a newer image, {_UNGATED}",
        is_meant=_above_one,
        holds=lambda features: not features.pause_reaches_tokenizers,
    ),
    _Rule(
        key="disaggregation_mode",
        why=_RUNS_ON,
        advice=f"use SGLang 0.5.12 or newer, {_UNGATED}",
        holds=lambda features: features.pause_modes and not features.pause_stops_disaggregated,
    ),
    _Rule(key="enable_pdmux", why=_RUNS_ON, holds=lambda features: features.pause_modes),
    _Rule(
        key="pp_size",
        why=_RUNS_ON,
        advice=f"use tp_size, {_UNGATED}",
        is_meant=_above_one,
        holds=lambda features: features.pause_modes,
    ),
    *(
        _Rule(
            key=key,
            why="/flush_cache answers what one of its ranks said, so that another may keep the "
            "cache of the weights of before a commit",
            advice=f"use more engines with fewer GPUs each, {_UNGATED}",
            is_meant=_above_one,
        )
        for key in ("dp_size", "attn_dp_size", "dwdp_size")
    ),
    _Rule(
        key="offload_group_size",
        why="the first pass after a commit computes with modules that were brought to the GPU "
        "before it, and other modes of offloading drop updates in silence",
        is_meant=_above_zero,
    ),
    _Rule(
        key="kt_weight_path",
        why="experts on the CPU are read from there, and no update reaches them",
    ),
    *(
        _Rule(
            key=key,
            why="after a fault of a GPU experts are read again from the engine's model, or from a "
            "copy of it that no update reaches, amid the weights of a commit",
        )
        for key in ("elastic_ep_backend", "enable_elastic_expert_backup")
    ),
    _Rule(
        key="enable_paged_experts",
        why="experts on the GPU would keep the weights of before, so that SGLang refuses updates",
    ),
    *(
        _Rule(
            key=key,
            why="captured kernels keep copies of the weights of before, so that SGLang refuses "
            "updates",
        )
        for key in ("enable_nvidia_megakernel", "enable_amd_monokernel", "monokernel_backend")
    ),
    _Rule(
        key=_SHARED_WEIGHTS,
        why="the weights are another process's, which others read too, so that SGLang's scheduler "
        "ends at an update, and as memory for weights is released",
        advice=f"set it to off, {_UNGATED}",
        is_meant=lambda text: text.lower() not in {*_OFF, "off"},
    ),
    _Rule(
        key="language_only",
        why="images are encoded by other servers, whose weights no update reaches",
    ),
)


def problems(
    argv: Sequence[str], known: schema.Schema, features: versions.Features
) -> Iterator[errors.Problem]:
    """What is wrong with a command line, in a pool whose gates wait for weights."""
    for rule, text in _broken(argv, known, features):
        yield errors.WEIGHT_ARGUMENT(
            f"{aliases.FIELD}.{rule.key}",
            key=rule.key,
            found=errors.shown(text),
            why=rule.why,
            advice=rule.advice,
        )


def of_sleepers(
    argv: Sequence[str], known: schema.Schema, features: versions.Features
) -> Iterator[errors.Problem]:
    """What is wrong with a command line, where nobody waits for weights, of engines that sleep."""
    saver = _given(argv, known).get(_SAVER, "")
    for rule, text in _broken(argv, known, features):
        if rule.key == _SHARED_WEIGHTS and saver.lower() not in _OFF:
            yield errors.WEIGHT_ARGUMENT(
                f"{aliases.FIELD}.{rule.key}",
                key=rule.key,
                found=errors.shown(text),
                why=rule.why,
                advice=f"set it to off, or remove {_SAVER}, without which none is released",
            )


def refusal(argv: Sequence[str], known: schema.Schema, features: versions.Features) -> str:
    """Why a trainer may not sync such engines, gate or not; empty if it may."""
    for rule, text in _broken(argv, known, features):
        return f"{rule.key} is {errors.shown(text)}: {rule.why}"
    return ""


def _broken(
    argv: Sequence[str], known: schema.Schema, features: versions.Features
) -> Iterator[tuple[_Rule, str]]:
    given = _given(argv, known)
    for rule in _RULES:
        text = given.get(rule.key)
        if text is not None and rule.is_meant(text) and rule.holds(features):
            yield rule, text


def _given(argv: Sequence[str], known: schema.Schema) -> Mapping[str, str]:
    """The value of each argument, as argparse would take it: the last of two wins."""
    found: dict[str, str] = {}
    key, flags = None, sorted(known.flags)
    for item in argv:
        if item.startswith("--"):
            name, _, value = item.partition("=")
            key = _key(name, known, flags)
            if key is not None:
                found[key] = value if "=" in item else "true"
        elif key is not None:
            found[key] = item
            key = None
    return found


def _key(flag: str, known: schema.Schema, flags: Sequence[str]) -> str | None:
    """Which argument a flag is, also by the beginning that argparse takes for it.

    ``flags``: all that there are, sorted, so that those which begin so stand side by side.
    """
    if flag in known.flags:
        return known.flags[flag].key
    begun: str | None = None
    for index in range(bisect.bisect_left(flags, flag), len(flags)):
        name = flags[index]
        if not name.startswith(flag):
            break
        key = known.flags[name].key
        if begun not in (None, key):
            begun = None
            break
        begun = key
    return begun or flag.removeprefix("--").replace("-", "_")
