"""One test for each kind of damage that disks, crashes and people do to a spool's files."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.spool.admission import SpoolConfig
from sidecar.spool.checkpoint import InvalidReaderName, load_checkpoint, store_checkpoint
from sidecar.spool.errors import SpoolError
from sidecar.spool.filesystem import Filesystem
from sidecar.spool.format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from sidecar.spool.log import SpoolLog
from sidecar.spool.reader import SpoolReader
from tests.sidecar.spool.conftest import OpenLog, fill

SIZE = 100
RECORD = RECORD_HEADER_BYTES + SIZE
EVENTS = 3
PER_SEGMENT = 5
SEGMENT = SEGMENT_HEADER_BYTES + PER_SEGMENT * RECORD

Written = list[tuple[int, bytes]]


@pytest.fixture
async def spool(tmp_path: Path) -> tuple[Path, Written]:
    """A stopped spool of 15 records of 3 events each in 3 closed segments, and an empty open one."""
    folder = tmp_path / "spool"
    log = open_spool(folder)
    written = await fill(log, 3 * PER_SEGMENT, size=SIZE, events=EVENTS)
    await log.close()
    assert len(SpoolReader(folder).closed_segments()) == 3
    return folder, written


@pytest.fixture
async def killed(tmp_path: Path) -> tuple[Path, Written]:
    """A spool whose writer was killed: 2 closed segments and 3 records in the open one."""
    folder = tmp_path / "spool"
    log = open_spool(folder)
    written = await fill(log, 2 * PER_SEGMENT + 3, size=SIZE, events=EVENTS)
    aside = tmp_path / "as killed"
    shutil.copytree(folder, aside)
    await log.close()
    shutil.rmtree(folder)
    aside.rename(folder)
    return folder, written


def open_spool(folder: Path, **settings: object) -> SpoolLog:
    return SpoolLog.open(SpoolConfig(dir=folder, segment_bytes=SEGMENT, tick_interval=3600.0, **settings))  # type: ignore[arg-type]


def segment(folder: Path, index: int) -> Path:
    return sorted((folder / "segments").iterdir())[index]


def record_at(index: int) -> int:
    return SEGMENT_HEADER_BYTES + index * RECORD


def edit(path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def flip(path: Path, offset: int) -> None:
    def change(content: bytearray) -> None:
        content[offset] ^= 0x10

    edit(path, change)


def read(reader: SpoolReader, **options: object) -> Written:
    return [(record.seq, record.payload) for record in reader.read(0, max_events=10**6, max_bytes=10**9, **options)]  # type: ignore[arg-type]


def without(written: Written, *indexes: int) -> Written:
    return [item for index, item in enumerate(written) if index not in indexes]


async def survives(folder: Path, expected: Written, **settings: object) -> SpoolLog:
    """A writer starts on the damaged folder, everything whole is read, and what comes next is read after it."""
    log = open_spool(folder, **settings)
    try:
        seq = await log.append(b"after the damage", 2)
        assert read(log.reader(), closed_only=False) == [*expected, (seq, b"after the damage")]
    finally:
        await log.close()
    return log


# ------------------------------------------------------------------------------------------------------- closed segments


async def test_a_flipped_bit_in_a_body_hides_more_than_its_record(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    flip(segment(folder, 1), record_at(2) + RECORD_HEADER_BYTES + 17)
    reader = SpoolReader(folder)
    assert read(reader) == without(written, 7)
    assert (reader.ledger.pieces, reader.ledger.events) == (1, EVENTS)
    await survives(folder, without(written, 7))


async def test_a_flipped_bit_in_a_length_makes_the_rest_unreadable(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    flip(segment(folder, 0), record_at(0) + 5)
    reader = SpoolReader(folder)
    assert read(reader) == without(written, 0)
    assert (reader.ledger.pieces, reader.ledger.events) == (1, EVENTS)
    await survives(folder, without(written, 0))


async def test_a_flipped_bit_in_a_sequence_number_is_believed(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    flip(segment(folder, 0), record_at(4) + 8)
    reader = SpoolReader(folder)
    assert read(reader) == without(written, 4)
    assert (reader.ledger.pieces, reader.ledger.events) == (1, EVENTS)


async def test_a_zeroed_page_stops_the_reader(spool: tuple[Path, Written]) -> None:
    folder, written = spool

    def zero(content: bytearray) -> None:
        content[record_at(1) + 20 : record_at(3) + 20] = bytes(2 * RECORD)

    edit(segment(folder, 1), zero)
    reader = SpoolReader(folder)
    assert read(reader) == without(written, 6, 7, 8)
    assert reader.ledger.events == 3 * EVENTS
    await survives(folder, without(written, 6, 7, 8))


async def test_garbage_between_records_costs_a_record(spool: tuple[Path, Written]) -> None:
    folder, written = spool

    def insert(content: bytearray) -> None:
        content[record_at(2) : record_at(2)] = b"\xf5TMR garbage \xf5TMR" * 9

    edit(segment(folder, 1), insert)
    reader = SpoolReader(folder)
    assert read(reader) == written
    assert (reader.ledger.pieces, reader.ledger.events) == (1, 0)
    await survives(folder, written)


async def test_bytes_cut_out_of_a_record_cost_the_next_one_too(spool: tuple[Path, Written]) -> None:
    folder, written = spool

    def cut(content: bytearray) -> None:
        del content[record_at(1) + 60 : record_at(1) + 90]

    edit(segment(folder, 0), cut)
    reader = SpoolReader(folder)
    assert read(reader) == without(written, 1)
    assert reader.ledger.events == EVENTS


async def test_a_record_of_another_place_passes_for_one(spool: tuple[Path, Written]) -> None:
    """A block of a deleted segment, or what a client put into a gzip header to look like a record."""
    folder, written = spool
    foreign = segment(folder, 2).read_bytes()[record_at(0) : record_at(1)]

    def overwrite(content: bytearray) -> None:
        content[record_at(1) : record_at(2)] = foreign

    edit(segment(folder, 0), overwrite)
    assert read(SpoolReader(folder)) == without(written, 1)


@pytest.mark.parametrize("kept", [0, 7, SEGMENT_HEADER_BYTES - 1])
async def test_a_truncated_segment_header_stops_the_start(spool: tuple[Path, Written], kept: int) -> None:
    folder, written = spool
    edit(segment(folder, 1), lambda content: content.__delitem__(slice(kept, None)))
    reader = SpoolReader(folder)
    assert read(reader) == without(written, *range(5, 10))
    assert reader.ledger.events == PER_SEGMENT * EVENTS
    await survives(folder, without(written, *range(5, 10)))


async def test_a_wrong_magic_hides_the_records_behind_it(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    edit(segment(folder, 1), lambda content: content.__setitem__(slice(0, 8), b"NOTSPOOL"))
    reader = SpoolReader(folder)
    assert read(reader) == written
    assert (reader.ledger.pieces, reader.ledger.events) == (1, 0)
    await survives(folder, written)


async def test_a_wrong_version_stops_the_start(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    flip(segment(folder, 1), 8)
    reader = SpoolReader(folder)
    assert read(reader) == written
    assert reader.ledger.pieces == 1
    await survives(folder, written)


async def test_a_spool_of_a_newer_program_is_written_into(spool: tuple[Path, Written]) -> None:
    folder, _ = spool
    identity = json.loads((folder / "spool.json").read_text())
    (folder / "spool.json").write_text(json.dumps(identity | {"format": 2}))
    with pytest.raises(SpoolError, match="format 2, this program reads 1"):
        open_spool(folder)


async def test_a_missing_segment_stops_the_reader_or_goes_uncounted(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    segment(folder, 1).unlink()
    reader = SpoolReader(folder)
    assert read(reader) == without(written, *range(5, 10))
    assert reader.ledger.events == PER_SEGMENT * EVENTS
    await survives(folder, without(written, *range(5, 10)))


async def test_segments_gone_before_a_readers_checkpoint_go_uncounted(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    for _ in range(2):
        segment(folder, 0).unlink()
    reader = SpoolReader(folder)
    records = [(record.seq, record.payload) for record in reader.read(9, max_events=10**6)]
    assert records == written[10:]
    assert reader.ledger.events == 30 - 9


async def test_a_missing_identity_makes_another_spool_of_it(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    spool_id = SpoolReader(folder).spool_id
    (folder / "spool.json").write_bytes(b"\0" * 66)
    log = await survives(folder, written)
    assert log.spool_id == spool_id == SpoolReader(folder).spool_id


@pytest.mark.parametrize("suffix", ["open", "seg"])
async def test_a_copy_of_a_segment_under_another_name_repeats_or_hides_records(spool: tuple[Path, Written], suffix: str) -> None:
    folder, written = spool
    shutil.copy(segment(folder, 0), folder / "segments" / f"{22:020d}.{suffix}")
    assert read(SpoolReader(folder)) == written
    resumed = SpoolReader(folder)
    assert [(record.seq, record.payload) for record in resumed.read(24, max_events=10**6)] == written[8:]
    await survives(folder, written)


async def test_a_copy_of_a_segment_at_the_end_sets_the_numbering_wrong(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    copy = folder / "segments" / f"{500:020d}.seg"
    shutil.copy(segment(folder, 0), copy)
    log = open_spool(folder)
    assert await log.append(b"next", 1) == 3 * PER_SEGMENT * EVENTS + 1
    assert read(log.reader(), closed_only=False)[:-1] == written
    await log.close()
    assert (folder / "corrupt" / copy.name).exists()


async def test_a_segment_with_both_names_is_read_twice(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    shutil.copy(segment(folder, 1), segment(folder, 1).with_suffix(".open"))
    assert read(SpoolReader(folder)) == written
    await survives(folder, written)


async def test_a_foreign_file_stops_the_start(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    for name in ("README", "000.seg", "00000000000000000001.seg~", ".00000000000000000001.seg.tmp"):
        (folder / "segments" / name).write_bytes(b"something else")
    await survives(folder, written)


async def test_an_unreadable_sector_costs_more_than_its_records(spool: tuple[Path, Written]) -> None:
    folder, written = spool

    class BadSector(Filesystem):
        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            if fd in bad:
                raise OSError(errno.EIO, "Input/output error")
            return super().read_at(fd, length, offset)

        def open(self, path: Path, flags: int) -> int:
            fd = super().open(path, flags)
            (bad.add if path == segment(folder, 0) else bad.discard)(fd)
            return fd

    bad: set[int] = set()
    reader = SpoolReader(folder, filesystem=BadSector())
    assert read(reader) == written[5:]
    assert reader.ledger.events == PER_SEGMENT * EVENTS


async def test_damage_is_not_kept_for_whoever_wants_to_look(spool: tuple[Path, Written]) -> None:
    folder, _ = spool
    flip(segment(folder, 1), record_at(2) + RECORD_HEADER_BYTES)
    damaged = segment(folder, 1).read_bytes()[record_at(2) : record_at(3)]
    for _ in range(2):
        read(SpoolReader(folder))
    (kept,) = (folder / "corrupt").iterdir()
    assert kept.read_bytes() == damaged


async def test_a_reader_waits_for_ever_for_what_is_lost_at_the_end(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    for index in (3, 4):
        flip(segment(folder, 2), record_at(index) + RECORD_HEADER_BYTES)
    reader = SpoolReader(folder)
    last_whole = written[12][0] + EVENTS - 1
    assert list(reader.read(last_whole)) == []
    assert reader.skip_lost(last_whole) == 3 * PER_SEGMENT * EVENTS == reader.closed_segments()[-1].last_seq
    assert reader.skip_lost(0) == 0, "there is something to read"
    assert reader.skip_lost(45) == 45, "nothing is lost, only yet to come"
    log = open_spool(folder)
    assert log.reader().skip_lost(last_whole, closed_only=False) == log.durable_seq
    await log.close()


async def test_a_reader_waits_for_ever_for_what_is_lost_in_the_open_segment(killed: tuple[Path, Written]) -> None:
    folder, _ = killed
    log = open_spool(folder)
    flip(segment(folder, 2), record_at(2) + RECORD_HEADER_BYTES)
    last_whole = log.durable_seq - EVENTS
    reader = log.reader()
    assert list(reader.read(last_whole, closed_only=False)) == []
    assert reader.skip_lost(last_whole, closed_only=False) == log.durable_seq
    assert reader.skip_lost(last_whole) == last_whole
    await log.close()


async def test_two_readers_count_the_same_damage_twice(spool: tuple[Path, Written]) -> None:
    folder, _ = spool
    flip(segment(folder, 1), record_at(2) + RECORD_HEADER_BYTES)
    log = open_spool(folder)
    for _ in range(2):
        read(log.reader())
    stats = log.stats()
    assert (stats.damaged_pieces, stats.damaged_events) == (1, EVENTS)
    await log.close()


# --------------------------------------------------------------------------------------------------------- the open segment


@pytest.mark.parametrize("kept", [1, RECORD_HEADER_BYTES - 1, RECORD_HEADER_BYTES, RECORD - 1])
async def test_a_torn_record_at_the_tail_stops_the_start(killed: tuple[Path, Written], kept: int) -> None:
    folder, written = killed
    edit(segment(folder, 2), lambda content: content.__delitem__(slice(record_at(2) + kept, None)))
    log = await survives(folder, written[:-1])
    assert (log.ledger.pieces, log.ledger.events) == (1, 0)
    assert len(list((folder / "corrupt").iterdir())) == 1


async def test_a_torn_tail_is_counted_at_every_start(killed: tuple[Path, Written], tmp_path: Path) -> None:
    folder, _ = killed
    edit(segment(folder, 2), lambda content: content.__delitem__(slice(record_at(2) + 130, None)))
    log = open_spool(folder)
    await log.append(b"short", 1)
    aside = tmp_path / "killed again"
    shutil.copytree(folder, aside)
    await log.close()
    again = open_spool(aside)
    assert again.ledger.pieces == 0
    await again.close()


async def test_a_corrupt_record_at_the_tail_is_not_counted(killed: tuple[Path, Written]) -> None:
    folder, written = killed
    flip(segment(folder, 2), record_at(2) + RECORD_HEADER_BYTES)
    log = await survives(folder, written[:-1])
    assert (log.ledger.pieces, log.ledger.events) == (1, EVENTS)


async def test_zeros_that_a_crash_left_at_the_tail_stop_the_start(killed: tuple[Path, Written]) -> None:
    folder, written = killed
    edit(segment(folder, 2), lambda content: content.extend(bytes(5000)))
    await survives(folder, written)


async def test_damage_in_the_middle_of_the_open_segment_cuts_off_what_follows(killed: tuple[Path, Written]) -> None:
    folder, written = killed
    flip(segment(folder, 2), record_at(1) + RECORD_HEADER_BYTES)
    await survives(folder, without(written, 11))


@pytest.mark.parametrize("kept", [0, 10, SEGMENT_HEADER_BYTES])
async def test_an_empty_open_segment_stops_the_start(killed: tuple[Path, Written], kept: int) -> None:
    folder, written = killed
    edit(segment(folder, 2), lambda content: content.__delitem__(slice(kept, None)))
    log = open_spool(folder)
    assert await log.append(b"next", 1) == written[10][0]
    assert read(log.reader(), closed_only=False) == [*written[:10], (written[10][0], b"next")]
    await log.close()


async def test_a_torn_header_of_the_open_segment_hides_its_records(killed: tuple[Path, Written]) -> None:
    folder, written = killed
    flip(segment(folder, 2), 20)
    await survives(folder, written)


async def test_a_lost_open_segment_gives_numbers_out_twice(killed: tuple[Path, Written]) -> None:
    folder, written = killed
    store_checkpoint(folder, "lake", written[-1][0] + EVENTS - 1)
    segment(folder, 2).unlink()
    log = open_spool(folder, readers=("lake",))
    assert await log.append(b"next", 1) == written[-1][0] + EVENTS
    await log.close()


# -------------------------------------------------------------------------------------------------------------- checkpoints


async def test_a_corrupt_checkpoint_loses_events(spool: tuple[Path, Written], caplog: pytest.LogCaptureFixture) -> None:
    folder, _ = spool
    store_checkpoint(folder, "lake", 6)
    store_checkpoint(folder, "lake", 30)
    flip(folder / "checkpoints" / "lake.json", 20)
    assert load_checkpoint(folder, "lake") == 6
    assert "will deliver some events twice" in caplog.text
    (folder / "checkpoints" / "lake.json.prev").write_bytes(b"")
    assert load_checkpoint(folder, "lake") == 0
    log = open_spool(folder, readers=("lake",))
    await log.tick()
    assert log.stats().oldest_seq == 1
    await log.close()


async def test_a_corrupt_checkpoint_can_never_be_replaced(spool: tuple[Path, Written]) -> None:
    folder, _ = spool
    store_checkpoint(folder, "lake", 30)
    (folder / "checkpoints" / "lake.json").write_bytes(b"\0" * 100)
    assert store_checkpoint(folder, "lake", 9) == 9
    assert load_checkpoint(folder, "lake") == 9


async def test_a_checkpoint_ahead_of_the_log_swallows_new_events(spool: tuple[Path, Written]) -> None:
    folder, written = spool
    store_checkpoint(folder, "lake", 1000)
    log = open_spool(folder, readers=("lake",))
    seq = await log.append(b"new", 1)
    assert seq == 1001
    assert [record.payload for record in log.reader().read(1000, closed_only=False)] == [b"new"]
    await log.close()
    assert read(SpoolReader(folder))[: len(written)] == written


async def test_a_checkpoint_of_another_spool_is_believed(spool: tuple[Path, Written], tmp_path: Path) -> None:
    folder, _ = spool
    other = tmp_path / "other"
    await open_spool(other).close()
    store_checkpoint(other, "lake", 40)
    shutil.copytree(other / "checkpoints", folder / "checkpoints", dirs_exist_ok=True)
    assert load_checkpoint(folder, "lake") == 0


async def test_a_leftover_temporary_file_stops_a_checkpoint(spool: tuple[Path, Written]) -> None:
    folder, _ = spool
    (folder / "checkpoints" / ".lake.json.tmp").write_bytes(b"half a check")
    store_checkpoint(folder, "lake", 5)
    assert load_checkpoint(folder, "lake") == 5
    await open_spool(folder).close()


async def test_a_crash_between_the_renames_of_a_checkpoint_loses_it(spool: tuple[Path, Written]) -> None:
    folder, _ = spool
    store_checkpoint(folder, "lake", 5)
    (folder / "checkpoints" / "lake.json").rename(folder / "checkpoints" / "lake.json.prev")
    assert load_checkpoint(folder, "lake") == 5


async def test_a_checkpoint_moves_back(spool: tuple[Path, Written]) -> None:
    folder, _ = spool
    assert store_checkpoint(folder, "lake", 20) == 20
    assert store_checkpoint(folder, "lake", 10) == 20
    assert load_checkpoint(folder, "lake") == 20


@pytest.mark.parametrize("name", ["", "../lake", ".hidden", "a/b", "x" * 65, "lake\n"])
def test_a_readers_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidReaderName, match="expected 1 to 64 letters"):
        store_checkpoint(tmp_path, name, 1)


async def test_the_backlog_is_read_at_start(spool: tuple[Path, Written], open_log: OpenLog) -> None:
    folder, _ = spool

    class Counting(Filesystem):
        opened: list[str] = []  # noqa: RUF012 - one instance

        def open(self, path: Path, flags: int) -> int:
            self.opened.append(path.name)
            return super().open(path, flags)

    filesystem = Counting()
    log = open_log(filesystem=filesystem, dir=folder)
    assert not [name for name in filesystem.opened if name.endswith(".seg")]
    await log.close()
