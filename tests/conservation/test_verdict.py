"""The judge of the campaign can say no: each kind of fault is found in a lake that has just that one."""

import json

import pytest

from contract.ids import uuid7
from lakehouse import bronze, silver
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from tests.conservation.payload import payload
from tests.conservation.verdict import Expected, judge

SEED = 7


class Record:
    """A spool's record as the lake reads it."""

    def __init__(self, events):
        self.seq = 1
        self.count = len(events)
        self._body = "".join(json.dumps(event) + "\n" for event in events).encode()

    def ndjson(self):
        return self._body


def sent(n, **changes):
    base = {"event_id": uuid7(), "timestamp": "2026-01-31T12:00:00Z", "site_id": "fab1", "app": {"name": "a"}}
    return {**base, **payload(SEED, 0, n), **changes}


def faults(tmp_path, events, count=10):
    lake = Lake(LakeConfig(root=str(tmp_path / "lake")))
    bronze.append_spool(lake, "spool", [Record(events)])
    silver.refresh_events(lake)
    return [fault.split(":")[0] for fault in judge(lake, Expected(counts={0: count}), SEED).faults]


def test_a_whole_lake_is_found_faulty(tmp_path):
    assert faults(tmp_path, [sent(n) for n in range(10)]) == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("lost", lambda events: events[:7] + events[8:]),
        ("twice by number", lambda events: [*events, sent(3)]),
        ("invented", lambda events: [*events, sent(99)]),
        ("altered", lambda events: [*events[:9], sent(9, name="another")]),
        ("dropped by the SDK", lambda events: [*events, sent(1, name="sdk.dropped", attributes={})]),
    ],
)
def test_a_faulty_lake_is_found_whole(tmp_path, kind, change):
    assert kind in faults(tmp_path, change([sent(n) for n in range(10)]))
