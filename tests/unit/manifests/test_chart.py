"""The chart's files against what they are made from; nothing here needs Helm."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import sglang_operator
from generators.chart import generated, readme
from generators.chart.generated import CHART
from generators.checkout import MANIFESTS
from sglang_operator.scheduling import gangs

VALUES = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
FACTS = yaml.safe_load((CHART / "Chart.yaml").read_text())


# Kubernetes' own, taken as they are and described as a whole.
WHOLE = {("resources",), ("affinity",)}


def _values(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the values, as far down as the schema names them."""
    if path not in WHOLE and _schema(path).get("properties"):
        for key, value in found.items():
            yield from _values(value, (*path, key))
    else:
        yield path


def _schema(path: tuple[str, ...]) -> Any:
    found = SCHEMA
    for key in path:
        found = found["properties"][key]
    return found


PATHS = {".".join(path) for path in _values(yaml.safe_load(VALUES))}


@pytest.mark.parametrize("path", generated.files(), ids=lambda path: str(path.relative_to(CHART)))
def test_what_the_chart_takes_from_elsewhere_is_as_it_is_there(path):
    assert path.read_text() == generated.files()[path], "run `make chart`"


def test_no_generated_file_is_left_of_what_is_gone():
    assert set(generated.found()) == set(generated.files()), "run `make chart`"


def test_every_value_is_described():
    assert {value.path for value in readme.values(VALUES)} == PATHS


def test_the_schema_knows_exactly_the_values_there_are():
    def paths(found: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        if path in WHOLE or "properties" not in found:
            yield ".".join(path)
        else:
            for key, value in found["properties"].items():
                yield from paths(value, (*path, key))

    # "global" is Helm's own, for charts that have this one as a part.
    assert set(paths(SCHEMA)) - {"global"} == PATHS


def test_no_level_of_the_schema_takes_what_it_does_not_know():
    def levels(found: Any) -> Iterator[Any]:
        if isinstance(found, dict):
            if "properties" in found and isinstance(found["properties"], dict):
                yield found
            for value in found.values():
                yield from levels(value)

    assert all(level["additionalProperties"] is False for level in levels(SCHEMA))


def test_the_chart_is_of_the_operators_version():
    assert FACTS["version"] == FACTS["appVersion"] == sglang_operator.__version__
    kustomization = yaml.safe_load((MANIFESTS / "controller" / "kustomization.yaml").read_text())
    assert [image["newTag"] for image in kustomization["images"]] == [FACTS["appVersion"]]


def test_the_example_for_artifact_hub_is_a_pool():
    (example,) = yaml.safe_load(FACTS["annotations"]["artifacthub.io/crdsExamples"])
    assert example["kind"] == "SGLangInference"


def test_the_chart_takes_each_gang_scheduler_that_pools_may_have():
    taken = SCHEMA["properties"]["gangs"]["items"]["enum"]
    assert sorted(taken) == sorted(each.name for each in gangs.GROUPED)
