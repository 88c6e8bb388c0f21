"""The choice of ports."""

import socket

import pytest

from sglang_operator.testing import errors, ports


def test_a_free_port_lies_below_those_of_outgoing_connections():
    assert ports.LOWEST <= ports.free() < ports.HIGHEST <= 32768


def test_a_port_that_is_listened_on_is_never_given(monkeypatch):
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setattr(ports, "LOWEST", number)
        monkeypatch.setattr(ports, "HIGHEST", number + 1)
        with pytest.raises(errors.PlaneError, match="no free port"):
            ports.free()
