"""What a mapping file may say, as JSON Schema, so that every mistake in one is reported at once."""

from __future__ import annotations

from typing import Any, Final

_FIELD: Final[dict[str, Any]] = {
    "description": "text with {column} in it, or value, map and default",
    "anyOf": [
        {"type": ["string", "number", "boolean"]},
        {
            "type": "object",
            "required": ["value"],
            "additionalProperties": False,
            "properties": {
                "value": {"type": "string"},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
                "default": {"type": "string"},
            },
        },
    ],
}
_STABLE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["key"],
    "additionalProperties": False,
    "properties": {"key": {"type": "string", "minLength": 1}, "at": {"type": "string", "minLength": 1}},
}
_FIELDS: Final[dict[str, Any]] = {"type": "object", "additionalProperties": _FIELD}
_COMMON: Final[dict[str, Any]] = {
    "name": _FIELD,
    "run_id": _STABLE,
    "parent_run_id": _STABLE,
    "severity": _FIELD,
    "message": _FIELD,
    "status": _FIELD,
    "trace_id": _FIELD,
    "span_id": _FIELD,
}

MAPPING_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "description": "either event (a row is one event) or run (a row is an interval), and not both",
    "type": "object",
    "additionalProperties": False,
    "required": ["site_id", "app"],
    "oneOf": [{"required": ["event"]}, {"required": ["run"]}],
    "properties": {
        "format": {"enum": ["csv", "ndjson"]},
        "csv": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "delimiter": {"type": "string", "minLength": 1, "maxLength": 1},
                "encoding": {"type": "string"},
                "header": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            },
        },
        "time": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "format": {"type": "string", "minLength": 1},
                "timezone": {"type": "string", "minLength": 1},
                "ambiguous": {"enum": ["reject", "earlier", "later"]},
            },
        },
        "key": {"type": "string", "minLength": 1},
        "site_id": _FIELD,
        "app": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {"name": _FIELD, "version": _FIELD, "instance_id": _FIELD},
        },
        "event": {
            "type": "object",
            "additionalProperties": False,
            "required": ["kind", "name", "timestamp"],
            "properties": {
                **_COMMON,
                "kind": _FIELD,
                "timestamp": {"type": "string", "minLength": 1},
                "progress": _FIELD,
                "duration_ms": _FIELD,
                "state": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["to"],
                    "properties": {"from": _FIELD, "to": _FIELD},
                },
                "error": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["type", "message"],
                    "properties": {"type": _FIELD, "message": _FIELD, "stack": _FIELD},
                },
            },
        },
        "run": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "started_at", "ended_at"],
            "properties": {
                **_COMMON,
                "started_at": {"type": "string", "minLength": 1},
                "ended_at": {"type": "string", "minLength": 1},
            },
        },
        "entities": _FIELDS,
        "metrics": _FIELDS,
        "attributes": _FIELDS,
        "rest": {"type": "boolean"},
    },
}
