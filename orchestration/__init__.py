"""Dagster: assets, sensors, schedules and checks."""
