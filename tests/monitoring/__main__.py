"""``python -m tests.monitoring``: write the dashboards anew."""

from tests.monitoring.dashboards import DASHBOARDS

for dashboard in DASHBOARDS:
    dashboard.path.write_text(dashboard.text())
