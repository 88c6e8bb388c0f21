"""Releases under a running pool by Helm 3; by Helm 4 in ``tests/integration/chart``."""

from sglang_operator.testing import extratools
from tests.integration.chart.helm import Helm
from tests.integration.chart.test_releases import live_through_releases, plane_for_releases


def test_an_upgrade_a_rollback_and_a_removal_leave_every_engine_alone(tmp_path):
    with plane_for_releases() as plane:
        helm = Helm(extratools.helm3(), tmp_path, {"KUBECONFIG": str(plane.kubeconfig)})
        live_through_releases(plane, helm, tmp_path)
