"""`trackmate trace`: every place where one event is, this machine's spool included."""

from __future__ import annotations
