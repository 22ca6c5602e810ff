"""Names of Elasticsearch indices, by date or not, and the index template that gives every field of an event its type."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

MAX_INDEX_NAME_BYTES: Final = 255
"""Elasticsearch guide, "Create index API", index name limitations."""

MAX_INDEXED_TEXT: Final = 1024
"""Characters of an entity, attribute or name that are indexed as a whole; what is longer is kept, and found by other fields."""

MAX_ATTRIBUTE_DEPTH: Final = 64
"""The contract's own limit on nesting; Elasticsearch's default for `flattened` is 20."""

TEMPLATE_VERSION: Final = 1
TEMPLATE_PRIORITY: Final = 150
"""Above Elasticsearch's own templates, which have 100; below what a site makes with a higher one."""

_DIRECTIVES: Final = {"%Y": "yyyy", "%m": "mm", "%d": "dd", "%H": "hh", "%G": "gggg", "%V": "ww"}
_DIRECTIVE: Final = re.compile("%.?")
_FORBIDDEN: Final = re.compile(r'[\\/*?"<>| ,#:]')


class IndexName:
    """The `index` setting: a name, or a pattern such as `monitoring-%Y.%m` that takes its date from the event, in UTC.

    An event delivered again meets itself in the same index, because its date never changes. Raises ValueError.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.dated = "%" in pattern
        unknown = sorted(set(_DIRECTIVE.findall(pattern)) - _DIRECTIVES.keys())
        if unknown:
            message = (
                f"index '{pattern}' has {', '.join(unknown)}: known are {', '.join(_DIRECTIVES)}, for the event's date in UTC"
            )
            raise ValueError(message)
        sample = self.on(datetime(2026, 1, 31, tzinfo=UTC))
        self._check(sample)

    def on(self, moment: datetime) -> str:
        """The index of an event of this moment."""
        return moment.astimezone(UTC).strftime(self.pattern) if self.dated else self.pattern

    @property
    def wildcard(self) -> str:
        """What all its indices' names match."""
        return _DIRECTIVE.sub("*", self.pattern)

    @property
    def template(self) -> str:
        """The name of its index template."""
        return "trackmate-" + _DIRECTIVE.sub(lambda found: _DIRECTIVES[found[0]], self.pattern)

    def _check(self, name: str) -> None:
        problem = None
        if name != name.lower():
            problem = "must be in lower case"
        elif _FORBIDDEN.search(name):
            problem = 'must not contain any of \\ / * ? " < > | , # : or a space'
        elif not name or name[0] in "-_+" or name in {".", ".."}:
            problem = "must not be empty, nor begin with - _ or +"
        elif len(name.encode()) > MAX_INDEX_NAME_BYTES:
            problem = f"must have at most {MAX_INDEX_NAME_BYTES} bytes"
        if problem:
            message = f"index '{self.pattern}' {problem}: Elasticsearch takes no other names"
            raise ValueError(message)


_KEYWORD: Final = {"type": "keyword"}
_SHORT_KEYWORD: Final = {"type": "keyword", "ignore_above": MAX_INDEXED_TEXT}
_TEXT: Final = {"type": "text", "norms": False}
_NUMBER: Final = {"type": "double"}

MAPPING: Final[dict[str, Any]] = {
    "dynamic": False,
    "dynamic_templates": [
        {"entities": {"path_match": "entities.*", "mapping": _SHORT_KEYWORD}},
        {"metrics": {"path_match": "metrics.*", "mapping": _NUMBER}},
    ],
    "properties": {
        "event_id": _KEYWORD,
        "timestamp": {"type": "date_nanos", "format": "strict_date_optional_time_nanos"},
        "kind": _KEYWORD,
        "name": _KEYWORD,
        "site_id": _KEYWORD,
        "app": {"properties": {"name": _KEYWORD, "version": _KEYWORD, "instance_id": _KEYWORD}},
        "run_id": _KEYWORD,
        "parent_run_id": _KEYWORD,
        "emitter": {"properties": {"id": _KEYWORD, "seq": {"type": "long"}}},
        # A key with dots stays one name, so that `temperature` and `temperature.max` can stand side by side.
        "entities": {"type": "object", "dynamic": True, "subobjects": False},
        "metrics": {"type": "object", "dynamic": True, "subobjects": False},
        "status": _KEYWORD,
        "severity": _KEYWORD,
        "message": {**_TEXT, "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}},
        "progress": _NUMBER,
        "duration_ms": _NUMBER,
        "state": {"properties": {"from": _KEYWORD, "to": _KEYWORD}},
        "error": {"properties": {"type": _KEYWORD, "message": _TEXT, "stack": _TEXT}},
        "trace_id": _KEYWORD,
        "span_id": _KEYWORD,
        # Any JSON: whatever types its values have, today's never conflict with yesterday's.
        "attributes": {"type": "flattened", "depth_limit": MAX_ATTRIBUTE_DEPTH, "ignore_above": MAX_INDEXED_TEXT},
    },
}


def index_template(index: IndexName) -> dict[str, Any]:
    """The body of `PUT _index_template`."""
    return {
        "index_patterns": [index.wildcard],
        "priority": TEMPLATE_PRIORITY,
        "version": TEMPLATE_VERSION,
        "template": {
            # A site with thousands of metric names keeps its events: names beyond the limit are stored, and not indexed.
            "settings": {"index.mapping.total_fields.ignore_dynamic_beyond_limit": True},
            "mappings": MAPPING,
        },
        "_meta": {"description": "TrackMate's events", "managed_by": "trackmate"},
    }
