"""Dashboards as data: a few lines for each panel, and the JSON that Grafana reads.

``python -m generators.dashboards`` writes ``manifests/monitoring/*.json`` anew.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generators.checkout import MANIFESTS

FOLDER = MANIFESTS / "monitoring"
WIDTH = 24  # Grafana's columns
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.  ``queries``: expression by legend."""

    title: str
    queries: dict[str, str]
    kind: str = "timeseries"  # stat, timeseries, table
    unit: str = "short"
    width: int = 8
    height: int = 7
    about: str = ""
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    uid: str
    title: str
    variables: dict[str, str]  # query by name
    sections: Sequence[Section]
    links: dict[str, str]  # uid by title

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.uid}.json"

    def text(self) -> str:
        return json.dumps(self._document(), indent=1, ensure_ascii=False) + "\n"

    def queries(self) -> Iterator[tuple[str, str]]:
        """Panel and expression."""
        for section in self.sections:
            for panel in section.panels:
                for query in panel.queries.values():
                    yield panel.title, query

    def _document(self) -> dict[str, Any]:
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["sglang-operator"],
            "schemaVersion": 41,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "links": [
                {
                    "type": "link",
                    "title": title,
                    "url": f"/d/{uid}",
                    "keepTime": True,
                    "includeVars": True,
                }
                for title, uid in self.links.items()
            ],
            "templating": {"list": [_datasource(), *self._variables()]},
            "panels": list(self._panels()),
        }

    def _variables(self) -> Iterator[dict[str, Any]]:
        for name, query in self.variables.items():
            several = name == "namespace"
            yield {
                "name": name,
                "type": "query",
                "datasource": SOURCE,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": several,
                "includeAll": several,
                **(
                    {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}
                    if several
                    else {}
                ),
            }

    def _panels(self) -> Iterator[dict[str, Any]]:
        number, y = 0, 0
        for section in self.sections:
            number += 1
            yield {
                "id": number,
                "type": "row",
                "title": section.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                "panels": [],
            }
            x, y, tallest = 0, y + 1, 0
            for panel in section.panels:
                number += 1
                if x + panel.width > WIDTH:
                    x, y, tallest = 0, y + tallest, 0
                place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
                yield _panel(number, panel, place)
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 12, "showPoints": "never"}
        if panel.stacked:
            custom |= {"stacking": {"mode": "normal"}, "fillOpacity": 60}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": _options(panel.kind),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind == "table",
                "range": panel.kind != "table",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "timeseries":
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    return {"showHeader": True}
