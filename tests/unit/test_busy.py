"""Limits by the clock on a busy machine."""

import os

import pytest

from tests import busy


@pytest.mark.parametrize(("load", "limit"), [(0.0, 5), (2.0, 5), (3.0, 7.5), (20.0, 50)])
def test_a_limit_grows_with_the_processes_that_share_a_core(monkeypatch, load, limit):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert busy.late(5) == limit
