"""Everything that Dagster knows of this project."""

import dagster as dg

from orchestration import checks, freshness, jobs, schedules, sensors
from orchestration.assets import bronze, gold, maintenance, silver
from orchestration.resources import Site

defs = dg.Definitions(
    assets=[*bronze.ASSETS, *silver.ASSETS, *gold.ASSETS, *maintenance.ASSETS],
    asset_checks=[*checks.CHECKS, *freshness.CHECKS],
    jobs=jobs.JOBS,
    sensors=sensors.SENSORS,
    schedules=schedules.SCHEDULES,
    resources={"site": Site(config_file=dg.EnvVar("TRACKMATE_CONFIG"))},
)
