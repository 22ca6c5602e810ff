"""The sinks in plain Python types, for an SDK that imports nothing of ours: the entry point `v1` of the group `trackmate.direct`.

An SDK loads this module through that entry point, and with it every sink that is installed, be it ours or a third party's. What
stands here keeps its meaning: something else would be `v2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

import msgspec

from contract.errors import ConfigError, TrackMateError
from sinks import registry
from sinks.base import DeliveryReport, Sink, SinkBatch, SinkError, Throttled, describe

_DEFAULTS: Final[Mapping[str, Any]] = {"linger_seconds": 0, "own_process": False}
NOT_INSTALLED: Final = "type"
"""The place of a problem with the type itself."""


class Delivered(TypedDict):
    """What became of a batch: places in it count from 0; what is neither refused nor to be retried was delivered."""

    taken: bool
    """False: nothing of the batch was taken, and all of it may be tried again."""
    error: str | None
    """Why something was not taken."""
    alive: bool
    """Whether the system works and only asks for patience."""
    retry_after: float | None
    """Seconds that it asks for."""
    refused: list[tuple[int, str]]
    """Events that will never be taken, with the reason."""
    retry: list[int]
    """Events that were not taken now."""


class DirectSink:
    """One sink; the calls come from one event loop, in the order `deliver` (any number), `close`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._is_open = False
        self.max_events = sink.limits.max_events
        self.max_bytes = sink.limits.max_bytes
        """Bytes of NDJSON in one call, each event with its line feed."""
        self.max_concurrency = sink.limits.max_concurrency

    async def deliver(self, lines: Sequence[bytes], first_seq: int, log: str) -> Delivered:
        """Write events, each the JSON text of one, that have consecutive numbers from `first_seq` in the numbering `log`.

        The same numbers of the same log must always be the same events. Never raises for trouble with the system.
        """
        batch = SinkBatch(lines, first_seq=first_seq, last_seq=first_seq + len(lines) - 1, spool_id=log)
        try:
            if not self._is_open:
                await self._sink.open()
                self._is_open = True
            report = await self._sink.deliver(batch)
        except SinkError as error:
            return _failed(str(error), alive=isinstance(error, Throttled), retry_after=error.retry_after)
        except Exception as error:  # noqa: BLE001 - any exception of a sink means: retry all
            return _failed(describe(error))
        return _delivered(batch, report)

    async def close(self) -> None:
        """Let go of everything."""
        if self._is_open:
            self._is_open = False
            await self._sink.close()


def problems(kind: str, config: Mapping[str, Any], base: Path | None = None) -> list[tuple[str, str]]:
    """What is wrong with a backend: `type` or a place such as `config.bucket`, and a message. Relative paths are below `base`."""
    try:
        registry.parse_config(kind, config, base=base)
    except ConfigError as error:
        return [(f"config.{problem.path}".rstrip("."), problem.message) for problem in error.problems]
    except TrackMateError as error:
        return [(NOT_INSTALLED, str(error.__cause__ or error))]
    except Exception as error:  # noqa: BLE001 - what other packages do when they are imported is theirs
        return [(NOT_INSTALLED, describe(error))]
    return []


def make(kind: str, name: str, config: Mapping[str, Any], base: Path | None = None) -> DirectSink:
    """A sink, not yet open; making it does no I/O. Raises ConfigError or UnknownSink.

    A sink that can wait inside `deliver` for more events (`linger_seconds`) does so only when it is told to: the SDK gathers
    events by itself, and what is under way when a short program ends must not be a pause. Nor does one start processes, which
    are the program's own affair, unless it is told to.
    """
    fields = {field.encode_name for field in msgspec.structs.fields(registry.sink_class(kind).Config)}
    defaults = {name: value for name, value in _DEFAULTS.items() if name in fields}
    return DirectSink(registry.make_sink(kind, name, {**defaults, **config}, base=base))


def _failed(message: str, *, alive: bool = False, retry_after: float | None = None) -> Delivered:
    return {"taken": False, "error": message, "alive": alive, "retry_after": retry_after, "refused": [], "retry": []}


def _delivered(batch: SinkBatch, report: DeliveryReport) -> Delivered:
    """A report that accounts for every event once; another one can't be trusted, so all is to be tried again."""
    places = [item.index for item in report.refused] + report.retry
    if report.delivered + len(places) != batch.count or len(set(places)) != len(places):
        return _failed(
            f"the sink accounts for {report.delivered} delivered, {len(report.refused)} refused and {len(report.retry)} to retry "
            f"of {batch.count} events: that doesn't add up, so all are sent again"
        )
    return {
        "taken": True,
        "error": report.message if report.retry else None,
        "alive": True,
        "retry_after": report.retry_after,
        "refused": [(item.index, item.reason) for item in report.refused],
        "retry": list(report.retry),
    }
