"""The engine pod of every sample on several SGLang versions, as it has always been rendered.

A pod that changes here is a pod that is replaced at every user's next upgrade of the operator,
if its revision changes with it.  ``python -m tests.golden`` writes the files anew.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.pool.resolve import Owner, Pool, resolve_pool

FOLDER = Path(__file__).parent
SAMPLES = FOLDER.parents[1] / "manifests" / "samples"
# One without weight versions, ROLL's pinned one, the default, and the newest at the time.
VERSIONS = ("0.4.10.post2", "0.5.2", "0.5.7", "0.5.23")


def rendered(sample: Path) -> Iterator[dict[str, Any]]:
    """For each pool of a sample and each version its first engine's pod, or what is wrong."""
    for document in yaml.safe_load_all(sample.read_text()):
        if document["kind"] == names.KIND:
            for version in VERSIONS:
                yield {"version": version, **_first_pod(document, version)}


def _first_pod(document: dict[str, Any], version: str) -> dict[str, Any]:
    spec = dict(document["spec"])
    if "engineVersion" in spec:
        spec["engineVersion"] = version
    else:
        spec["image"] = f"lmsysorg/sglang:v{version}"
    name = document["metadata"]["name"]
    owner = Owner(name=name, namespace="rl", uid=names.Uid("uid"), generation=1)
    pool = resolve_pool(owner, spec)
    if not isinstance(pool, Pool):
        return {"errors": [str(problem) for problem in pool.errors]}
    pod = engine_pod.pod(pool, engine_pod.template(pool), pool.engines[0], 0, 0)
    return {"pod": json.loads(json.dumps(pod))}


def text(sample: Path) -> str:
    """A sample's golden file."""
    return yaml.safe_dump_all(rendered(sample), sort_keys=True, width=1000, allow_unicode=True)


def path(sample: Path) -> Path:
    """Where a sample's golden file is."""
    return FOLDER / sample.name
