"""Every sample is a pool that the operator runs, and says what its file says it shows."""

from pathlib import Path

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.pool.resolve import Owner, Pool, resolve_pool

SAMPLES = sorted((Path(__file__).parents[3] / "manifests" / "samples").glob("*.yaml"))


def _pools():
    for path in SAMPLES:
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == names.KIND:
                yield pytest.param(document, id=f"{path.stem}/{document['metadata']['name']}")


@pytest.mark.parametrize("document", list(_pools()))
def test_the_operator_runs_every_sample(document):
    owner = Owner(
        name=document["metadata"]["name"], namespace="rl", uid=names.Uid("uid"), generation=1
    )
    assert isinstance(resolve_pool(owner, document["spec"]), Pool)


def test_the_guides_example_comes_to_twelve_engines():
    document = next(p for p in _pools() if p.id == "roll-guide/actor-infer").values[0]
    owner = Owner(name="actor-infer", namespace="rl", uid=names.Uid("uid"), generation=1)
    pool = resolve_pool(owner, document["spec"])
    assert isinstance(pool, Pool)
    assert [engine.devices for engine in pool.running] == [(2 * i, 2 * i + 1) for i in range(12)]
