"""The steps that look at what came of it: what arrived, what was asked, what lies on disk."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from sdk.conformance.canonical import canonical, canonical_time
from sdk.conformance.matching import matches, mismatch
from sdk.conformance.stage import Stage

SETTLE_SECONDS = 0.3
"""How long to look whether something that must not happen happens after all."""


class Checks(Stage):
    """Each method `step_NAME` is a step."""

    def step_received(self, expected: dict[str, Any]) -> None:
        """What arrived: `count`, `where` (of those), `each` (all match), `events` (in order, each matches), `unique` ids."""
        where = expected.get("where", {})

        def chosen() -> list[dict[str, Any]]:
            return [event for event in self.events() if matches(event, where)]

        count = expected.get("count", len(expected.get("events", ())))
        self.wait_until(lambda: len(chosen()) >= count, f"{count} events")
        time.sleep(SETTLE_SECONDS if expected.get("settled") else 0)
        events = chosen()
        if "events" in expected or "count" in expected:
            assert len(events) == count, f"{len(events)} events arrived, {count} were expected: {_short(events)}"
        for place, wanted in enumerate(expected.get("events", ())):
            problem = mismatch(events[place], wanted)
            assert problem is None, f"event {place}: {problem}; it is {json.dumps(events[place])}"
        for event in events:
            problem = mismatch(event, expected.get("each", {}))
            assert problem is None, f"{problem}; it is {json.dumps(event)}"
        if expected.get("unique"):
            ids = [event["event_id"] for event in events]
            assert len(set(ids)) == len(ids), "an event arrived twice"
        self._check_order(events, expected)

    def _check_order(self, events: list[dict[str, Any]], expected: dict[str, Any]) -> None:
        if "numbered" in expected:
            seqs = sorted(event["emitter"]["seq"] for event in events)
            first = expected["numbered"]
            assert seqs == list(range(first, first + len(seqs))), f"the numbers of the emitter have gaps: {seqs[:20]} …"
        if expected.get("ids_in_order"):
            by_seq = sorted(events, key=lambda event: event["emitter"]["seq"])
            ids = [event["event_id"] for event in by_seq]
            assert ids == sorted(ids), "ids do not sort in the order of emission"

    def step_requests(self, expected: dict[str, Any]) -> None:
        """What the receiver was asked: `count`, `sizes` (events in each), `headers` and `path` of each, `same_ids` in all."""
        receiver = self.misbehaving()
        if "count" in expected:
            self.wait_until(lambda: len(receiver.requests) >= expected["count"], f"{expected['count']} requests")
            time.sleep(SETTLE_SECONDS if expected.get("settled") else 0)
            assert len(receiver.requests) == expected["count"], f"{len(receiver.requests)} requests came"
        requests = list(receiver.requests)
        if "sizes" in expected:
            assert [len(request.events) for request in requests] == expected["sizes"], [len(r.events) for r in requests]
        if "at_most" in expected:
            assert max(len(request.events) for request in requests) <= expected["at_most"]
        if "bytes_at_most" in expected:
            assert max(len(request.body) for request in requests) <= expected["bytes_at_most"]
        for request in requests:
            assert (problem := mismatch(request.headers, expected.get("headers", {}))) is None, problem
            assert request.path == expected.get("path", request.path)
        if expected.get("same_ids"):
            assert len({tuple(request.ids) for request in requests}) == 1, "a retry had other ids, or other events"
        if "gap" in expected:
            first, second = requests[0], requests[1]
            waited = second.at - first.at
            assert waited >= expected["gap"] - 0.05, f"it waited {waited:.2f} s"

    def step_backend(self, expected: dict[str, Any]) -> None:
        """What a direct backend's real server holds, read back by the system's own means: `name`, and as in `received`."""
        target = self.targets[expected["name"]]
        count = expected["count"]
        self.wait_until(lambda: len(target.read_back()) >= count, f"{count} events in {expected['name']}")
        time.sleep(SETTLE_SECONDS)
        events = target.read_back()
        ids = {event["event_id"] for event in events}
        assert len(events) == len(ids) == count, f"{len(events)} events, {len(ids)} different, {count} expected"
        for event in events:
            assert (problem := mismatch(event, target.as_stored(expected.get("each", {})))) is None, problem

    def step_spool(self, expected: dict[str, Any]) -> None:
        """What the spool folder holds: `events` in complete files, `files`, `names` (a pattern), `empty`."""
        if "events" in expected:
            self.wait_until(lambda: len(self.spooled()) >= expected["events"], f"{expected['events']} events on disk")
            assert len(self.spooled()) == expected["events"], f"{len(self.spooled())} events are on disk"
        files = sorted(path.name for path in self.spool.glob("*")) if self.spool.exists() else []
        batches = [name for name in files if name.endswith(".jsonl")]
        if "files" in expected:
            assert len(batches) == expected["files"], files
        for name in batches:
            assert re.fullmatch(r"[0-9a-f-]{36}\.\d+\.\d{20}\.jsonl", name), f"a spool file is named {name}"
        if expected.get("empty"):
            self.wait_until(lambda: not self.spooled() and not list(self.spool.glob("*.claimed*")), "an empty spool folder")
        if "refused" in expected:
            self.wait_until(lambda: len(list(self.spool.glob("*.refused"))) == expected["refused"], "a refused file")

    def step_kept_aside(self, expected: dict[str, Any]) -> None:
        """A backend's folder holds a letter for each of `letters`, which all match, and no file waits there."""

        def letters() -> list[dict[str, Any]]:
            files = sorted(self.spool.glob(f"direct/*/{expected['name']}/*.refused"))
            return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]

        wanted = expected["letters"]
        self.wait_until(lambda: len(letters()) >= len(wanted), f"{len(wanted)} letters in a .refused file")
        found = letters()
        assert len(found) == len(wanted), f"{len(found)} letters, {len(wanted)} expected: {json.dumps(found)[:1500]}"
        for letter, want in zip(sorted(found, key=lambda letter: int(letter["seq"])), wanted, strict=True):
            assert (problem := mismatch(letter, want)) is None, f"{problem}; the letter: {json.dumps(letter)}"
        left = [path.name for path in self.spool.glob(f"direct/*/{expected['name']}/*.jsonl*") if path.suffix != ".refused"]
        assert not left, f"these still wait: {left}"

    def step_until_stats(self, expected: dict[str, Any]) -> None:
        """Ask for the counts until they are as given."""
        answer: dict[str, Any] = {}

        def ready() -> bool:
            answer.update(self.process("main").ask({"do": "stats"})["stats"])
            return matches(answer, expected)

        try:
            self.wait_until(ready, f"the counts {expected}", interval=0.05)
        except AssertionError as error:
            message = f"{error}; they are {answer}"
            raise AssertionError(message) from None

    def step_vectors_arrive(self, vectors: list[dict[str, Any]]) -> None:
        """What arrived is each of these events, byte for byte in canonical form, but for what the SDK adds."""
        exact = "int64" in self.process("main").capabilities
        wanted = {vector["event_id"]: vector for vector in vectors}
        self.wait_until(lambda: len(self.events()) >= len(wanted), f"{len(wanted)} events")
        arrived = {event["event_id"]: event for event in self.events()}
        wrong = []
        for event_id, vector in wanted.items():
            event = {key: value for key, value in arrived[event_id].items() if key != "emitter"}
            for mine in [key for key in ("severity",) if key not in vector]:
                event.pop(mine, None)
            want, got = canonical(vector, exact_integers=exact), canonical(event, exact_integers=exact)
            if want != got:
                wrong.append(f"wanted {want}\n   got {got}")
        assert not wrong, "\n".join(wrong)

    def step_config_paths(self, expected: dict[str, Any]) -> None:
        """The problems of a saved answer have exactly these paths."""
        paths = sorted(problem["path"] for problem in self.saved[expected["of"]]["error"]["problems"])
        assert paths == sorted(expected["are"]), f"the problems have the paths {paths}"

    def step_not_logged(self, secret: str) -> None:
        """A secret stands nowhere in what the harness wrote."""
        text = (self.work / "stderr.txt").read_text(errors="replace")
        assert secret not in text, f"the secret is logged: {text[-1000:]}"

    def step_timestamp_is(self, moment: str) -> None:
        """Every event has this moment."""
        for event in self.events():
            assert canonical_time(event["timestamp"]) == canonical_time(moment), event["timestamp"]

    def step_one_emitter(self, count: int) -> None:
        """So many emitters sent what arrived."""
        emitters = {event["emitter"]["id"] for event in self.events()}
        assert len(emitters) == count, f"{len(emitters)} emitters"

    def step_dropped_metrics(self, names: list[str]) -> None:
        """The attribute names the metrics that were left out."""
        (event,) = self.events()
        assert sorted(event["attributes"]["dropped_metrics"]) == sorted(names), event

    def step_longest_message(self, limit: int) -> None:
        """Messages are cut as near to the limit as a character allows, and have no torn one."""
        for event in self.events():
            size = len(event["message"].encode())
            assert limit - 64 < size <= limit, f"{size} bytes"
            assert "\ufffd" not in event["message"]

    def step_duration_at_least(self, milliseconds: float) -> None:
        """The run's end says so."""
        durations = [event["duration_ms"] for event in self.events() if "duration_ms" in event]
        assert durations
        assert min(durations) >= milliseconds, f"{durations}"

    def step_in_order(self, count: int) -> None:
        """Events of `repeat` arrived in their order."""
        self.wait_until(lambda: len(self.events()) >= count, f"{count} events")
        numbers = [event["attributes"]["n"] for event in self.events()]
        assert numbers == list(range(count)), f"{numbers[:50]}"

    def step_received_sometime(self, expected: dict[str, Any]) -> None:
        """An event that matches arrives."""

        def arrived() -> bool:
            return any(matches(event, expected["where"]) for event in self.events())

        self.wait_until(arrived, f"an event like {expected['where']}")

    def step_retried_after_date(self, _: Any) -> None:
        """The second request came no sooner than the date said."""
        second = self.misbehaving().requests[1]
        assert second.at >= self.not_before, f"{self.not_before - second.at:.2f} s too early"

    def step_kept_or_delivered(self, count: int) -> None:
        """So many events are on disk or were delivered: none is lost."""

        def safe() -> bool:
            ids = {event["event_id"] for event in self.spooled()} | {event["event_id"] for event in self.events()}
            return len(ids) == count

        self.wait_until(safe, f"{count} events on disk or delivered")

    def step_spooled_events(self, expected: dict[str, Any]) -> None:
        """What is on disk is whole events, numbered without a gap from here."""
        seqs = sorted(event["emitter"]["seq"] for event in self.spooled())
        first = expected["numbered"]
        assert seqs == list(range(first, first + len(seqs))), seqs

    def step_spooled_whole(self, expected: dict[str, Any]) -> None:
        """Complete files hold whole events only, and at least so many."""
        events = self.spooled()
        assert len({event["event_id"] for event in events}) == len(events) >= expected["at_least"], f"{len(events)} events"


def _short(events: list[dict[str, Any]]) -> str:
    return json.dumps(events[:3])[:1500]
