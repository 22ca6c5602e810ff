"""A first draft of a mapping, guessed from a file's columns and its first rows."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import yaml

from trackmate.ingest.rows import (
    BadRow,
    CsvRows,
    first_line,
    flat_object,
    guess_delimiter,
    guess_format,
    ndjson_lines,
    open_source,
)
from trackmate.ingest.times import TimeReader

_SAMPLE = 200
_ROLES = {
    "name": ("concept:name", "activity", "event", "task", "operation", "action", "name", "type"),
    "key": ("concept:instance", "event_id", "eventid", "uuid", "id"),
    "status": ("status", "outcome", "result", "lifecycle:transition"),
    "message": ("message", "comment", "remark", "description", "text"),
}
_ENTITIES = {
    "lot": ("lot", "lot_id", "lotid"),
    "wafer": ("wafer", "wafer_id", "waferid"),
    "tool": ("tool", "tool_id", "equipment", "eqp", "machine", "equipment_id"),
    "chamber": ("chamber", "chamber_id"),
    "recipe": ("recipe", "recipe_id", "ppid"),
    "step": ("step", "step_id", "stage"),
    "product": ("product", "product_id", "part"),
    "operator": ("operator", "user", "org:resource", "resource"),
    "case": ("case:concept:name", "case", "case_id", "caseid", "order", "order_id"),
}
_STARTS = ("start", "begin", "from")
_ENDS = ("end", "stop", "finish", "complete", "until")


def suggest(path: Path) -> str:
    """A mapping draft as commented YAML; raises TrackMateError when the file can't be read."""
    kind = guess_format(path)
    delimiter = ","
    with open_source(path) as source:
        if kind == "csv":
            delimiter = guess_delimiter(first_line(path))
            rows = CsvRows(source, delimiter=delimiter)
            columns = rows.header
            sample = [dict(zip(columns, row, strict=True)) for row in islice(rows, _SAMPLE) if not isinstance(row, BadRow)]
        else:
            lines = [line for line in islice(ndjson_lines(source), _SAMPLE) if not isinstance(line, BadRow)]
            sample = [flat_object(line) for line in lines]
            columns = list(dict.fromkeys(name for row in sample for name in row))
    values = {name: [row[name] for row in sample if row.get(name)] for name in columns}
    draft = _draft(path, kind, columns, values)
    if kind == "csv" and delimiter != ",":
        draft = {"format": kind, "csv": {"delimiter": delimiter}, **draft}
    text = yaml.safe_dump(draft, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
    seen = "".join(
        f"#   {name}: {json.dumps(found[0], ensure_ascii=False) if found else '(empty)'}\n" for name, found in values.items()
    )
    return (
        f"# A draft for {path.name}, guessed from its columns and first {len(sample)} rows: read it before you use it.\n"
        f"# Try it without sending anything: trackmate ingest {path.name} --mapping THIS --dry-run\n"
        f"# The columns, each with a value:\n{seen}{text}"
    )


def _draft(path: Path, kind: str, columns: list[str], values: dict[str, list[str]]) -> dict[str, object]:
    formats = {name: form for name in columns if (form := _time_format(name, values[name])) is not None}
    local = any("no offset" in _problem(form, values[name][0]) for name, form in formats.items())
    start = _pick([c for c in formats if any(word in c.lower() for word in _STARTS)], ())
    end = _pick([c for c in formats if c != start and any(w in c.lower() for w in _ENDS)], ()) or _pick(
        [c for c in formats if c != start and not c.startswith("case:")], ()
    )
    moment = _pick([c for c in formats if not c.startswith("case:")], ()) or next(iter(formats), "COLUMN WITH THE TIME")
    roles = {role: found for role, words in _ROLES.items() if (found := _pick([c for c in columns if c not in formats], words))}
    name = f"{{{roles['name']}}}" if "name" in roles else "NAME OF WHAT HAPPENED"
    draft: dict[str, object] = {"format": kind, "site_id": "fab1", "app": {"name": path.name.split(".", 1)[0]}}
    if formats:
        time: dict[str, str] = {"format": formats[moment]}
        if local:
            time |= {"timezone": "UTC", "ambiguous": "earlier"}
        draft["time"] = time
    if "key" in roles and len(set(values[roles["key"]])) == len(values[roles["key"]]) > 0:
        draft["key"] = f"{{{roles['key']}}}"
    extras = {role: f"{{{roles[role]}}}" for role in ("message",) if role in roles}
    if start and end and not start.startswith("case:"):
        draft["run"] = {"name": name, "started_at": f"{{{start}}}", "ended_at": f"{{{end}}}", **extras}
    else:
        draft["event"] = {"kind": "log", "name": name, "timestamp": f"{{{moment}}}", **extras}
    taken = set(roles.values()) | set(formats)
    entities = {
        entity: f"{{{found}}}" for entity, words in _ENTITIES.items() if (found := _exact(columns, words)) and found not in taken
    }
    if entities:
        draft["entities"] = entities
    used = taken | {text.strip("{}") for text in entities.values()}
    metrics = {c: f"{{{c}}}" for c in columns if c not in used and values[c] and all(_is_number(v) for v in values[c])}
    if metrics:
        draft["metrics"] = metrics
    draft["rest"] = True
    return draft


def _pick(columns: list[str], words: tuple[str, ...]) -> str | None:
    """The column that fits the earliest word best; without words the first column."""
    if not words:
        return columns[0] if columns else None
    exact = _exact(columns, words)
    return exact or next((c for word in words for c in columns if word in c.lower() and not c.startswith("case:")), None)


def _exact(columns: list[str], words: tuple[str, ...]) -> str | None:
    by_name = {column.lower(): column for column in columns}
    return next((by_name[word] for word in words if word in by_name), None)


def _time_format(name: str, values: list[str]) -> str | None:
    if not values:
        return None
    if all(_reads(TimeReader("iso", "UTC", "earlier"), value) for value in values) and not all(_is_number(v) for v in values):
        return "iso"
    if any(word in name.lower() for word in ("time", "ts", "epoch", "date")) and all(_is_number(v) for v in values):
        digits = len(values[0].split(".")[0])
        return {10: "epoch", 13: "epoch_ms", 16: "epoch_us", 19: "epoch_ns"}.get(digits)
    patterns = ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M")
    return next((p for p in patterns if all(_reads(TimeReader(p, "UTC", "earlier"), value) for value in values)), None)


def _reads(reader: TimeReader, value: str) -> bool:
    try:
        reader.read(value)
    except ValueError:
        return False
    return True


def _problem(form: str, value: str) -> str:
    try:
        TimeReader(form).read(value)
    except ValueError as error:
        return str(error)
    return ""


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
