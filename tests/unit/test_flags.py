"""The operator's flags and the variables beside them, as settings."""

import pytest

from sglang_operator import __main__ as main
from sglang_operator.api import names


def lease_name(*flags: str) -> str:
    return main.settings_from(main._parser().parse_args(flags)).lease_name


def test_the_lease_has_the_name_that_is_given_by_flag_or_variable(monkeypatch):
    monkeypatch.delenv("LEASE_NAME", raising=False)
    assert lease_name() == names.LEASE_NAME
    monkeypatch.setenv("LEASE_NAME", "blue")
    assert lease_name() == "blue"
    assert lease_name("--lease-name=green") == "green"
    monkeypatch.setenv("LEASE_NAME", "")
    assert lease_name() == names.LEASE_NAME


@pytest.mark.parametrize(
    ("name", "as_variable"),
    [("", False), *((name, by) for name in ("Blue", "a/b", "-a", "a" * 254) for by in (0, 1))],
)
def test_a_name_that_no_lease_can_have_is_refused_in_words(name, as_variable, monkeypatch, capsys):
    monkeypatch.setenv("LEASE_NAME", name if as_variable else "")
    with pytest.raises(SystemExit):
        lease_name(*([] if as_variable else [f"--lease-name={name}"]))
    assert f"found {name!r}, expected a DNS name" in capsys.readouterr().err


def test_folders_that_engines_may_be_shown_are_named_one_by_one(capsys):
    parsed = main._parser().parse_args(["--host-folder=/mnt/models/", "--host-folder", "/data/a"])
    assert main.settings_from(parsed).host_folders == ("/mnt/models", "/data/a")
    for wrong in ("models", "/data/../etc", "/etc", "/"):
        with pytest.raises(SystemExit):
            main._parser().parse_args([f"--host-folder={wrong}"])
        assert f"found {wrong!r}, expected a folder for data" in capsys.readouterr().err


def test_gangs_with_objects_of_their_own_are_named_one_by_one(capsys):
    """For these the operator has to have the rights: nobody else makes or watches any."""
    parsed = main._parser().parse_args(["--gang=Volcano", "--gang", "Coscheduling"])
    assert main.settings_from(parsed).gangs == ("Volcano", "Coscheduling")
    assert main.settings_from(main._parser().parse_args([])).gangs == ()
    with pytest.raises(SystemExit):
        main._parser().parse_args(["--gang=Kueue"])
    assert "invalid choice: 'Kueue'" in capsys.readouterr().err


def test_resources_that_engines_may_ask_for_are_named_one_by_one(capsys):
    parsed = main._parser().parse_args(["--allow-resource=a.b/c", "--allow-resource", "d.e/f"])
    assert main.settings_from(parsed).allowed_resources == ("a.b/c", "d.e/f")
    with pytest.raises(SystemExit):
        main._parser().parse_args(["--allow-resource=cpu"])
    assert "found 'cpu', expected a resource that counts devices" in capsys.readouterr().err
