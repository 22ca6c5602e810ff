"""Log lines as JSON objects on stderr, one a line."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Any

import msgspec


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object; what was passed as `extra={"fields": {...}}` joins it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`, without line end."""
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(level: int = logging.INFO) -> None:
    """Send every logger's lines to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "alembic", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
