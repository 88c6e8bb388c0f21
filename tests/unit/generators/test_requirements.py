"""The image installs what the constraints name, and nothing whose hash is not known."""

import re
import tomllib

from generators import requirements
from generators.checkout import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = requirements.pins(requirements.CONSTRAINTS.read_text())
RUNTIME = requirements.RUNTIME.read_text()
BUILD = requirements.BUILD.read_text()


def named(lines):
    return {requirements.canonical(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines}


def test_what_the_image_installs_is_what_the_constraints_name():
    found = requirements.pins(RUNTIME) | requirements.pins(BUILD)
    assert found == {name: CONSTRAINTS[name] for name in found}


def test_every_dependency_is_there_with_hashes():
    assert named(PROJECT["project"]["dependencies"]) <= requirements.pins(RUNTIME).keys()
    assert named(PROJECT["build-system"]["requires"]) <= requirements.pins(BUILD).keys()
    for text in (RUNTIME, BUILD):
        assert requirements.hashes(text).keys() == requirements.pins(text).keys()
        assert all(requirements.hashes(text).values())


def test_the_files_name_no_host():
    assert "://" not in RUNTIME + BUILD
