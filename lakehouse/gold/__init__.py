"""Gold: answers, computed anew for whole days from silver, so that the same day always gives the same rows."""

from lakehouse.gold.days import Dirty, dirty_dates
from lakehouse.gold.error_pareto import refresh_error_pareto
from lakehouse.gold.run_hourly import refresh_run_hourly
from lakehouse.gold.tool_state import refresh_tool_state

__all__ = ["Dirty", "dirty_dates", "refresh_error_pareto", "refresh_run_hourly", "refresh_tool_state"]
