"""Reading the times of a file: ISO 8601, seconds since 1970 or any strptime pattern, with or without a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROS = {"epoch": 1_000_000.0, "epoch_ms": 1_000.0, "epoch_us": 1.0, "epoch_ns": 0.001}

Ambiguous = Literal["reject", "earlier", "later"]


class TimeReader:
    """Turns text into a moment in UTC.

    `pattern`: `iso`, `epoch`, `epoch_ms`, `epoch_us`, `epoch_ns`, or a strptime pattern. `timezone` is what times without an
    offset mean; None refuses them. `ambiguous` says what to do with the hour that comes twice when summer time ends.
    """

    def __init__(self, pattern: str = "iso", timezone: str | None = None, ambiguous: Ambiguous = "reject") -> None:
        self._pattern = pattern
        self._zone = ZoneInfo(timezone) if timezone else None
        self._ambiguous = ambiguous
        self._micros = _MICROS.get(pattern)
        self._parse = datetime.fromisoformat if pattern == "iso" else self._strptime

    def read(self, text: str) -> datetime:
        """The moment; raises ValueError with a reason fit for the quarantine file."""
        text = text.strip()
        if not text:
            raise ValueError("the time is empty")
        if self._micros is not None:
            return self._since_1970(text, self._micros)
        try:
            moment = self._parse(text)
        except ValueError as error:
            expected = "ISO 8601" if self._pattern == "iso" else self._pattern
            raise ValueError(f"{text!r} is not a time in the format {expected}") from error
        if moment.tzinfo is None:
            moment = self._localise(moment, text)
        try:
            return moment.astimezone(UTC)
        except OverflowError as error:
            raise ValueError(f"{text!r} lies outside the years 1970 to 2099") from error

    def _strptime(self, text: str) -> datetime:
        return datetime.strptime(text, self._pattern)  # noqa: DTZ007 - the zone is dealt with by `read`

    def _since_1970(self, text: str, scale: float) -> datetime:
        try:
            # Whole numbers stay whole: a double would lose microseconds of today's epoch_ns.
            micros = round(int(text) * scale) if scale >= 1 else int(text) // 1000
        except ValueError:
            try:
                micros = round(float(text) * scale)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{text!r} is not a number of seconds since 1970 ({self._pattern})") from error
        try:
            return EPOCH + timedelta(microseconds=micros)
        except OverflowError as error:
            raise ValueError(f"{text!r} lies outside the years 1970 to 2099: is the format really {self._pattern}?") from error

    def _localise(self, moment: datetime, text: str) -> datetime:
        if self._zone is None:
            raise ValueError(f"{text!r} has no offset; set time.timezone in the mapping to say what it means")
        first, second = moment.replace(tzinfo=self._zone, fold=0), moment.replace(tzinfo=self._zone, fold=1)
        if first.utcoffset() == second.utcoffset():
            return first
        if first.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) != moment:
            raise ValueError(f"{text!r} does not exist in {self._zone.key}: clocks went forward over it")
        if self._ambiguous == "reject":
            raise ValueError(
                f"{text!r} comes twice in {self._zone.key}, when clocks go back; set time.ambiguous to earlier or later"
            )
        return first if self._ambiguous == "earlier" else second
