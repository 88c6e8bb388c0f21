"""Any value at any key of a good file: nothing is lost, or an error says where; and soon."""

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_operator.cli.yaml_tree import scalars
from sglang_operator.pool.resolve import Pool, Refused, resolve_pool
from tests.builders import OWNER
from tests.unit.cli.runner import GUIDE, converted, pipeline, run, write

SOON = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MOST_SECONDS = 0.05  # of the processor's, for one object in the pure core
Path = tuple[str, ...]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["2", "true", "0.8", "None", "null", "", " ", "${x}", "${oc.env:A}", "1e3", "-1", "[0]"]
    ),
)
KEYS = st.sampled_from(["a", "strategy_name", "tpSize", "tp-size", "--tp-size", "", " ", "VLLM_X"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def _paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Every key below a map."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _changed(whole: dict[str, Any], path: Path, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(whole)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


PIPELINE = pipeline(system_envs={"A": "b"})
OF_WORKER = list(_paths(PIPELINE["actor_infer"], ("actor_infer",)))
OF_PIPELINE = [("pretrain",), ("seed",), ("num_gpus_per_node",), ("system_envs",)]
(BODY,) = converted(GUIDE)
SPEC = {**BODY["spec"], "image": "lmsysorg/sglang:v0.5.7", "rollout": {"maxUnavailable": 1}}


def _names(text: str, path: Path) -> bool:
    """Whether a finding says where it is: at the key, in it, or at what holds it."""
    return any(".".join(path[:end]) in text for end in range(len(path), 0, -1)) or (
        path[-1] in text
    )


@SOON
@given(st.sampled_from([*OF_WORKER, *OF_PIPELINE]), VALUES)
def test_a_pipeline_with_any_value_loses_nothing_or_names_its_place(tmp_path, path, value):
    result = run("convert", write(tmp_path, _changed(PIPELINE, path, value)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code == 2:
        lines = [line for line in result.stderr.splitlines() if " error: " in line]
        assert lines
        assert any(_names(line, path) or "model_args" in line for line in lines), (path, lines)
        return
    bodies = list(yaml.safe_load_all(result.stdout))
    if result.exit_code == 1:
        # A strategy that is none: the worker is no engine.
        assert not bodies
        assert path[:2] in (("actor_infer",), ("actor_infer", "strategy_args"))
        assert "no role" in result.stderr
        return
    (body,) = bodies
    kept: Any = body["spec"]
    inside = path[1:] if path[0] == "actor_infer" else path
    if inside in (("pretrain",), ("model_args",)) or value is None or value == {}:
        return  # it is the model, or stands for nothing
    for key in inside:
        kept = kept[key]
    said = result.stderr
    assert _same(kept, value) or (isinstance(value, dict) and isinstance(kept, dict)), (
        path,
        value,
        kept,
        said,
    )


def _same(one: object, other: object) -> bool:
    """Equal as JSON has them, or as ROLL's loader reads a text that PyYAML left unquoted."""
    other = scalars.plain(other) if isinstance(other, str) and one != other else other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True) or (
        isinstance(one, (int, float)) and one == other
    )


def _resolved_soon(spec: dict[str, Any]) -> Pool | Refused:
    """The plan; of three tries one is soon enough, whatever else the machine does."""
    spent = []
    for _ in range(3):
        before = time.process_time()
        resolved = resolve_pool(OWNER, spec)
        spent.append(time.process_time() - before)
        if spent[-1] < MOST_SECONDS:
            return resolved
    raise AssertionError(spent)


@SOON
@given(st.sampled_from([*_paths(SPEC)]), VALUES)
def test_an_object_with_any_value_is_taken_or_told_where_it_is_wrong(path, value):
    spec = _changed(SPEC, path, value)
    resolved = _resolved_soon(spec)
    if isinstance(resolved, Refused):
        assert all(problem.message for problem in resolved.errors)
        assert any(_names(problem.field, path) for problem in resolved.errors), (
            path,
            value,
            resolved.errors,
        )
        return
    assert isinstance(resolved, Pool)


@SOON
@given(st.sampled_from([*_paths(SPEC)]), VALUES)
def test_lint_says_where_an_object_is_wrong(tmp_path, path, value):
    body = {**BODY, "spec": _changed(SPEC, path, value)}
    result = run("lint", write(tmp_path, body, "pool.yaml"))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 2)
    lines = [line for line in result.stdout.splitlines() if " error: " in line]
    assert bool(lines) is (result.exit_code == 2)
    if lines:
        assert any(_names(line, path) for line in lines), (path, value, lines)


@SOON
@given(st.text(max_size=40) | KEYS, SCALARS, st.sampled_from(["spec", "config", "generating"]))
def test_any_name_is_known_or_told(name, value, where):
    spec = copy.deepcopy(SPEC)
    holder = {
        "spec": spec,
        "config": spec["strategy_args"]["strategy_config"],
        "generating": spec["generating_args"],
    }[where]
    holder.setdefault(name, value)
    resolved = _resolved_soon(spec)
    if where == "config" and value is not None and not isinstance(resolved, Pool):
        assert all(p.field.startswith("spec.") for p in resolved.errors)


@pytest.mark.parametrize("path", [*OF_WORKER], ids=".".join)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, [], {}, "", True, "2"])
def test_the_usual_slips_end_without_a_traceback(tmp_path, path, value):
    text = yaml.safe_dump(_changed(PIPELINE, path, value))
    result = run("convert", write(tmp_path, text))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
