"""Helm 4 and Helm 3 without a cluster."""

import pytest

from tests.integration.chart.helm import Helm, programs


@pytest.fixture(scope="session")
def helms(tmp_path_factory):
    """Both programs, by name."""
    return {
        name: Helm(program, tmp_path_factory.mktemp(name)) for name, program in programs().items()
    }


@pytest.fixture(scope="session")
def helm(helms):
    """Helm 4, where both do the same."""
    return helms["helm4"]


@pytest.fixture(params=["helm4", "helm3"])
def either_helm(helms, request):
    """Each of them."""
    return helms[request.param]
