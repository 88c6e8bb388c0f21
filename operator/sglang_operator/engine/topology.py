"""How the GPUs of one engine are divided (explanation/roll.md, rule 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

from sglang_operator.api import errors
from sglang_operator.engine import aliases


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """The parallel sizes of one engine, and what is wrong or unwise about them."""

    tp: int
    pp: int
    dp: int
    problems: tuple[errors.Problem, ...]


def parallelism(given: aliases.Given, gpus: int, nodes: int = 1) -> Parallelism:
    """The sizes that use exactly the engine's GPUs.

    tp x pp has to be the GPUs.  With ``dp_size`` alone each replica has GPUs of its own (SGLang
    ``managers/data_parallel_controller.py``), so it divides them too; with attention data
    parallelism the replicas lie within tp, and then there are no others (0.5.23:
    ``arg_groups/parallel_hook.py``).
    """
    problems: list[errors.Problem] = []
    gpus = max(1, gpus)  # fewer are refused where num_gpus_per_worker is judged
    pp = _size(given, "pp_size", problems) or 1
    dp = _size(given, "dp_size", problems) or 1
    attention = _size(given, "attn_dp_size", problems) or 1
    replicas = 1 if given.values.get("enable_dp_attention") is True or attention > 1 else dp
    if attention > 1 and dp > 1:
        problems.append(
            errors.PARALLELISM_ATTENTION(given.path("dp_size"), dp=dp, attention=attention)
        )
    problems += _divides(given, "pp_size", pp, gpus)
    if not problems:
        problems += _divides(given, "dp_size", replicas, gpus // pp)
    default = max(1, gpus // (pp * replicas))
    tp = _size(given, "tp_size", problems)
    if tp is not None and not problems:
        problems += _product(given, tp, pp, replicas, gpus)
    problems += _sync(given, pp, replicas, gpus)
    if nodes > 1 and replicas > 1:
        expected = f"1, or enable_dp_attention: true: this engine spans {nodes} nodes, and SGLang "
        expected += "runs its replicas on one"
        problems.append(aliases.wrong_value(given, "dp_size", expected, "leave it out"))
    return Parallelism(tp=tp or default, pp=pp, dp=dp, problems=tuple(problems))


def _size(given: aliases.Given, key: str, problems: list[errors.Problem]) -> int | None:
    """A size as written; one that is no positive whole number goes to ``problems``."""
    value = given.values.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 2.0 is what JSON may make of 2
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    problems.append(aliases.wrong_value(given, key, "a whole number of 1 or more", "correct it"))
    return None


def _divides(given: aliases.Given, key: str, size: int, gpus: int) -> Iterator[errors.Problem]:
    if gpus % size:
        divisors = [str(n) for n in range(1, gpus + 1) if gpus % n == 0]
        yield aliases.wrong_value(
            given, key, f"a divisor of the engine's {gpus} GPUs", f"use {aliases.either(divisors)}"
        )


def _product(
    given: aliases.Given, tp: int, pp: int, replicas: int, gpus: int
) -> Iterator[errors.Problem]:
    product = tp * pp * replicas
    advice = gpus // (pp * replicas)
    path = given.path("tp_size")
    if product == gpus:
        # ROLL would run the engine with all its GPUs, and reads only the other spelling.
        if given.spelling("tp_size").replace("-", "_") == "tp_size" and tp != gpus:
            yield errors.TP_SIZE_HONOURED(path, tp=tp)
    elif replicas > 1:
        yield errors.PARALLELISM_REPLICAS(
            path, tp=tp, pp=pp, dp=replicas, product=product, per_worker=gpus, advice=advice
        )
    else:
        yield errors.PARALLELISM(
            path, tp=tp, pp=pp, product=product, per_worker=gpus, advice=advice
        )


def _sync(given: aliases.Given, pp: int, replicas: int, gpus: int) -> Iterator[errors.Problem]:
    """A rank in a weight update group is rank_offset + tp_rank: nothing else counts."""
    if pp > 1:
        yield errors.PARALLEL_SYNC(
            given.path("pp_size"), key=given.spelling("pp_size"), found=pp, advice=f"tp_size {gpus}"
        )
    if replicas > 1:
        yield errors.PARALLEL_SYNC(
            given.path("dp_size"),
            key=given.spelling("dp_size"),
            found=replicas,
            advice="more engines with fewer GPUs each",
        )
