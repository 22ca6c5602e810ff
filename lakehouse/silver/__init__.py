"""Silver: every event once, and what follows from the events: metrics, runs and tool states, kept up with what arrives."""

from lakehouse.silver.events import refresh_events
from lakehouse.silver.metrics import refresh_metrics
from lakehouse.silver.runs import mark_lost, refresh_runs
from lakehouse.silver.step import Refreshed
from lakehouse.silver.tool_states import refresh_tool_states

__all__ = ["Refreshed", "mark_lost", "refresh_events", "refresh_metrics", "refresh_runs", "refresh_tool_states"]
