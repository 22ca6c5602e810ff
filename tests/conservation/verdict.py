"""Holds silver against what was sent: each acknowledged event exactly once, none invented, none altered."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.columns import NAMES, unflatten
from lakehouse.files import active_files
from lakehouse.lake import Lake, scan
from tests.conservation.payload import payload

ADDED = ("event_id", "timestamp", "site_id", "app", "emitter", "severity", "run_id", "parent_run_id")
"""What the sender adds to a payload."""


@dataclass
class Expected:
    """What must be there: of each sender all numbers below its count, less those whose outcome it never learnt."""

    counts: dict[int, int] = field(default_factory=dict)
    unknown: dict[int, set[int]] = field(default_factory=dict)

    def read_ledger(self, sender: int, ledger: Path) -> None:
        """Take over what an HTTP sender wrote down."""
        self.counts.setdefault(sender, 0)
        doubtful = self.unknown.setdefault(sender, set())
        for line in ledger.read_text().splitlines():
            outcome, first, size = line.split()
            numbers = range(int(first), int(first) + int(size))
            self.counts[sender] = max(self.counts[sender], numbers.stop)
            if outcome == "unknown":
                doubtful.update(numbers)
            elif outcome != "acknowledged":
                raise AssertionError(f"sender {sender} was refused: {line}")

    @property
    def acknowledged(self) -> int:
        """How many events must be in silver."""
        return sum(self.counts.values()) - sum(map(len, self.unknown.values()))


@dataclass
class Verdict:
    """What was found; `faults` is empty when everything is as it must be."""

    rows: int = 0
    acknowledged: int = 0
    faults: list[str] = field(default_factory=list)


def judge(lake: Lake, expected: Expected, seed: int) -> Verdict:
    """Read all of silver.events, in batches, and compare every row."""
    return judge_events(map(unflatten, _rows(lake)), expected, seed)


def judge_events(events: Iterable[dict[str, Any]], expected: Expected, seed: int, *, examples: int = 5) -> Verdict:
    """Compare every event that a system holds."""
    verdict = Verdict(acknowledged=expected.acknowledged)
    seen: dict[int, Counter[int]] = {sender: Counter() for sender in expected.counts}
    ids: set[str] = set()
    kinds: Counter[str] = Counter()
    for event in events:
        verdict.rows += 1
        fault = _compare(event, expected, seed, seen, ids)
        if fault:
            kinds[fault.split(":")[0]] += 1
            if kinds[fault.split(":")[0]] <= examples:
                verdict.faults.append(fault)
    for sender, count in expected.counts.items():
        doubtful = expected.unknown.get(sender, set())
        lost = [n for n in range(count) if n not in seen[sender] and n not in doubtful]
        if lost:
            verdict.faults.append(f"lost: sender {sender} misses {len(lost)} of {count}, such as {lost[:examples]}")
    verdict.faults += [f"{kind}: {count} in all" for kind, count in kinds.items()]
    return verdict


def _rows(lake: Lake) -> Iterator[dict[str, Any]]:
    declared = lake.declaration("silver.events")
    files = active_files(lake, declared.name, lake.table(declared.name))
    with lake.connect() as connection:
        query = f"SELECT * FROM {scan(declared, [file.uri for file in files], columns=NAMES)}"
        for batch in connection.execute(query).to_arrow_reader(20_000):
            yield from batch.to_pylist()


def _compare(event: dict[str, Any], expected: Expected, seed: int, seen: dict[int, Counter[int]], ids: set[str]) -> str | None:
    if event["event_id"] in ids:
        return f"twice by id: {event['event_id']}"
    ids.add(event["event_id"])
    if event["name"].startswith("sdk."):
        return f"dropped by the SDK: {event}"
    attributes = event.get("attributes", {})
    sender, n = attributes.get("sender"), attributes.get("n")
    if sender not in seen or not isinstance(n, int) or not 0 <= n < expected.counts[sender]:
        return f"invented: {event}"
    seen[sender][n] += 1
    if seen[sender][n] > 1:
        return f"twice by number: sender {sender}, {n}"
    got = {name: value for name, value in event.items() if name not in ADDED}
    sent = payload(seed, sender, n)
    return None if got == sent else f"altered: sender {sender}, {n}: {json.dumps(got)} was sent as {json.dumps(sent)}"
