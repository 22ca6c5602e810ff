"""Sends what a program logs through the standard library as events of kind `log`."""

from __future__ import annotations

import logging

from monitoring_sdk import _state
from monitoring_sdk._exceptions import MonitoringError
from monitoring_sdk._limits import MAX_TEXT

_LONGEST_STACK = 32_000


class MonitoringHandler(logging.Handler):
    """A logging handler: `logging.getLogger().addHandler(MonitoringHandler())`.

    The logger's name becomes the event's `name`, the level its `severity`, the text its `message`; file, line, thread and an
    exception's traceback become attributes. Without `initialize` it does nothing. The SDK's own log is left out.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Report one record."""
        client = _state.client
        if client is None or record.name.partition(".")[0] == "monitoring_sdk":
            return
        try:
            attributes = {"file": record.pathname, "line": record.lineno, "thread": record.threadName}
            if record.exc_info:
                attributes["stack"] = logging.Formatter().formatException(record.exc_info)[-_LONGEST_STACK:]
            event = {
                "kind": "log",
                "name": (record.name or "root")[:MAX_TEXT],
                "severity": _severity(record.levelno),
                "message": record.getMessage(),
                "attributes": attributes,
            }
            client.emit(event, _state.active.get())
        except (MonitoringError, TypeError, ValueError):  # a record that can't be formatted, as in every handler
            self.handleError(record)


def _severity(level: int) -> str:
    if level >= logging.CRITICAL:
        return "critical"
    if level >= logging.ERROR:
        return "error"
    if level >= logging.WARNING:
        return "warning"
    return "info" if level >= logging.INFO else "debug"
