"""The choice of ports."""

import multiprocessing
import socket
import subprocess
import sys

import pytest

from sglang_operator.testing import errors, ports

OWN = ports.HIGHEST + 100  # where no other test is given any


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


def _in_another_process(amount, low, high):
    code = (
        "from sglang_operator.testing import ports\n"
        f"ports.LOWEST, ports.HIGHEST = {low}, {high}\n"
        f"print(*(ports.free() for _ in range({amount})), flush=True)\n"
        "input()"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_only_looked_are_never_given_one_port():
    """Between a look and its server's bind others look: four workers, ten ports each of 45."""
    others = [_in_another_process(10, OWN, OWN + 45) for _ in range(4)]
    try:
        given = [int(each) for other in others for each in other.stdout.readline().split()]
    finally:
        for other in others:
            other.communicate("")
    assert len(given) == 40
    assert len(set(given)) == 40


def test_a_port_comes_back_when_its_process_has_ended(monkeypatch):
    with _in_another_process(1, OWN + 50, OWN + 51) as other:
        port = int(other.stdout.readline())
        monkeypatch.setattr(ports, "LOWEST", port)
        monkeypatch.setattr(ports, "HIGHEST", port + 1)
        with pytest.raises(errors.PlaneError, match="no free port"):
            ports.free()
        other.communicate("")
    assert ports.free() == port


def _free_into(queue):
    queue.put(ports.free())


def test_a_forked_child_is_not_given_its_parents_ports(monkeypatch):
    low = OWN + 60
    monkeypatch.setattr(ports, "LOWEST", low)
    monkeypatch.setattr(ports, "HIGHEST", low + 3)
    own = {ports.free(), ports.free()}
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    child = fork.Process(target=_free_into, args=(queue,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert own | {queue.get()} == {low, low + 1, low + 2}


def test_a_process_keeps_only_its_last_ports(monkeypatch):
    monkeypatch.setattr(ports, "LOWEST", OWN + 70)
    monkeypatch.setattr(ports, "HIGHEST", OWN + 74)
    monkeypatch.setattr(ports, "KEPT", 2)
    for _ in range(20):
        ports.free()
