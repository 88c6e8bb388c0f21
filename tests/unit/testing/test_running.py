"""How a control plane is waited for."""

from typing import cast

import pytest

from sglang_operator.testing import errors, running
from sglang_operator.testing.running import Running


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(running, "time", clock)
    return clock


class Up:
    """A plane of which nothing dies."""

    def check(self) -> None:
        pass


def wait(looks: list[float], clock: Clock, until: float, timeout: float = 60.0) -> None:
    def look() -> bool:
        looks.append(clock.now)
        return clock.now >= until

    Running.wait(cast(Running, Up()), look, timeout, "it")


def test_what_happens_soon_is_seen_at_once(clock):
    looks: list[float] = []
    wait(looks, clock, until=0.4)
    assert looks[-1] <= 0.4 + running.POLL_SECONDS + 0.001


def test_a_long_wait_looks_rarely_and_is_hardly_longer_for_it(clock):
    """Each look is some requests: twenty a second are what the API server is busy with then."""
    looks: list[float] = []
    wait(looks, clock, until=20.0)
    assert len(looks) <= 6 * 20
    assert looks[-1] <= 20.0 + running.MOST_POLL_SECONDS


def test_a_wait_ends_at_its_limit(clock):
    looks: list[float] = []
    with pytest.raises(errors.WaitTimeoutError, match="waited 3 s for it; the last answer was"):
        wait(looks, clock, until=99.0, timeout=3.0)
    assert 3.0 <= clock.now <= 3.0 + running.MOST_POLL_SECONDS
