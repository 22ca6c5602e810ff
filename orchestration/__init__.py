"""Dagster: assets, sensors, schedules and checks."""

import warnings

from dagster import BetaWarning

# Backfill policies and pools are what the design stands on; Dagster marks some of their parameters as beta.
warnings.filterwarnings("ignore", category=BetaWarning)
