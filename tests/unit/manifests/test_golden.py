"""The rendered engine pods are those of the files; ``python -m tests.golden`` writes them anew."""

import pytest
import yaml

from sglang_operator.api import names
from tests import golden

SAMPLES = sorted(golden.SAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_an_engine_is_rendered_as_ever(sample):
    """A change of the revision here restarts every such engine at the next upgrade."""
    assert golden.text(sample) == golden.path(sample).read_text()


def test_there_is_no_golden_file_without_a_sample():
    files = {path.name for path in golden.FOLDER.glob("*.yaml")}
    assert files == {path.name for path in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_version_runs_every_sample(sample):
    documents = list(yaml.safe_load_all(golden.path(sample).read_text()))
    assert tuple(document["version"] for document in documents) == golden.VERSIONS
    assert all(
        document["pod"]["metadata"]["labels"][names.LABEL_REVISION] for document in documents
    )
