"""How often a step is tried again, and how long it waits."""

from typing import Final

import dagster as dg

SOURCE_RETRY: Final = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For steps that talk to another system."""

LAKE_RETRY: Final = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For steps that only read and write the lake: another writer may have been faster."""
