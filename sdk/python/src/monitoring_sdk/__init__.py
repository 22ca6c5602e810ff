"""Report what a program does, without ever feeling it.

import monitoring_sdk as monitoring

monitoring.initialize(app={"name": "etcher", "site_id": "fab1"})
with monitoring.monitored_context("etch", {"lot": "L1", "tool": "E7"}) as run:
    run.metric("temperature", 21.5)
"""

from monitoring_sdk._api import close, emit_batch, emit_event, flush, initialize, stats
from monitoring_sdk._context import MonitoredContext, carry, current_run, monitored_context
from monitoring_sdk._counts import Stats
from monitoring_sdk._exceptions import (
    ConfigurationError,
    InvalidEventError,
    MonitoringError,
    NotInitializedError,
    Problem,
)
from monitoring_sdk._logging import MonitoringHandler
from monitoring_sdk._results import BackendResult, EmitResult, FlushResult
from monitoring_sdk._router import BackendRouter
from monitoring_sdk._runs import Run
from monitoring_sdk._transport import Answer, Outcome, Rejection, Transport

__all__ = [
    "Answer",
    "BackendResult",
    "BackendRouter",
    "ConfigurationError",
    "EmitResult",
    "FlushResult",
    "InvalidEventError",
    "MonitoredContext",
    "MonitoringError",
    "MonitoringHandler",
    "NotInitializedError",
    "Outcome",
    "Problem",
    "Rejection",
    "Run",
    "Stats",
    "Transport",
    "carry",
    "close",
    "current_run",
    "emit_batch",
    "emit_event",
    "flush",
    "initialize",
    "monitored_context",
    "stats",
]
