"""Dashboards and alerts by Prometheus' own engine, on scrapes of what ran."""
