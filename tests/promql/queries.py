"""Every query of the dashboards and alerts, as Prometheus is asked."""

from collections.abc import Iterator

import yaml

from generators.dashboards import FOLDER
from generators.dashboards.definitions import DASHBOARDS

NAMESPACE, POOL = "rl", "actor-infer"
_VARIABLES = {"$__rate_interval": "2m", "$namespace": NAMESPACE, "$pool": POOL}


def panels() -> list[tuple[str, str]]:
    """Dashboard and panel, and a query of it."""
    return [(f"{d.uid}: {panel}", query) for d in DASHBOARDS for panel, query in d.queries()]


def alerts() -> Iterator[tuple[str, str]]:
    """Alert and expression."""
    body = yaml.safe_load((FOLDER / "prometheus_rule.yaml").read_text())
    for group in body["spec"]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def filled(query: str) -> str:
    """A query with Grafana's variables filled in as it does."""
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    return query
