"""Named planes and the command line's refusals."""

import os

import pytest

from sglang_operator.testing import __main__ as command
from sglang_operator.testing import errors, named


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setenv("SGLANG_OPERATOR_CACHE", str(tmp_path))
    return os.environ


def test_a_plane_that_is_up_is_found_by_name(environ, tmp_path):
    with named.Slot("a", environ).held():
        named.Slot("a", environ).publish(tmp_path / "config")
        assert named.Slot("a", environ).kubeconfig() == tmp_path / "config"
        with pytest.raises(errors.KitError, match="'b' is up"):
            named.Slot("b", environ).kubeconfig()


def test_a_plane_that_has_gone_is_not_found_whatever_it_left(environ, tmp_path):
    slot = named.Slot("a", environ)
    slot.publish(tmp_path / "config")
    with pytest.raises(errors.KitError, match="no control plane named 'a' is up"):
        slot.kubeconfig()
    assert slot.end() is False


def test_a_plane_that_is_still_starting_has_no_kubeconfig(environ, tmp_path):
    named.Slot("a", environ).publish(tmp_path / "left by an earlier one")
    with named.Slot("a", environ).held(), pytest.raises(errors.KitError):
        named.Slot("a", environ).kubeconfig()


def test_a_second_plane_of_the_same_name_is_refused(environ):
    slot = named.Slot("a", environ)
    with slot.held(), pytest.raises(errors.KitError, match="is up already"), slot.held():
        pass
    with slot.held():
        pass  # free again


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "-a", "a" * 64])
def test_a_name_that_is_no_file_name_is_refused(environ, name):
    with pytest.raises(errors.KitError, match="--name"):
        named.Slot(name, environ)


def test_kubeconfig_of_a_plane_that_is_not_up_fails_on_standard_error(environ, capsys):
    assert command.main(["kubeconfig"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: no control plane named 'default' is up\n"


def test_down_of_a_plane_that_is_not_up_is_no_failure(environ, capsys):
    assert command.main(["down", "--name", "x"]) == 0
    assert "'x' is up" in capsys.readouterr().err


def test_run_wants_a_command(environ, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["run", "--nodes", "1x8"])
    assert caught.value.code == 2
    assert "CMD" in capsys.readouterr().err
