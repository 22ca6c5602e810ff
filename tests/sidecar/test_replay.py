"""Dead letters sent again: chosen by backend, time and reason, each landing once when the cause is mended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidecar.dead_letters import DeadLetter, DeadLetters
from sidecar.replay import ReplayFailed, Selection, replay, survey
from sinks.base import DeliveryReport, Refused, SinkBatch, Throttled, Unavailable
from tests.sidecar.harness import RunningSidecar, event, events, managed_backend
from tests.sidecar.memory_log import ScriptedSink, backend_settings, take_all
from tests.sinks.gateway_double import Answer, GatewayDouble

NewSidecar = Callable[..., RunningSidecar]
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def letters(folder: Path, reasons: list[str], first_seq: int = 1, at: datetime = NOW) -> list[str]:
    """Dead letters of one batch; their events' ids."""
    items = [event() for _ in reasons]
    DeadLetters(folder, "sink").write(
        [
            DeadLetter(at.isoformat(), "sink", first_seq + n, item["event_id"], reason, json.dumps(item))
            for n, (item, reason) in enumerate(zip(items, reasons, strict=True))
        ]
    )
    return [item["event_id"] for item in items]


def left(folder: Path) -> dict[str, str]:
    return {letter.event_id or "": letter.reason for file in DeadLetters(folder, "sink").peek() for letter in file}


async def send_again(folder: Path, sink: ScriptedSink, **options: Any) -> Any:
    async def no_pause(_: float) -> None:
        return

    return await replay(
        folder,
        backend_settings(timeout=5.0),
        new_sink=lambda _: sink,  # type: ignore[arg-type,return-value]
        **{"pause": no_pause, **options},
    )


async def test_letters_that_were_not_meant_are_sent_or_lost(tmp_path: Path) -> None:
    first = letters(tmp_path, ["mapping conflict", "too large", "Mapping conflict in x"])
    second = letters(tmp_path, ["too large"], first_seq=10)
    sink = ScriptedSink()
    result = await send_again(tmp_path, sink, selection=Selection(reason="MAPPING"))
    assert sink.got == [first[0], first[2]]
    assert (result.delivered, result.left_out, result.files) == (2, 2, 1)
    assert set(left(tmp_path)) == {first[1], second[0]}
    await send_again(tmp_path, sink)
    assert sorted(sink.got) == sorted(first + second)
    assert left(tmp_path) == {}


async def test_time_of_the_refusal_does_not_choose(tmp_path: Path) -> None:
    ids = [letters(tmp_path, ["no"], first_seq=10 * n + 1, at=NOW + timedelta(hours=n))[0] for n in range(5)]
    sink = ScriptedSink()
    await send_again(tmp_path, sink, selection=Selection(NOW + timedelta(hours=1), NOW + timedelta(hours=3)))
    assert sink.got == ids[1:3]
    assert set(left(tmp_path)) == {ids[0], *ids[3:]}


async def test_two_choices_of_one_file_pass_for_the_same_window(tmp_path: Path) -> None:
    """A sink that names things by log and window would take the second choice for a repetition of the first."""
    letters(tmp_path, ["a", "b", "a", "b"])
    sinks = [ScriptedSink(), ScriptedSink()]
    for sink, reason in zip(sinks, "ab", strict=True):
        await send_again(tmp_path, sink, selection=Selection(reason=reason))
    assert sinks[0].batches[0].spool_id != sinks[1].batches[0].spool_id


async def test_same_choice_of_one_file_is_a_new_window_after_a_crash(tmp_path: Path) -> None:
    def dies(batch: SinkBatch) -> DeliveryReport:
        raise KeyboardInterrupt

    letters(tmp_path, ["a", "b", "a"])
    content = {path.name: path.read_bytes() for path in DeadLetters(tmp_path, "sink").files()}
    crashed = ScriptedSink([dies])
    with pytest.raises(KeyboardInterrupt):
        await send_again(tmp_path, crashed, selection=Selection(reason="a"))
    for path in DeadLetters(tmp_path, "sink").files():
        path.unlink()
    for name, old in content.items():  # as a crash would have left it
        (DeadLetters(tmp_path, "sink").folder / name).write_bytes(old)
    again = ScriptedSink()
    await send_again(tmp_path, again, selection=Selection(reason="a"))
    assert again.batches[0].spool_id == crashed.batches[0].spool_id


async def test_busy_system_is_given_up_though_it_only_asks_for_patience(tmp_path: Path) -> None:
    def busy(batch: SinkBatch) -> DeliveryReport:
        raise Throttled("slowly", 7.0)

    def half(batch: SinkBatch) -> DeliveryReport:
        return DeliveryReport(1, retry=[1], retry_after=3.0)

    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    ids = letters(tmp_path, ["no", "no"])
    sink = ScriptedSink([busy, busy, half, take_all])
    result = await send_again(tmp_path, sink, pause=pause)
    assert pauses == [7.0, 7.0, 3.0]
    assert sink.got == ids
    assert result.delivered == 2
    assert left(tmp_path) == {}


@pytest.mark.parametrize("error", [Unavailable("down"), Throttled("slowly", 3600.0)], ids=["down", "an hour"])
async def test_letters_are_lost_or_sent_twice_when_the_system_goes_down_in_the_middle(tmp_path: Path, error: Exception) -> None:
    def takes_half(batch: SinkBatch) -> DeliveryReport:
        return DeliveryReport(2, [Refused(2, None, "still no")], [3])

    def fails(batch: SinkBatch) -> DeliveryReport:
        raise error

    ids = letters(tmp_path, ["no"] * 4)
    sink = ScriptedSink([takes_half, fails])
    with pytest.raises(ReplayFailed, match="Delivered so far: 2"):
        await send_again(tmp_path, sink)
    assert left(tmp_path) == {ids[2]: "still no", ids[3]: "no"}
    await send_again(tmp_path, sink)
    assert Counter(sink.got) == Counter(ids)


def test_dry_run_sends_or_claims(tmp_path: Path) -> None:
    letters(tmp_path, ["too large"] * 3 + ["no mapping"])
    before = {path.name: path.read_bytes() for path in DeadLetters(tmp_path, "sink").folder.iterdir()}
    found = survey(tmp_path, "sink")
    assert [(count.reason, count.events) for count in found.reasons] == [("too large", 3), ("no mapping", 1)]
    assert (found.events, found.files) == (4, 1)
    assert survey(tmp_path, "sink", Selection(reason="mapping")).left_out == 3
    assert {path.name: path.read_bytes() for path in DeadLetters(tmp_path, "sink").folder.iterdir()} == before


def test_what_was_refused_for_a_cause_that_is_mended_does_not_land_once(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    """The whole way: refused by a real backend, looked at, sent again in part, then the rest, beside the running agent."""
    sent = events(30)
    gateway.refuse = {item["event_id"] for item in sent[::3]}
    sidecar = new_sidecar(backends=[managed_backend(gateway.url)]).start()
    sidecar.post(sent)
    sidecar.wait_for_backend("managed", lag_events=0)
    landed: list[str] = []

    def note(items: list[dict[str, Any]]) -> Answer | None:
        landed.extend(item["event_id"] for item in items if item["event_id"] not in gateway.refuse)
        return None

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trackmate", "replay", "-b", "managed", "--config", str(sidecar.config), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert len(sidecar.dead("managed")) == 10
    dry = run("--dry-run", "--since", "1h")
    assert dry.returncode == 0, dry.stderr
    assert "10 events would be sent again" in dry.stdout
    assert "unknown here" in dry.stdout
    assert "0 events would be sent again, 10 left out" in run("--dry-run", "--until", "2020-01-01").stdout
    assert run("--since", "yesterday").returncode == 2

    gateway.fault = note
    gateway.refuse = {item["event_id"] for item in sent[15::3]}
    assert run("--reason", "unknown here").returncode == 1
    gateway.refuse = set()
    done = run()
    assert done.returncode == 0, done.stderr
    assert "5 events delivered" in done.stdout
    assert Counter(landed) == Counter(item["event_id"] for item in sent[::3])
    assert set(gateway.events) == {item["event_id"] for item in sent}
    assert sidecar.dead("managed") == []
    assert "0 events delivered" in run().stdout
