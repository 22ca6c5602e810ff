"""The mapping file: which column of a file becomes which field of an event.

A row becomes one event (`event:`) or, when it tells an interval, a run with a start and a finish (`run:`). Ids are made from the
row's key and time alone, so that loading a file twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
import yaml

from contract.errors import ConfigError, Problem, TrackMateError
from contract.ids import stable_id
from contract.settings import check
from trackmate.ingest.mapping_schema import MAPPING_SCHEMA
from trackmate.ingest.rows import guess_delimiter
from trackmate.ingest.templates import Column, Field, Resolve, Row, columns_of, compile_field, compile_template
from trackmate.ingest.times import EPOCH, Ambiguous, TimeReader

_NUMBERS = frozenset({"progress", "duration_ms"})


@dataclass(frozen=True)
class Mapping:
    """A checked mapping file; `digest` changes whenever what it says does."""

    source: str
    spec: dict[str, Any]
    digest: str

    @property
    def row_format(self) -> str | None:
        """`csv`, `ndjson`, or None when the file's name shall tell."""
        return cast("str | None", self.spec.get("format"))

    @property
    def csv(self) -> dict[str, Any]:
        """`delimiter`, `encoding`, `header` of CSV files."""
        return cast("dict[str, Any]", self.spec.get("csv", {}))


def load_mapping(path: Path, overrides: dict[str, str | None] | None = None) -> Mapping:
    """Read a mapping file; raises ConfigError with every mistake in it.

    `overrides` may name `site_id` and `app`, which then win over the file.
    """
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrackMateError(f"can't read the mapping {path}: {error.strerror}. Check the name after --mapping") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrackMateError(f"the mapping {path} is not YAML: {error}") from error
    if not isinstance(spec, dict):
        raise ConfigError(str(path), [Problem("", "expected a mapping with event or run in it")])
    return check_mapping(str(path), spec, overrides)


def check_mapping(source: str, spec: dict[str, Any], overrides: dict[str, str | None] | None = None) -> Mapping:
    """The same for a mapping that is in memory; `source` stands in error messages."""
    given = overrides or {}
    if given.get("site_id"):
        spec = {**spec, "site_id": given["site_id"]}
    if given.get("app") and isinstance(spec.get("app", {}), dict | None):
        spec = {**spec, "app": {**(spec.get("app") or {}), "name": given["app"]}}
    problems = check(MAPPING_SCHEMA, spec)
    zone = spec.get("time", {}).get("timezone") if isinstance(spec.get("time"), dict) else None
    if isinstance(zone, str):
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            problems.append(Problem("time.timezone", f"no time zone is called {zone!r}; names look like Europe/Amsterdam"))
    if problems:
        raise ConfigError(source, problems)
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()
    return Mapping(source, spec, digest)


class RowMapper:
    """A mapping made ready for one file: `events(number, row)` gives that row's events as JSON texts."""

    def __init__(self, mapping: Mapping, resolve: Resolve, known: list[str] | None) -> None:
        """`resolve` finds a column; `known` lists the columns of a CSV file, None when rows have any."""
        self._problems: list[Problem] = []
        self._resolve = resolve
        self._known = known
        self._used: set[str] = set()
        spec = mapping.spec
        time = spec.get("time", {})
        self._times = TimeReader(
            time.get("format", "iso"), time.get("timezone"), cast("Ambiguous", time.get("ambiguous", "reject"))
        )
        self._key = self._template("key", spec["key"]) if "key" in spec else None
        self._site = self._field("site_id", spec["site_id"])
        self._app = self._fields("app", spec["app"])
        self._entities = self._fields("entities", spec.get("entities", {}))
        self._metrics = self._fields("metrics", spec.get("metrics", {}))
        self._attributes = self._fields("attributes", spec.get("attributes", {}))
        self._is_run = "run" in spec
        part = "run" if self._is_run else "event"
        body: dict[str, Any] = spec[part]
        self._kind = self._field("event.kind", body.get("kind", "start"))
        begins = "started_at" if self._is_run else "timestamp"
        self._begin = self._template(f"{part}.{begins}", body[begins])
        self._end = self._template("run.ended_at", body.get("ended_at", ""))
        self._run_id = self._stable(f"{part}.run_id", body.get("run_id"))
        self._parent = self._stable(f"{part}.parent_run_id", body.get("parent_run_id"))
        special = {"kind", "timestamp", "started_at", "ended_at", "run_id", "parent_run_id", "state", "error"}
        self._plain = {name: self._field(f"{part}.{name}", value) for name, value in body.items() if name not in special}
        self._status = self._plain.pop("status", None)
        self._nested = {name: self._fields(f"{part}.{name}", body[name]) for name in ("state", "error") if name in body}
        self._rest = self._rest_columns(known) if spec.get("rest", True) else []
        self._any_rest = spec.get("rest", True) and known is None
        if self._problems:
            raise ConfigError(mapping.source, self._problems)
        self._encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode

    def events(self, number: int, row: Row) -> list[bytes]:
        """The row's events as JSON texts; raises ValueError with the reason when the row can't be one.

        `number` counts the rows from 1 and is part of the ids when the mapping gives no key.
        """
        begin = self._times.read(self._begin(row))
        key = self._key(row) if self._key else f"{number}\0{self._content(row)}"
        if not key:
            raise ValueError("the key is empty, so this row could not be told from others")
        common = self._common(row)
        if not self._is_run:
            event: dict[str, Any] = {
                "event_id": stable_id(f"event\0{key}", begin),
                "timestamp": begin,
                "kind": self._kind(row),
                **common,
                **{name: made for name, fields in self._nested.items() if (made := _present(fields, row))},
            }
            if self._status is not None and (status := self._status(row)):
                event["status"] = status
            if self._run_id and (run_id := self._stable_id(self._run_id, row)):
                event["run_id"] = run_id
            return [self._encode(event)]
        end = self._times.read(self._end(row))
        if end < begin:
            raise ValueError(f"the run ends at {end.isoformat()}, before it starts at {begin.isoformat()}")
        run_id = (self._stable_id(self._run_id, row) if self._run_id else None) or stable_id(f"run\0{key}", begin)
        start = {"event_id": stable_id(f"start\0{key}", begin), "timestamp": begin, "kind": "start", "run_id": run_id, **common}
        finish = {
            "event_id": stable_id(f"finish\0{key}", end),
            "timestamp": end,
            "kind": "finish",
            "run_id": run_id,
            "status": (self._status(row) if self._status else "") or "ok",
            "duration_ms": (end - begin).total_seconds() * 1000,
            **common,
        }
        return [self._encode(start), self._encode(finish)]

    def _common(self, row: Row) -> dict[str, Any]:
        event: dict[str, Any] = {"site_id": self._site(row), "app": _present(self._app, row)}
        attributes = self._attributes_of(row)
        for name, read in self._plain.items():
            if value := read(row):
                event[name] = _finite(name, value) if name in _NUMBERS else value
        if self._parent and (parent := self._stable_id(self._parent, row)):
            event["parent_run_id"] = parent
        if self._entities and (entities := _present(self._entities, row)):
            event["entities"] = entities
        if self._metrics:
            metrics = {name: _number(f"metrics.{name}", value) for name, value in _present(self._metrics, row).items()}
            event["metrics"] = {name: value for name, value in metrics.items() if math.isfinite(value)}
            if dropped := sorted(metrics.keys() - event["metrics"].keys()):
                attributes["dropped_metrics"] = dropped
        if attributes:
            event["attributes"] = attributes
        return event

    def _attributes_of(self, row: Row) -> dict[str, Any]:
        attributes: dict[str, Any] = dict(_present(self._attributes, row))
        for name, read in self._rest:
            if value := read(row):
                attributes.setdefault(name, value)
        if self._any_rest:
            for name, value in row.items():
                if name not in self._used and value != "":
                    attributes.setdefault(name, value)
        return attributes

    def _stable_id(self, parts: tuple[Field, Field | None], row: Row) -> str | None:
        key, at = parts
        if not (text := key(row)):
            return None
        # Without a time of its own a run's id starts at 1970: it must be the same in each of the run's rows.
        return stable_id(f"run\0{text}", EPOCH if at is None else self._times.read(at(row)))

    @staticmethod
    def _content(row: Row) -> str:
        if isinstance(row, dict):
            return msgspec.json.encode(sorted(row.items())).decode()
        return "\x1f".join(row)

    def _rest_columns(self, known: list[str] | None) -> list[tuple[str, Column]]:
        return [(name, self._resolve(name)) for name in known or [] if name not in self._used and name]

    def _field(self, path: str, spec: Any) -> Field:
        text = spec if isinstance(spec, str | dict) else str(spec).lower() if isinstance(spec, bool) else str(spec)
        self._note(text if isinstance(text, str) else text["value"])
        return self._guard(path, lambda: compile_field(text, self._resolve))

    def _fields(self, path: str, specs: dict[str, Any]) -> dict[str, Field]:
        return {name: self._field(f"{path}.{name}", spec) for name, spec in specs.items()}

    def _template(self, path: str, text: str) -> Field:
        self._note(text)
        return self._guard(path, lambda: compile_template(text, self._resolve))

    def _stable(self, path: str, spec: dict[str, str] | None) -> tuple[Field, Field | None] | None:
        if spec is None:
            return None
        return self._template(f"{path}.key", spec["key"]), self._template(f"{path}.at", spec["at"]) if "at" in spec else None

    def _note(self, text: str) -> None:
        self._used.update(columns_of(text))

    def _guard(self, path: str, build: Any) -> Field:
        try:
            return cast("Field", build())
        except KeyError as error:
            known = ", ".join(self._known or [])
            hint = ""
            if len(self._known or []) == 1 and (sign := guess_delimiter(known)) != ",":
                hint = f": its columns seem to be parted by {sign!r}, say so with csv.delimiter"
            self._problems.append(Problem(path, f"the file has no column {error.args[0]!r}; it has {known}{hint}"))
            return lambda _row: ""


def _present(fields: dict[str, Field], row: Row) -> dict[str, str]:
    return {name: value for name, read in fields.items() if (value := read(row))}


def _number(path: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{path}: {text!r} is not a number") from error


def _finite(path: str, text: str) -> float:
    number = _number(path, text)
    if not math.isfinite(number):
        raise ValueError(f"{path}: {text!r} is not a finite number")
    return number
