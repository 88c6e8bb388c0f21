"""What an engine's environment says of it, as its pod was made."""

from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.observed import wire
from sglang_operator.observed.moment import Moment
from tests.builders import a_pool

NAME = "SGLANG_VLM_CACHE_SIZE_MB"


def keeps_images(container: dict[str, Any]) -> bool:
    pod = {
        "metadata": {"name": "p", "namespace": "rl", "uid": "u", "resourceVersion": "1"},
        "spec": {"containers": [{"name": "sidecar", "env": [{"name": NAME}]}, container]},
    }
    return wire.observed_pod(msgspec.convert(pod, wire.Pod), Moment(0.0, 0.0)).keeps_images


@pytest.mark.parametrize("gate", ["Committed", "Off"])
def test_an_engine_as_it_is_rendered_forgets_them(gate):
    rendered = engine_pod.template(a_pool(weights={"gate": gate}))["spec"]["containers"][0]
    assert not keeps_images(rendered)


@pytest.mark.parametrize(
    "env",
    [
        [],
        [{"name": NAME, "value": "100"}],
        [{"name": NAME, "value": "0"}, {"name": NAME, "value": "512"}],
        [{"name": NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    ],
)
def test_one_without_the_variable_keeps_them(env):
    assert keeps_images({"name": names.ENGINE_CONTAINER, "env": env})
