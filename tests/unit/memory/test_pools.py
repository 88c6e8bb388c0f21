"""States, windows and requests against the code of the versions that can be run without torch."""

import pytest

from sglang_operator.engine import versions
from sglang_operator.memory import cache, engine, rules
from sglang_operator.memory.settings import Settings
from tests.unit.memory import wheel_code
from tests.unit.memory.shapes import known, request


@pytest.mark.parametrize("version", ("0.5.4.post2", "0.5.5.post3", "0.5.7", "0.5.9", "0.5.14"))
@pytest.mark.parametrize(
    "given",
    ({}, {"slots": 100}, {"radix": False, "requests": 64}),
    ids=("share", "given", "without the radix cache"),
)
def test_states_take_what_the_version_gives_them(version, given):
    shape, row = known("Qwen3-Next-80B-A3B-Instruct"), rules.of(versions.parse(version))
    settings = Settings(
        radix_cache=given.get("radix", True),
        max_running_requests=given.get("requests"),
        state_slots=given.get("slots"),
    )
    kept = cache.of(row, shape, settings, "auto")
    pools = cache.fit(row, kept, settings, 40 * 2**30, 1)
    slots, left = wheel_code.states(version, kept.state_bytes, 40.0, **given)
    assert pools.state_slots == slots
    assert pools.cache_gib == pytest.approx(left, abs=0.001)


@pytest.mark.parametrize("tokens", (5_000, 200_000, 5_000_000, 60_000_000))
@pytest.mark.parametrize("asked", (None, 64, 100_000))
def test_as_many_requests_run_as_the_version_lets(tokens, asked):
    given = request("Qwen3-8B", max_running_requests=asked, max_total_tokens=tokens)
    pools = cache.Pools(tokens=tokens, window_tokens=0, state_slots=0, state_gib=0, cache_gib=0)
    kept = engine.plan(given).cache
    ours = engine.requests_at_once(given.settings, pools, kept, 40960)
    assert ours == wheel_code.requests("0.5.14", tokens, 40960, asked=asked)


@pytest.mark.parametrize("page", (1, 64))
@pytest.mark.parametrize("version", ("0.5.14",))
def test_full_and_window_layers_get_what_the_version_gives_them(version, page):
    row = rules.of(versions.parse(version))
    settings = Settings(page_size=page)
    kept = cache.of(row, known("gpt-oss-20b"), settings, "auto")
    pools = cache.fit(row, kept, settings, 30 * 2**30, page)
    assert (pools.tokens, pools.window_tokens) == wheel_code.window_pools(
        version, 8, 12, 12, 30, page
    )
