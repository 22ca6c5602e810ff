"""The active OpenTelemetry span, when the program uses OpenTelemetry; never a reason to import it."""

from __future__ import annotations

import sys
from typing import Any

_MODULE = "opentelemetry.trace"


def trace_ids() -> tuple[str, str] | None:
    """`trace_id` and `span_id` of the active span, in hexadecimal; None when there is none."""
    trace: Any = sys.modules.get(_MODULE)
    get_span = getattr(trace, "get_current_span", None)
    if get_span is None:
        return None
    span = get_span().get_span_context()
    return (f"{span.trace_id:032x}", f"{span.span_id:016x}") if span.is_valid else None
