"""``python -m generators.dashboards``: write the dashboards anew."""

from generators.dashboards.definitions import DASHBOARDS

for dashboard in DASHBOARDS:
    dashboard.path.write_text(dashboard.text())
