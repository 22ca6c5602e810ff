"""How tables are cut for backfills."""

import dagster as dg

FIRST_DAY = "2000-01-01"
"""Events dated before this day are in silver, but not in gold."""

daily = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, timezone="UTC", end_offset=1)
"""A partition a day, UTC, today's included."""
